"""Being reached, and reaching others, through relays: reservations, circuits that we dial, circuits that we take.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from lattica.errors import NetworkError, RemoteProtocolError, StreamError
from lattica.identity import PeerAddress, PeerId
from lattica.swarm.connection import Connection
from lattica.swarm.mux import MuxStream
from lattica.swarm.raw import StreamConnection
from lattica.swarm.relay_wire import (
    HOP,
    MAX_RELAY_MESSAGE,
    ConnectRequest,
    RelayStatus,
    StatusMessage,
    decode_hop,
    decode_stop,
    encode_hop_connect,
    encode_reserve,
    encode_stop_status,
    framed,
)

logger = logging.getLogger(__name__)

RESERVE_TIMEOUT_S = 10.0
"""Seconds for a relay's answer to a request for a reservation."""
DIAL_TIMEOUT_S = 20.0
"""Seconds for a relay's answer to a request for a circuit: it has to ask the target."""
STOP_READ_TIMEOUT_S = 10.0
"""Seconds that a relay has to say who wants a circuit."""
MIN_RESERVATION_S = 10.0
MAX_RESERVATION_S = 24 * 3600.0
"""Bounds on how long a reservation is said to hold: the relay says it by its own clock, which may be wrong."""

TakeCircuit = Callable[[StreamConnection, PeerAddress, PeerId], Awaitable[None]]
"""Makes a connection of an inbound circuit, whose other end is said to be the peer; raises `NetworkError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A relay's promise to let others reach us through it, while we stay connected to it.

    Attributes:
        relay: The relay.
        addresses: Where we can be reached, as circuit addresses of ours.
        expires_in: Seconds that it holds.
        limit_duration: Seconds that a circuit may last; 0 means without end.
        limit_data: Bytes that may go in each direction of a circuit; 0 means any number.
    """

    relay: PeerId
    addresses: tuple[PeerAddress, ...]
    expires_in: float
    limit_duration: int
    limit_data: int


class RelayClient:
    """The client's side of the protocol, in trio."""

    def __init__(
        self,
        us: PeerId,
        *,
        connection_to: Callable[[PeerId], Connection | None],
        has_room: Callable[[], bool],
        take_circuit: TakeCircuit,
    ) -> None:
        """A client.

        Args:
            us: Our own peer ID.
            connection_to: The direct connection to a peer, if there is one.
            has_room: Whether one more connection may come in.
            take_circuit: What becomes of circuits to us.
        """
        self._us = us
        self._connection_to = connection_to
        self._has_room = has_room
        self._take_circuit = take_circuit
        self._relays: dict[PeerId, int] = {}

    def peer_left(self, peer: PeerId) -> None:
        """There is no direct connection to ``peer`` any more: what it promised is void."""
        self._relays.pop(peer, None)

    # Reservations

    async def reserve(self, relay: PeerId) -> Reservation:
        """Ask a connected relay to let others reach us through it, or to go on doing so.

        Raises:
            StreamError: There is no direct connection, or the relay is none, or refused, or did not answer.
            RemoteProtocolError: Its answer makes no sense.
        """
        connection = self._connection(relay)
        # From here on, not from its answer on: the first circuit may overtake that.
        self._relays[relay] = self._relays.get(relay, 0) + 1
        try:
            with trio.fail_after(RESERVE_TIMEOUT_S):
                stream = await connection.open_stream(HOP, framed(encode_reserve()))
                answer = await _answer(stream)
                await stream.finish()
            reservation = self._reservation(connection, answer)
        except trio.TooSlowError as error:
            self._withdraw(relay)
            raise StreamError(f"no answer to a reservation within {RESERVE_TIMEOUT_S:.0f} s") from error
        except BaseException:
            self._withdraw(relay)
            raise
        return reservation

    def _withdraw(self, relay: PeerId) -> None:
        """An attempt has failed; an earlier reservation may still hold."""
        if self._relays.get(relay) == 1:
            del self._relays[relay]
        elif relay in self._relays:
            self._relays[relay] -= 1

    def _reservation(self, connection: Connection, answer: StatusMessage) -> Reservation:
        relay = connection.info.peer_id
        _check(answer, "reservation", relay)
        if answer.expire is None:
            raise RemoteProtocolError("a reservation without an end", relay)
        addresses = [address for address in answer.addresses if address.peer_id == relay and not address.is_circuit]
        circuits = [PeerAddress.circuit(address) for address in addresses or [connection.info.remote]]
        return Reservation(
            relay=relay,
            addresses=tuple(dict.fromkeys(circuit.with_peer(self._us) for circuit in circuits)),
            expires_in=min(max(answer.expire - time.time(), MIN_RESERVATION_S), MAX_RESERVATION_S),
            limit_duration=answer.limit.duration,
            limit_data=answer.limit.data,
        )

    # Circuits that we dial

    async def dial(self, relay: PeerId, peer: PeerId, address: PeerAddress) -> StreamConnection:
        """A circuit to ``peer``, through a connected relay. Whoever gets it runs `StreamConnection.hold`.

        Raises:
            NetworkError: In words, what the relay answered.
        """
        connection = self._connection(relay)
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                stream = await connection.open_stream(HOP, framed(encode_hop_connect(peer)), circuit=True)
                answer = await _answer(stream)
                try:
                    _check(answer, "circuit", relay)
                except BaseException:
                    await stream.finish()
                    raise
        except trio.TooSlowError as error:
            raise StreamError(f"the relay did not answer within {DIAL_TIMEOUT_S:.0f} s") from error
        return StreamConnection(stream, initiator=True, remote=address)

    def _connection(self, relay: PeerId) -> Connection:
        connection = self._connection_to(relay)
        if connection is None:
            raise StreamError(f"not connected to the relay {relay}")
        return connection

    # Circuits that others dial

    async def serve_stop(self, stream: MuxStream) -> None:
        """Take one circuit from a relay at which we have reserved, and serve it to its end."""
        try:
            with trio.fail_after(STOP_READ_TIMEOUT_S):
                raw = await stream.read_message(MAX_RELAY_MESSAGE)
        except trio.TooSlowError as error:
            raise StreamError(f"no circuit request within {STOP_READ_TIMEOUT_S:.0f} s") from error
        if raw is None:
            return
        status, message = self._decide(stream, raw)
        await stream.write_message(encode_stop_status(status))
        if message is None:
            logger.info("circuit refused relay=%s status=%s", stream.peer, status.name.lower())
            return
        stream.carry_circuit()
        remote = PeerAddress.circuit(stream.remote)
        circuit = StreamConnection(stream, initiator=False, remote=remote.with_peer(message.peer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(circuit.hold)
            try:
                await self._take_circuit(circuit, remote, message.peer)
            except NetworkError as error:
                logger.info("circuit dropped relay=%s peer=%s reason=%s", stream.peer, message.peer, error)
                circuit.abort()

    def _decide(self, stream: MuxStream, raw: bytes) -> tuple[RelayStatus, ConnectRequest | None]:
        if stream.peer not in self._relays or stream.remote.is_circuit:
            return RelayStatus.PERMISSION_DENIED, None
        try:
            message = decode_stop(raw, stream.peer)
        except RemoteProtocolError:
            return RelayStatus.MALFORMED_MESSAGE, None
        if not isinstance(message, ConnectRequest) or message.peer == self._us:
            return RelayStatus.UNEXPECTED_MESSAGE, None
        if not self._has_room():
            return RelayStatus.RESOURCE_LIMIT_EXCEEDED, None
        return RelayStatus.OK, message


async def _answer(stream: MuxStream) -> StatusMessage:
    """A relay's answer on a stream that is ours; the stream is dropped if there is none."""
    try:
        raw = await stream.read_message(MAX_RELAY_MESSAGE)
        if raw is None:
            raise StreamError("the relay closed the stream without an answer")
        message = decode_hop(raw, stream.peer)
        if not isinstance(message, StatusMessage):
            raise RemoteProtocolError("a relay that asks instead of answering", stream.peer)
    except BaseException:
        await stream.reset()
        raise
    return message


def _check(answer: StatusMessage, what: str, relay: PeerId) -> None:
    if answer.status is None:
        raise RemoteProtocolError("a relay's answer without a status that we know", relay)
    if answer.status is not RelayStatus.OK:
        raise StreamError(f"the relay refused the {what} ({answer.status.name}): {answer.status.words}")
