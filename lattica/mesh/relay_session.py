"""A client that waits at the relay, until its target has come."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket

from google.protobuf.message import DecodeError

from lattica._proto import relay_pb2
from lattica.background import background_tasks
from lattica.errors import NetworkError, StreamError
from lattica.identity import PeerId
from lattica.mesh.relay_limits import Place
from lattica.mesh.relay_wire import SECRET_BYTES, SESSION_BYTES, RelayRefusedError, RelayStatus, RelayToken
from lattica.swarm import ConnectionInfo, Swarm

logger = logging.getLogger(__name__)

RELAY_ACCEPT_PROTOCOL = "/lattica/relay-accept/1.0.0"
MAX_RELAY_MESSAGE = 1024
"""Bytes of a request or response of the relay's protocols; the longest, a refusal, takes about 100."""


class ClientLeftError(NetworkError):
    """The client hung up, or spoke out of turn, before its target came."""


class RelaySession:
    """One client and, when it has come, its target.

    Attributes:
        token: What the client showed.
        place: In the ledger.
        client: The client's socket.
        id: Names the session to the target; random.
    """

    def __init__(self, token: RelayToken, place: Place, client: socket.socket) -> None:
        self.token = token
        self.place = place
        self.client = client
        self.id = secrets.token_bytes(SESSION_BYTES)
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._target: socket.socket | None = None
        self._failure: NetworkError | None = None
        self._settled = asyncio.Event()

    def take_target(self, sock: socket.socket, secret: bytes) -> bool:
        """The target's socket, from now on the session's; false if it does not know the secret, or comes too late."""
        if self._settled.is_set() or not hmac.compare_digest(secret, self._secret):
            return False
        self._target = sock
        self._settled.set()
        return True

    def fail(self, failure: NetworkError) -> None:
        """There will be no target; nothing happens if it has come."""
        if not self._settled.is_set():
            self._failure = failure
            self._settled.set()

    def close(self) -> None:
        """Close the sockets."""
        self.client.close()
        if self._target is not None:
            self._target.close()

    async def wait_target(self, swarm: Swarm, seconds: float) -> socket.socket:
        """Call the target, and return its socket when it has come.

        Raises:
            RelayRefusedError: It does not come.
            ClientLeftError: The client did not wait.
        """
        loop = asyncio.get_running_loop()

        def client_stirred() -> None:
            # It has nothing to say before our answer: mostly it has gone. It would be told again and again.
            loop.remove_reader(self.client)
            self.fail(ClientLeftError("the client did not wait"))

        loop.add_reader(self.client, client_stirred)
        try:
            async with asyncio.timeout(seconds), background_tasks() as tasks:
                tasks.start(self._call_target(swarm))
                await self._settled.wait()
        except TimeoutError as error:
            raise RelayRefusedError(RelayStatus.TARGET_SILENT) from error
        finally:
            loop.remove_reader(self.client)
        if self._target is None:
            raise self._failure or RelayRefusedError(RelayStatus.TARGET_SILENT)
        return self._target

    async def _call_target(self, swarm: Swarm) -> None:
        """Tell the target that a client waits."""
        target = self.token.target
        request = relay_pb2.AcceptRequest(session=self.id, secret=self._secret, client=self.token.client.raw)
        try:
            answer = await _ask(swarm, target, request.SerializeToString())
            response = relay_pb2.AcceptResponse.FromString(answer)
        except (NetworkError, DecodeError) as error:
            logger.debug("target did not answer peer=%s reason=%s", target, error)
            here = swarm.is_connected(target)
            self.fail(RelayRefusedError(RelayStatus.TARGET_REFUSES if here else RelayStatus.TARGET_GONE))
            return
        if response.answer == relay_pb2.ACCEPT_ANSWER_BUSY:
            self.fail(RelayRefusedError(RelayStatus.TARGET_BUSY))
        elif response.answer != relay_pb2.ACCEPT_ANSWER_COMING:
            self.fail(RelayRefusedError(RelayStatus.TARGET_REFUSES))


async def _ask(swarm: Swarm, target: PeerId, request: bytes) -> bytes:
    """The target's answer; if it connects anew meanwhile, because it has lost its connection, it is asked there."""
    while True:
        asked = _newest_connection(swarm, target)
        try:
            return await swarm.request(target, RELAY_ACCEPT_PROTOCOL, request, MAX_RELAY_MESSAGE)
        except StreamError:
            if _newest_connection(swarm, target) in {None, asked}:
                raise


def _newest_connection(swarm: Swarm, peer: PeerId) -> ConnectionInfo | None:
    return next((info for info in reversed(swarm.connections()) if info.peer_id == peer), None)
