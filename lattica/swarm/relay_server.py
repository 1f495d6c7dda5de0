"""Our relay: peers that cannot be dialled reserve a place, and others reach them through us.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. What is decided is in `relay_table`.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Sequence

import trio

from lattica.errors import NetworkError, RemoteProtocolError, StreamError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm.connection import Connection
from lattica.swarm.mux import MuxStream
from lattica.swarm.relay_metrics import CircuitAccount
from lattica.swarm.relay_pump import carry
from lattica.swarm.relay_table import Circuit, RelayLimits, RelayTable
from lattica.swarm.relay_wire import (
    MAX_RELAY_MESSAGE,
    STOP,
    ConnectRequest,
    RelayStatus,
    ReserveRequest,
    StatusMessage,
    decode_hop,
    decode_stop,
    encode_hop_status,
    encode_reservation,
    encode_stop_connect,
    framed,
)

logger = logging.getLogger(__name__)

HOP_TIMEOUT_S = 10.0
"""Seconds that a client has to say what it wants."""
STOP_TIMEOUT_S = 15.0
"""Seconds that a target has to take a circuit, waiting for its turn included."""


class RelayServer:
    """Serves the HOP protocol, in trio, until it is stopped."""

    def __init__(
        self,
        key: IdentityKey,
        limits: RelayLimits,
        *,
        connection_to: Callable[[PeerId], Connection | None],
        addresses: Callable[[], Sequence[PeerAddress]],
    ) -> None:
        """A relay.

        Args:
            key: Our identity.
            limits: What it gives away.
            connection_to: The direct connection to a peer, if there is one.
            addresses: Where we can be dialled.
        """
        self.table = RelayTable(limits)
        self._account = CircuitAccount(self.table.counters)
        self._key = key
        self._connection_to = connection_to
        self._addresses = addresses
        self._circuits: set[trio.CancelScope] = set()
        self._stopped = False

    def stop(self) -> None:
        """End all circuits; nothing is granted from here on, and what was reserved is void."""
        self._stopped = True
        self.table.forget_all()
        self._account.tell()
        for scope in self._circuits:
            scope.cancel()

    def peer_left(self, peer: PeerId) -> None:
        """There is no direct connection to ``peer`` any more."""
        self.table.forget(peer)
        self._account.tell()

    async def serve(self, stream: MuxStream) -> None:
        """Answer one HOP stream, and carry its circuit."""
        try:
            await self._answer(stream)
        finally:
            self._account.tell()

    async def _answer(self, stream: MuxStream) -> None:
        try:
            with trio.fail_after(HOP_TIMEOUT_S):
                raw = await stream.read_message(MAX_RELAY_MESSAGE)
        except trio.TooSlowError as error:
            raise StreamError(f"no relay request within {HOP_TIMEOUT_S:.0f} s") from error
        if raw is None:
            return
        try:
            message = decode_hop(raw, stream.peer)
        except RemoteProtocolError as error:
            await self._refuse(stream, RelayStatus.MALFORMED_MESSAGE, error.reason)
            return
        if self._stopped or stream.remote.is_circuit:
            await self._refuse(stream, RelayStatus.PERMISSION_DENIED, "it came over a circuit, or we are stopping")
        elif isinstance(message, ReserveRequest):
            await self._reserve(stream)
        elif isinstance(message, ConnectRequest):
            await self._connect(stream, message.peer)
        else:
            await self._refuse(stream, RelayStatus.UNEXPECTED_MESSAGE, "an answer that nobody asked for")

    async def _refuse(self, stream: MuxStream, status: RelayStatus, reason: str) -> None:
        logger.info("relay request refused peer=%s status=%s reason=%s", stream.peer, status.name.lower(), reason)
        self.table.refuse(status)
        await stream.write_message(encode_hop_status(status))

    async def _reserve(self, stream: MuxStream) -> None:
        peer, limits = stream.peer, self.table.limits
        status = self.table.reserve(peer, stream.remote.host, trio.current_time())
        if status is not RelayStatus.OK:
            logger.info("relay reservation refused peer=%s remote=%s", peer, stream.remote)
            await stream.write_message(encode_hop_status(status))
            return
        expire = int(time.time() + limits.reservation_ttl)
        answer = encode_reservation(self._key, peer, expire, reachable(self._addresses()), limits.announced)
        await stream.write_message(answer)

    async def _connect(self, stream: MuxStream, target: PeerId) -> None:
        circuit = self.table.open(stream.peer, target, trio.current_time())
        if isinstance(circuit, RelayStatus):
            logger.info("circuit refused client=%s target=%s reason=%s", stream.peer, target, circuit.name.lower())
            await stream.write_message(encode_hop_status(circuit))
            return
        with trio.CancelScope() as scope:
            self._circuits.add(scope)
            try:
                await self._carry(stream, circuit)
            finally:
                self._circuits.discard(scope)
                self.table.close(circuit)
        if scope.cancelled_caught:
            await stream.reset()

    async def _carry(self, stream: MuxStream, circuit: Circuit) -> None:
        limits, counters = self.table.limits, self.table.counters
        try:
            onward = await self._reach(circuit)
        except NetworkError as error:
            await self._refuse(stream, RelayStatus.CONNECTION_FAILED, f"circuit to {circuit.target}: {error}")
            return
        try:
            stream.carry_circuit()
            await stream.write_message(encode_hop_status(RelayStatus.OK, limits.announced))
            counters.circuits_total += 1
            self._account.tell()
            reason = await carry(stream, onward, limits.announced, limits.circuit_rate, self._account.carried)
        finally:
            await onward.reset()
        logger.debug("circuit ended client=%s target=%s reason=%s", circuit.client, circuit.target, reason)

    async def _reach(self, circuit: Circuit) -> MuxStream:
        """A STOP stream on which the target has agreed; raises `NetworkError`."""
        try:
            with trio.fail_after(STOP_TIMEOUT_S):
                while True:
                    connection = self._connection_to(circuit.target)
                    if connection is None:
                        raise StreamError("the target is not connected")
                    try:
                        return await self._ask(connection, circuit)
                    except StreamError:
                        # A target that connects anew, because it has lost the connection, is asked there.
                        if connection.is_open or self._connection_to(circuit.target) is None:
                            raise
        except trio.TooSlowError as error:
            raise StreamError(f"the target did not answer within {STOP_TIMEOUT_S:.0f} s") from error

    async def _ask(self, connection: Connection, circuit: Circuit) -> MuxStream:
        request = encode_stop_connect(circuit.client, self.table.limits.announced)
        onward = await connection.open_stream(STOP, framed(request), circuit=True)
        try:
            raw = await onward.read_message(MAX_RELAY_MESSAGE)
            answer = decode_stop(raw, circuit.target) if raw is not None else None
            if not isinstance(answer, StatusMessage) or answer.status is not RelayStatus.OK:
                raise StreamError("the target refused")
        except BaseException:
            await onward.reset()
            raise
        return onward


def reachable(addresses: Sequence[PeerAddress]) -> list[PeerAddress]:
    """Those of ``addresses`` that anybody can dial, or all if none is public: relays on a LAN exist too."""
    direct = [address for address in addresses if address.is_tcp]
    return [address for address in direct if _is_public(address.host)] or direct


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True  # a DNS name: whoever advertises one means it
