"""Keeps reservations at relays while we cannot be dialled, and knows which."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lattica.errors import NetworkError, StreamError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.links import RelayOffer
from lattica.mesh.relay_client import RelayLease, request_lease
from lattica.mesh.relay_metrics import RESERVATIONS
from lattica.mesh.relay_plan import RelayPlan
from lattica.shared_gauge import SharedGauge
from lattica.swarm import ConnectionInfo, Direction, Swarm

logger = logging.getLogger(__name__)

CHECK_S = 5.0
"""Seconds between two looks at whether the relays still answer: a NAT that forgot us does not tell, and until we know
nobody reaches us."""
PING_TIMEOUT_S = 3.0
"""Seconds that a relay has to answer a ping; after that its connection counts as lost."""
RESERVE_TIMEOUT_S = 15.0
"""Seconds to connect to a relay and to be granted a reservation."""
TOKEN_S = 600.0
"""Seconds that a token for our relays is good for; the peer asks us for another after that, as for a link that ages."""


@dataclass(frozen=True, slots=True)
class _Held:
    address: PeerAddress
    lease: RelayLease | None


class RelayKeeper:
    """Holds the reservations of one node.

    Args:
        swarm: Our control connections.
        changed: Called when relays were won or lost.

    Attributes:
        plan: Which relays there are.
    """

    def __init__(self, swarm: Swarm, changed: Callable[[], None]) -> None:
        self.plan = RelayPlan()
        self._swarm = swarm
        self._on_changed = changed
        self._gauge = SharedGauge(RESERVATIONS)
        self._held: dict[PeerId, _Held] = {}
        self._wanted = self._asked = False
        self._wake = asyncio.Event()
        swarm.subscribe(disconnected=self._disconnected)

    @property
    def addresses(self) -> list[PeerAddress]:
        """Our addresses through the relays, nearest first."""
        return [PeerAddress.circuit(self._held[peer].address) for peer in self.plan.held() if peer in self._held]

    def offers(self, client: PeerId) -> list[RelayOffer]:
        """What admits ``client`` to our pipes at the relays that splice, nearest first."""
        now, offers = time.monotonic(), []
        for peer in self.plan.held():
            held = self._held.get(peer)
            if held is not None and held.lease is not None and held.lease.expires_at > now:
                token = held.lease.mint(client, now, valid_s=TOKEN_S)
                offers.append(RelayOffer(held.address, token, min(held.lease.expires_at, now + TOKEN_S)))
        return offers

    def lease_at(self, relay: PeerId) -> RelayLease | None:
        """Our lease at a relay, if we hold one."""
        held = self._held.get(relay)
        return held.lease if held is not None else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be done at the moment: relays are held, or all that are known have been asked."""
        return not self._wanted or bool(self._held) or self._asked

    def add(self, peer: PeerId, addresses: Sequence[PeerAddress], *, named: bool = False) -> None:
        """Note a relay."""
        self.plan.add(peer, [address for address in addresses if address.is_tcp], named=named)
        self._wake.set()

    def set_wanted(self, wanted: bool) -> None:
        """Whether we need relays."""
        self._wanted = wanted
        self._wake.set()

    async def run(self) -> None:
        """Keep them until cancelled."""
        try:
            await self._keep()
        finally:
            self._gauge.end()

    async def _keep(self) -> None:
        checked = time.monotonic()
        while True:
            self._wake.clear()
            if self._wanted:
                await self._all(self._measure, [peer for peer in self.plan.unmeasured() if self._is_direct(peer)])
                await self._all(self._reserve, self.plan.due(time.monotonic()))
                if not self._asked:
                    self._asked = True
                    self._changed()
            for peer in [*self.plan.surplus()] if self._wanted else self.plan.held():
                self._release(peer)
            await self._pause(checked + CHECK_S)
            if time.monotonic() >= checked + CHECK_S:
                await self._all(self._check, self.plan.held())
                checked = time.monotonic()

    def _changed(self) -> None:
        self._gauge.set(len(self._held))
        self._on_changed()

    async def _pause(self, until: float) -> None:
        wake_at = self.plan.wake_at() if self._wanted else None
        until = min(until, wake_at) if wake_at is not None else until
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return

    @staticmethod
    async def _all(function: Callable[[PeerId], object], peers: Sequence[PeerId]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for peer in peers:
                tasks.create_task(function(peer))  # type: ignore[arg-type]

    def _is_direct(self, peer: PeerId) -> bool:
        return any(info.peer_id == peer and info.relay is None for info in self._swarm.connections())

    async def _measure(self, peer: PeerId) -> None:
        """Learn how far a connected relay is, so that the nearest ones are asked."""
        with contextlib.suppress(NetworkError, TimeoutError):
            async with asyncio.timeout(PING_TIMEOUT_S):
                self.plan.measured(peer, await self._swarm.ping(peer))

    async def _reserve(self, peer: PeerId) -> None:
        try:
            async with asyncio.timeout(RESERVE_TIMEOUT_S):
                held, rtt, valid = await self._ask(peer)
        except (NetworkError, TimeoutError) as error:
            logger.info("no reservation relay=%s reason=%s", peer, error or "no answer in time")
            self._lose(peer)
            return
        is_new = self._held.get(peer) != held
        self._held[peer] = held
        self.plan.reserved(peer, rtt=rtt, valid=valid, now=time.monotonic())
        if is_new:
            logger.info("reservation made relay=%s valid_s=%.0f splices=%s", peer, valid, held.lease is not None)
            self._changed()

    async def _ask(self, peer: PeerId) -> tuple[_Held, float, float]:
        connection = await self._swarm.connect(peer, self.plan.addresses(peer), direct=True)
        rtt = await self._swarm.ping(peer)
        reservation = await self._swarm.reserve(peer)
        valid = reservation.expires_in
        try:
            lease = await request_lease(self._swarm, peer)
            valid = min(valid, lease.expires_at - time.monotonic())
        except NetworkError as error:  # another libp2p relay
            logger.debug("relay does not splice relay=%s reason=%s", peer, error)
            lease = None
        return _Held(self._address(peer, connection), lease), rtt, valid

    def _address(self, peer: PeerId, connection: ConnectionInfo) -> PeerAddress:
        """Where others reach the relay, as far as we know: there where we do."""
        if connection.direction is Direction.OUTBOUND:
            return connection.remote.with_peer(peer)
        return self.plan.addresses(peer)[0].with_peer(peer)

    async def _check(self, peer: PeerId) -> None:
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._swarm.ping(peer)
        except (NetworkError, TimeoutError) as error:
            logger.info("relay does not answer relay=%s reason=%s", peer, error or "no answer in time")
            with contextlib.suppress(StreamError):  # the swarm is closing
                await self._swarm.disconnect(peer)
            self._lose(peer)

    def _disconnected(self, info: ConnectionInfo) -> None:
        if info.peer_id in self._held and not self._swarm.is_connected(info.peer_id):
            self._lose(info.peer_id)

    def _lose(self, peer: PeerId) -> None:
        self.plan.failed(peer, time.monotonic())
        self._wake.set()
        if self._held.pop(peer, None) is not None:
            self._changed()

    def _release(self, peer: PeerId) -> None:
        self.plan.released(peer)
        if self._held.pop(peer, None) is not None:
            self._changed()
