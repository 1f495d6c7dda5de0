"""The target of relayed pipes: comes to the relay when a client waits for it there."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable

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
ACCEPT_RATE, ACCEPT_BURST = 50.0, 256.0
"""Pipes that one relay may have us accept per second, and at once after a quiet time: each costs us a connection."""
CLIENT_RATE, CLIENT_BURST = 5.0, 64.0
"""The same for one client at one relay, so that it does not use up the relay's: as many as it may have open (64), which
it opens again when its network has changed."""

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
        self._rates: dict[Hashable, TokenBucket] = {}  # without those that are full

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
        request = _parse(relay, message)
        address = self._address_of(lease)
        if not self._may_accept(relay, request.client, now):
            logger.info("relayed pipe not accepted relay=%s reason=too many at one time", relay)
            return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_BUSY).SerializeToString()
        try:
            task = self._tasks.start(self._come(relay, address, encode_accept(request.session, request.secret)))
        except RuntimeError as error:
            raise NetworkError("the node is closing") from error
        self._accepting[relay] += 1
        task.add_done_callback(lambda _: self._done(relay))
        return relay_pb2.AcceptResponse(answer=relay_pb2.ACCEPT_ANSWER_COMING).SerializeToString()

    def _may_accept(self, relay: PeerId, client: bytes, now: float) -> bool:
        if self._accepting[relay] >= MAX_ACCEPTING_PER_RELAY or self.accepting >= MAX_ACCEPTING:
            return False
        self._rates = {who: rate for who, rate in self._rates.items() if rate.available(now) < rate.burst}
        rates = (
            self._rates.get(relay) or TokenBucket(ACCEPT_RATE, ACCEPT_BURST, now),
            self._rates.get((relay, client)) or TokenBucket(CLIENT_RATE, CLIENT_BURST, now),
        )
        if not all(rate.available(now) for rate in rates):
            return False
        for who, rate in zip((relay, (relay, client)), rates, strict=True):
            rate.spend(1)
            self._rates[who] = rate
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

    async def _come(self, relay: PeerId, address: PeerAddress, preface: bytes) -> None:
        try:
            sock = await connect_tcp(address)
            try:
                await introduce(sock, preface, JOIN_TIMEOUT_S)
            except BaseException:
                sock.close()
                raise
            await self._accept(sock, address, relay)
        except (NetworkError, OSError) as error:
            logger.info("relayed pipe not accepted relay=%s reason=%s", relay, describe(error))
        except Exception:  # a fault of ours must not cost the node its other tasks
            logger.exception("relayed pipe failed relay=%s", relay)


def _parse(relay: PeerId, message: bytes) -> relay_pb2.AcceptRequest:
    request = relay_pb2.AcceptRequest()
    try:
        request.ParseFromString(message)
        PeerId(request.client)
    except (DecodeError, AddressError) as error:
        raise RemoteProtocolError("malformed request to accept a pipe", relay) from error
    if len(request.session) != SESSION_BYTES or len(request.secret) != SECRET_BYTES:
        raise RemoteProtocolError("request to accept a pipe without a session", relay)
    return request
