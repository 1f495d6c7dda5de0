"""The replicas of one name, watched while somebody calls them: the driver of `ReplicaTable` and `AskPlan`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection

from lattica.background import Background
from lattica.errors import LatticaError, NoReplicaError
from lattica.identity import PeerId
from lattica.rpc.ports import ServiceRouting
from lattica.rpc.replicas.answers import read_answer
from lattica.rpc.replicas.ask_plan import AskPlan, SearchPlan
from lattica.rpc.replicas.book import Admission
from lattica.rpc.replicas.limits import MAX_ASKING, MAX_OTHERS, SEARCH_TIMEOUT_S, SETTLE_TIMEOUT_S
from lattica.rpc.replicas.record import ServiceRecord, service_key
from lattica.rpc.replicas.replica import Outcome
from lattica.rpc.replicas.settings import ReplicaSettings
from lattica.rpc.replicas.table import ReplicaStatus, ReplicaTable
from lattica.rpc.replicas.wire import Answer
from lattica.rpc.service_metrics import ServiceCounts

logger = logging.getLogger(__name__)

Ask = Callable[[PeerId, str], Awaitable[Answer]]
"""Asks a peer about a name; raises `LatticaError`."""


class ReplicaSet:
    """The replicas of one name; made by `Replicas.replica_set`, one for all who call the name.

    It finds them when it is first used, and keeps asking while it is used: nothing has to be closed. All methods belong
    to the node's event loop.

    Attributes:
        name: The service's.
        table: What is known of them.
        counts: The metrics of the name.
    """

    def __init__(
        self,
        name: str,
        local: PeerId,
        *,
        ask: Ask,
        routing: ServiceRouting,
        tasks: Background,
        rng: random.Random,
        settings: ReplicaSettings,
        counts: ServiceCounts,
    ) -> None:
        self.name = name
        self.counts = counts
        self.table = ReplicaTable(name, local, rng)
        self._key = service_key(name)
        self._ask, self._routing, self._tasks, self._rng = ask, routing, tasks, rng
        self._settings = settings
        self._now = settings.clock
        self._plan = AskPlan(rng)
        self._asking = 0
        self._search: asyncio.Task[None] | None = None
        self._search_plan = SearchPlan(rng)
        self._used_at = float("-inf")
        self._held = 0
        self._watching = False
        self._closed = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    # For callers

    def choose(self, *, key: str | bytes | None = None, exclude: Collection[PeerId] = ()) -> PeerId | None:
        """The replica for the next call; ``None`` if none is known that may be called now: see `pick`."""
        now = self._now()
        self._use(now)
        return self.table.choose(now, key=key, exclude=exclude)

    def choose_nowait(self, key: str | bytes | None) -> PeerId | None:
        """As `choose`; ``None`` also if it is too early for a ``key``: see `wait_settled`."""
        return None if key is not None and not self._is_settled() else self.choose(key=key)

    async def pick(
        self, *, key: str | bytes | None = None, exclude: Collection[PeerId] = (), timeout: float | None = None
    ) -> PeerId:
        """The replica for the next call, as soon as there is one.

        Raises:
            NoReplicaError: There is none within ``timeout`` seconds.
        """
        started = self._now()
        if key is not None:
            await self.wait_settled(timeout)
        while (peer := self.choose(key=key, exclude=exclude)) is None:
            left = None if timeout is None else started + timeout - self._now()
            await self.wait_available(left, exclude=exclude)
        return peer

    async def wait_settled(self, timeout: float | None = None) -> None:
        """Return when everybody who was found has said whether it is a replica, or after 2 s, or ``timeout``."""
        if not self._is_settled():
            await self._wait_until(
                self._is_settled, SETTLE_TIMEOUT_S if timeout is None else min(SETTLE_TIMEOUT_S, timeout)
            )

    async def wait_available(self, timeout: float | None = None, *, exclude: Collection[PeerId] = ()) -> None:
        """Return when there is a replica that may be called, other than those to ``exclude``.

        Raises:
            NoReplicaError: There is none within ``timeout`` seconds.
        """
        if not await self._wait_until(lambda: self.table.is_available(self._now(), exclude), timeout):
            raise NoReplicaError(self.name, self._attempts())

    async def wait_healthy(self, count: int, timeout: float | None = None) -> None:
        """Return when at least ``count`` replicas have answered us and are well: calls are shared among those.

        Keys move when a replica comes: who has just started several waits for them before the first call of a session.

        Raises:
            NoReplicaError: There are fewer within ``timeout`` seconds.
        """
        if not await self._wait_until(lambda: self.table.healthy >= count, timeout):
            raise NoReplicaError(
                self.name, self._attempts() | {"replicas": f"{self.table.healthy} of {count} are well"}
            )

    def started(self, peer: PeerId) -> None:
        """A call goes to a replica that was chosen."""
        self.table.started(peer)

    def finished(self, peer: PeerId, seconds: float | None, outcome: Outcome) -> None:
        """That call has ended, after ``seconds``; ``None`` if they do not tell how fast the replica is."""
        self.table.finished(peer, self._now(), seconds, outcome)
        if outcome is Outcome.FAILED:
            self._wake.set()

    def status(self) -> list[ReplicaStatus]:
        """All replicas that are known, to be shown."""
        return self.table.status(self._now())

    def hold(self) -> None:
        """Watch the name until as many `release`, whether or not it is used."""
        self._held += 1
        self._use(self._now())

    def release(self) -> None:
        """End a `hold`."""
        self._held -= 1
        self._wake.set()

    # For the directory

    def close(self) -> None:
        """Let nobody wait any longer: the node is closing."""
        self._closed = True
        self._notify()

    def heard(self, record: ServiceRecord) -> None:
        """A peer that is talking to us has shown a record of its own.

        It proves that the replica runs, not that we reach it: unless it is a goodbye, it is asked.
        """
        now = self._now()
        if record.is_goodbye:
            self._admitted(record, self.table.admit_own(record, now))
        elif record.name == self.name:
            self._plan.found(record.peer_id, now)
            self._wake.set()

    def records(self, asker: PeerId) -> list[tuple[bytes, float]]:
        """Records to pass on, and for how many seconds they hold: those of replicas that we have spoken to."""
        known = self.table.book.passed_on(self._now(), asker)
        return known if len(known) <= MAX_OTHERS else self._rng.sample(known, MAX_OTHERS)

    # Watching

    def _use(self, now: float) -> None:
        self._used_at = now
        if not self._watching:
            self._watching = self._tasks.start_unless_ending(self._watch()) is not None

    def _is_settled(self) -> bool:
        return self._search_plan.has_ended and self._plan.is_settled

    async def _wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Whether ``condition`` came true in time, and the node runs."""
        self.hold()
        try:
            async with asyncio.timeout(timeout):
                while not condition() and not self._closed:
                    await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            self.release()
        return not self._closed

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._wake.set()

    async def _watch(self) -> None:
        try:
            while (now := self._now()) < self._used_at + self._settings.idle or self._held:
                self._wake.clear()
                self._step(now)
                self.counts.replicas(known=len(self.table), healthy=self.table.healthy)
                pause = self._next_step(now) - self._now()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, pause)):
                        await self._wake.wait()
        finally:
            self._watching = False
            self.counts.replicas(known=0, healthy=0)

    def _step(self, now: float) -> None:
        """Begin what is due."""
        if self.table.expire(now):
            logger.info("replica's lease over name=%s left=%d", self.name, len(self.table))
            self._lost(now)
        for peer in self.table.due_probes(now):
            self._plan.hasten(peer, now)
        for peer in self._plan.due(now)[: MAX_ASKING - self._asking]:
            self._start_asking(peer, now)
        if self._search is None and now >= self._search_plan.next_at:
            self._search = self._tasks.start_unless_ending(self._search_once())

    def _next_step(self, now: float) -> float:
        times = [now + self._settings.idle]
        if self._search is None:
            times.append(self._search_plan.next_at)
        if self._asking < MAX_ASKING and (ask_at := self._plan.next_at()) is not None:
            times.append(ask_at)
        # A probe that is due already is under way, or waits for its turn to ask.
        times += [at for at in (self.table.next_probe(), self.table.book.next_expiry()) if at is not None and at > now]
        return min(times)

    async def _search_once(self) -> None:
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                async for peer in self._routing.find(self._key):
                    self._plan.found(peer, self._now())
                    self._wake.set()
        except (LatticaError, TimeoutError) as error:
            logger.info("search for replicas ended early name=%s reason=%s", self.name, error)
        finally:
            self._search = None
            self._search_plan.ended(self._now(), replicas=len(self.table))
            self._notify()

    def _lost(self, now: float) -> None:
        """Replicas are gone."""
        if not len(self.table):
            self._search_plan.lost_all(now)
        self._notify()

    # Asking

    def _start_asking(self, peer: PeerId, now: float) -> None:
        if self._tasks.start_unless_ending(self._ask_once(peer)) is not None:
            self._asking += 1
            self._plan.asking(peer)
            self.table.probing(peer, now)

    async def _ask_once(self, peer: PeerId) -> None:
        asked_at = self._now()
        try:
            answer = await self._ask(peer, self.name)
            self._take(peer, answer, asked_at)
        except LatticaError as error:
            logger.debug("replica did not answer name=%s peer=%s reason=%s", self.name, peer, error)
            self._plan.failed(peer, self._now(), str(error))
            self.table.probed(peer, self._now(), answered=False)
        finally:
            self._asking -= 1
            self._notify()

    def _take(self, peer: PeerId, answer: Answer, asked_at: float) -> None:
        """Take all of an answer, or nothing if a part of it is wrong."""
        now, wall = self._now(), self._settings.wall()
        own, others = read_answer(answer, peer, self.table.book, now)
        for record, remaining in others:
            heard = self.table.admit_hearsay(record, peer, remaining=remaining, now=now, wall=wall)
            self._admitted(record, heard)
        if own is None:
            self.table.drop(peer)
            self._plan.failed(peer, now, "it does not offer the service")
            return
        admission = self.table.admit_own(own, asked_at)
        self._admitted(own, admission)
        self.table.probed(peer, now, answered=True)
        if admission.is_news and not own.is_goodbye:
            self._plan.answered(peer)
        else:
            self._plan.failed(
                peer, now, "it has withdrawn the service" if own.is_goodbye else f"its record is {admission.value}"
            )

    def _admitted(self, record: ServiceRecord, admission: Admission) -> None:
        """Plan the next question after a record was taken."""
        now, peer = self._now(), record.peer_id
        entry = self.table.book.get(peer)
        if admission is Admission.GONE:
            logger.info("replica gone name=%s peer=%s", self.name, peer)
            self._plan.withdrew(peer, now)
            self._lost(now)
        elif entry is not None and admission.is_news:
            if admission is Admission.NEW:
                logger.info("replica found name=%s peer=%s", self.name, peer)
            self._plan.found(peer, now)
            if entry.is_confirmed:
                self._plan.offers(peer, now, expires_at=entry.expires_at, lease=entry.record.lease_ms / 1000)

    def _attempts(self) -> dict[str, str]:
        if self._closed:
            return {"node": "it is closing"}
        named = f"it named {len(self._plan)} peers" if len(self._plan) else "it names nobody"
        return {
            "dht": named if self._search_plan.has_ended else "the search has not ended yet",
            **self._plan.attempts(),
        }
