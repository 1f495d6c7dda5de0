"""The target of relayed pipes: comes to the relay when a client waits for it there."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from google.protobuf.message import DecodeError

from lattica._proto import relay_pb2
from lattica.background import Background
from lattica.errors import AddressError, NetworkError, RemoteProtocolError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.pipes import connect_tcp, describe
from lattica.mesh.relay_client import JOIN_TIMEOUT_S, RelayLease, introduce
from lattica.mesh.relay_session import MAX_RELAY_MESSAGE, RELAY_ACCEPT_PROTOCOL
from lattica.mesh.relay_wire import SECRET_BYTES, SESSION_BYTES, encode_accept
from lattica.mesh.token_bucket import TokenBucket
from lattica.swarm import Direction, Swarm

logger = logging.getLogger(__name__)

MAX_ACCEPTING_PER_RELAY = 64
"""Pipes of one relay that are being accepted, up to the proof of their client: one client may open so many at once."""
MAX_ACCEPTING = 128
"""The same for all relays together."""
ACCEPT_RATE = 50.0
"""Pipes that one relay may have us accept per second, on average: each costs us a connection."""
ACCEPT_BURST = 200.0
"""Pipes that it may have us accept at once, after a quiet time."""

Accept = Callable[[socket.socket, PeerAddress, PeerId], Awaitable[None]]
"""Takes over an inbound pipe, its first byte unread: socket, the relay's address, the relay.

It owns the socket, and returns when its client has proven who it is, or raises `NetworkError`.
"""


class Acceptor:
    """Accepts pipes through the relays at which we hold a lease.

    Args:
        swarm: Our control plane.
        lease_at: Our lease at a relay, if we hold one.
        accept: Takes over the pipes.
        tasks: In which the dials run.
    """

    def __init__(
        self, swarm: Swarm, lease_at: Callable[[PeerId], RelayLease | None], accept: Accept, tasks: Background
    ) -> None:
        self._swarm = swarm
        self._lease_at = lease_at
        self._accept = accept
        self._tasks = tasks
        self._accepting: Counter[PeerId] = Counter()
        self._rates: dict[PeerId, TokenBucket] = {}

    def serve(self) -> None:
        """Come when a relay calls."""
        self._swarm.serve_requests(RELAY_ACCEPT_PROTOCOL, self._called, MAX_RELAY_MESSAGE)

    def stop_serving(self) -> None:
        """Come no more; what is being accepted goes on."""
        self._swarm.stop_serving(RELAY_ACCEPT_PROTOCOL)

    @property
    def accepting(self) -> int:
        """Pipes that are being accepted."""
        return self._accepting.total()

    async def _called(self, relay: PeerId, message: bytes) -> bytes:
        now = time.monotonic()
        lease = self._lease_at(relay)
        if lease is None or now >= lease.expires_at:
            raise RemoteProtocolError("asks us to accept pipes without a lease", relay)
        session, secret = _parse(relay, message)
        address = self._address_of(lease)
        if not self._may_accept(relay, now):
            logger.info("relayed pipe not accepted relay=%s reason=too many at one time", relay)
            return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_BUSY).SerializeToString()
        try:
            task = self._tasks.start(self._come(relay, address, session, secret))
        except RuntimeError as error:
            raise NetworkError("the node is closing") from error
        self._accepting[relay] += 1
        task.add_done_callback(lambda _: self._done(relay))
        return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_COMING).SerializeToString()

    def _may_accept(self, relay: PeerId, now: float) -> bool:
        if self._accepting[relay] >= MAX_ACCEPTING_PER_RELAY or self.accepting >= MAX_ACCEPTING:
            return False
        self._rates = {one: rate for one, rate in self._rates.items() if rate.available(now) < ACCEPT_BURST}
        rate = self._rates.setdefault(relay, TokenBucket(ACCEPT_RATE, ACCEPT_BURST, now))
        if not rate.available(now):
            return False
        rate.spend(1)
        return True

    def _done(self, relay: PeerId) -> None:
        self._accepting[relay] -= 1
        if not self._accepting[relay]:
            del self._accepting[relay]

    def _address_of(self, lease: RelayLease) -> PeerAddress:
        """Where we dialled the relay; if it dialled us, what it says of itself, as long as it is on the same machine.

        So a relay has us connect to nothing but itself.
        """
        connections = [info for info in self._swarm.connections() if info.peer_id == lease.relay]
        for info in connections:
            if info.direction is Direction.OUTBOUND and info.remote.is_tcp:
                return info.remote
        hosts = {info.remote.host for info in connections}
        for address in lease.addresses:
            if address.host in hosts:
                return address
        raise NetworkError(f"no address of the relay {lease.relay} is known to be its own")

    async def _come(self, relay: PeerId, address: PeerAddress, session: bytes, secret: bytes) -> None:
        try:
            sock = await connect_tcp(address)
            try:
                await introduce(sock, encode_accept(session, secret), JOIN_TIMEOUT_S)
            except BaseException:
                sock.close()
                raise
            await self._hand_over(sock, address, relay)
        except (NetworkError, OSError, TimeoutError) as error:
            logger.info("relayed pipe not accepted relay=%s reason=%s", relay, describe(error))

    async def _hand_over(self, sock: socket.socket, address: PeerAddress, relay: PeerId) -> None:
        try:
            await self._accept(sock, address, relay)
        except (NetworkError, OSError, TimeoutError, asyncio.CancelledError):
            raise
        except Exception:  # a fault of ours must not cost the node its other tasks
            logger.exception("relayed pipe failed relay=%s", relay)
            sock.close()


def _parse(relay: PeerId, message: bytes) -> tuple[bytes, bytes]:
    request = relay_pb2.AcceptRequest()
    try:
        request.ParseFromString(message)
        PeerId(request.client)
    except (DecodeError, AddressError) as error:
        raise RemoteProtocolError("malformed request to accept a pipe", relay) from error
    if len(request.session) != SESSION_BYTES or len(request.secret) != SECRET_BYTES:
        raise RemoteProtocolError("request to accept a pipe without a session", relay)
    return request.session, request.secret
