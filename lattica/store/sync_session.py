"""Two replicas bring each other up to date, over one stream, for as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lattica.background import Background, background_tasks
from lattica.errors import EntryRefusedError, LatticaError, RemoteProtocolError, StreamError
from lattica.store import metrics
from lattica.store.changes import Problem
from lattica.store.commits import Durable
from lattica.store.disk import StoreDisk
from lattica.store.entry import ChainId
from lattica.store.journal import Journal
from lattica.store.ports import SyncLink
from lattica.store.presence_spread import PresenceOutlet, PresenceSpread
from lattica.store.received import Checked
from lattica.store.sync_answer import ANSWER_BYTES, answer
from lattica.store.sync_state import LinkState, offer_of
from lattica.store.sync_wire import FrameReader, FrameWriter, Locator, SyncMessage

NEWS_PAUSE_S = 0.02
"""Seconds between two frames with news: what happens meanwhile is told at once."""
REST = 4.0
"""How long a peer that makes us work is left alone then, as a multiple of the work: a fifth of one CPU is for each."""
LONGEST_REST_S = 1.0
PING_S = 2.0
"""Seconds after which a frame is sent though there is nothing to say."""
SILENCE_S = 5.0
"""Seconds after which a peer that says nothing is taken for gone."""
STUCK_S = 30.0
"""Seconds for a peer to take a frame."""
ANSWER_S = 60.0
"""Seconds for each frame of an answer."""
LEASE_S = 1.0
"""Seconds for which a peer that is asked for chains keeps others from being asked for them, if it sends nothing new."""
MAX_EMPTY = 20
"""Answers in a row without an entry before a peer is taken for a liar. Once in a while an honest one has just dropped
what it offered."""


class FetchBoard:
    """Which chains are being fetched, so that no two peers are asked for one; ``now`` is in seconds, monotonic."""

    def __init__(self) -> None:
        self._busy: dict[ChainId, SyncSession] = {}
        self._sessions: set[SyncSession] = set()
        self._state: SyncSession | None = None

    def join(self, session: SyncSession) -> None:
        """A session begins."""
        self._sessions.add(session)

    def leave(self, session: SyncSession) -> None:
        """A session has ended: what it was fetching is for the others."""
        self._sessions.discard(session)
        self.release(session)

    def busy(self, session: SyncSession, now: float) -> set[ChainId]:
        """What others fetch, and get."""
        return {chain for chain, by in self._busy.items() if by is not session and now - by.useful_at < LEASE_S}

    def take(self, session: SyncSession, chains: Mapping[ChainId, Locator]) -> None:
        """The session fetches these."""
        self._busy.update(dict.fromkeys(chains, session))

    def may_take_state(self, session: SyncSession, now: float) -> bool:
        """Whether nobody else fetches a checkpoint's state, and gets it."""
        return self._state in (None, session) or now - self._state.useful_at >= LEASE_S

    def take_state(self, session: SyncSession) -> None:
        """The session fetches one."""
        self._state = session

    def release(self, session: SyncSession) -> None:
        """It has got what it gets."""
        had_state = self._state is session
        if had_state:
            self._state = None
        mine = [chain for chain, by in self._busy.items() if by is session]
        for chain in mine:
            del self._busy[chain]
        if mine or had_state:
            for other in self._sessions:
                other.wake()


class SyncSession:
    """One stream with one peer.

    Attributes:
        peer: Who.
        useful_at: When it was asked for something, or sent something new, the last time.
    """

    def __init__(
        self,
        link: SyncLink,
        journal: Journal,
        disk: StoreDisk,
        board: FetchBoard,
        presences: PresenceSpread,
        *,
        greet: bytes,
    ) -> None:
        self.peer = link.peer
        self.useful_at = 0.0
        self._answer_at = 0.0
        self._empty = 0
        self._link = link
        self._journal = journal
        self._disk = disk
        self._board = board
        self._greet = greet
        self._state = LinkState()
        self._writer = FrameWriter()
        self._reader = FrameReader()
        self._sending = asyncio.Lock()
        self._wake = asyncio.Event()
        self._spoken = asyncio.Event()
        self._presences = presences
        self._outlet = PresenceOutlet(self.wake)
        self._asked: asyncio.Queue[Mapping[ChainId, Locator] | int] = asyncio.Queue(1)
        self._frames: asyncio.Queue[_Heard | LatticaError | None] = asyncio.Queue(1)
        self._durable: Durable | None = None
        self._parts = bytearray()

    @property
    def was_heard(self) -> bool:
        """Whether the peer has said anything."""
        return self._spoken.is_set()

    def is_level(self, chain: ChainId) -> bool:
        """Whether the peer has said what it has, and it has nothing of the chain that is not here."""
        return self.was_heard and not self._state.is_ahead(self._journal.replica.ledger, chain)

    def wake(self) -> None:
        """There may be something to say."""
        self._wake.set()

    async def run(self) -> None:
        """Serve until the peer ends the stream.

        Raises:
            NetworkError: The stream broke, or the peer is silent.
            RemoteProtocolError, EntryRefusedError: The peer breaks the rules.
            LatticaError: The document cannot be used any more.
        """
        unsubscribe = self._journal.commits.subscribe(self.wake)
        self._board.join(self)
        self._presences.join(self._outlet)
        self._wake.set()
        try:
            async with background_tasks() as tasks:
                tasks.start(self._tell())
                tasks.start(self._answer())
                tasks.start(self._listen(tasks))
                await self._hear_all()
        finally:
            unsubscribe()
            self._board.leave(self)
            self._presences.leave(self._outlet)

    # what we say

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        ping_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ping_at):
                    await self._wake.wait()
            self._wake.clear()
            if self._state.is_asking and time.monotonic() - self._answer_at > ANSWER_S:
                raise RemoteProtocolError("it does not answer what it was asked", self.peer)
            began = time.monotonic()
            message = self._news()
            rest = _rest_since(began)
            if not message.is_empty or loop.time() >= ping_at:
                await self._send(message)
                ping_at = loop.time() + PING_S
            if self._state.is_behind:
                self.wake()
            await self._spoken.wait()  # news for a peer that cannot be reached would only pile up
            await asyncio.sleep(max(NEWS_PAUSE_S, rest))

    def _news(self) -> SyncMessage:
        frontier, ledger = self._journal.frontier, self._journal.replica.ledger
        now = time.monotonic()
        wanted = self._state.to_fetch(ledger, self._board.busy(self, now), now)
        if self._state.leaves_out:
            self._journal.feed.report(Problem.FULL)
        state_wanted = 0
        if wanted:
            self._board.take(self, wanted)
        elif self._board.may_take_state(self, now):
            state_wanted = self._state.state_to_fetch(ledger, now)
            if state_wanted:
                self._board.take_state(self)
        if wanted or state_wanted:
            self.useful_at = self._answer_at = now
        greet, self._greet = self._greet, b""
        return SyncMessage(
            namespace=greet,
            heads=self._state.news(frontier),
            wanted=wanted,
            proofs=[(fraud.one, fraud.other) for fraud in self._state.new_proofs(frontier, ledger.frozen)],
            base=self._state.new_base(ledger.base),
            state_wanted=state_wanted,
            presences=self._outlet.take(),
            full=self._state.new_full(is_full=Problem.FULL in self._journal.feed.problems),
        )

    async def _send(self, message: SyncMessage) -> None:
        async with self._sending:
            frame = self._writer.write(message)
            metrics.BYTES_SENT.inc(len(frame))
            try:
                async with asyncio.timeout(STUCK_S):
                    await self._link.send(frame)
            except TimeoutError:
                raise StreamError(f"the replica at {self.peer} has not taken a frame in {STUCK_S:.0f} s") from None

    async def _answer(self) -> None:
        while True:
            wanted = await self._asked.get()
            if isinstance(wanted, int):
                await self._answer_state(wanted)
                continue
            last: Sequence[bytes] = ()
            async for entries in answer(self._journal, self._disk, wanted):
                if last:
                    await self._send(SyncMessage(entries=last))
                last = entries
                metrics.ENTRIES_SENT.inc(len(entries))
            await self._send(SyncMessage(entries=last, answered=True))
            self._state.served(wanted)

    async def _answer_state(self, base: int) -> None:
        offset = 0
        namespace = self._journal.genesis.namespace.raw
        while part := await self._disk.base_part(namespace, base, offset, ANSWER_BYTES):
            offset += len(part)
            await self._send(SyncMessage(state=part))
        await self._send(SyncMessage(answered=True))

    # what the peer says

    async def _listen(self, tasks: Background) -> None:
        """Read frames, and check the signatures in them, ahead of what is done with the ones before."""
        heard: _Heard | LatticaError | None = None
        while not isinstance(heard, LatticaError):
            rest = 0.0
            try:
                heard = None
                raw = await self._receive()
                if raw is not None:
                    began = time.monotonic()
                    message = self._reader.read(raw)
                    rest = _rest_since(began) if message.heads else 0.0
                    heard = _Heard(message, tasks.start(self._check(message)))
            except LatticaError as error:
                heard = error
            await self._frames.put(heard)
            if heard is None:
                return
            if rest > NEWS_PAUSE_S:
                await asyncio.sleep(rest)

    async def _receive(self) -> bytes | None:
        try:
            async with asyncio.timeout(SILENCE_S):
                raw = await self._link.receive()
        except TimeoutError:
            raise StreamError(f"the replica at {self.peer} has been silent for {SILENCE_S:.0f} s") from None
        self._spoken.set()
        return raw

    async def _check(self, message: SyncMessage) -> Checked | EntryRefusedError | None:
        """What it holds of entries and proofs; ``None`` if nothing."""
        if not message.entries and not message.proofs:
            return None
        try:
            return await self._journal.check(message.entries, message.proofs)
        except EntryRefusedError as error:
            return error

    async def _hear_all(self) -> None:
        while (heard := await self._frames.get()) is not None:
            if isinstance(heard, LatticaError):
                raise heard
            checked = await heard.checked
            if isinstance(checked, EntryRefusedError):
                raise checked
            await self._hear(heard.message, checked)

    async def _hear(self, message: SyncMessage, checked: Checked | None) -> None:
        if checked is not None:
            await self._take(message, checked)
        if message.state:
            self._take_part(message.state)
        for raw in message.presences:
            self._presences.heard(self._outlet, raw, time.monotonic())
        self._state.hear(message.heads, message.base)
        if message.full:
            self._journal.feed.report(Problem.PEER_FULL)
        if message.wanted or message.state_wanted:
            try:
                self._asked.put_nowait(message.wanted or message.state_wanted)
            except asyncio.QueueFull:
                raise RemoteProtocolError("it asks before it was answered", self.peer) from None
        if message.answered:
            await self._answered()
        if message.heads or message.base or message.answered:
            self.wake()

    async def _answered(self) -> None:
        now = time.monotonic()
        if self._state.fetching_state:
            await self._adopt(now)
        elif self._state.fetching:
            self._state.answered(self._journal.replica.ledger, now)
        else:
            raise RemoteProtocolError("an answer to no question", self.peer)
        self._board.release(self)
        self._empty += 1
        if self._empty >= MAX_EMPTY:
            raise RemoteProtocolError("it offers what it does not have", self.peer)

    def _take_part(self, part: bytes) -> None:
        """A part of a state. It is bounded by what the owner has signed."""
        checkpoint = self._journal.replica.ledger.rights.checkpoints.get(self._state.fetching_state)
        if checkpoint is None or len(self._parts) + len(part) > checkpoint.size:
            raise RemoteProtocolError("a state that nobody has asked for", self.peer)
        self._parts += part
        self.useful_at = self._answer_at = time.monotonic()

    async def _adopt(self, now: float) -> None:
        base, raw = self._state.fetching_state, bytes(self._parts)
        self._parts = bytearray()
        checkpoint = self._journal.replica.ledger.rights.checkpoints.get(base)
        useful = checkpoint is not None and len(raw) == checkpoint.size
        if useful:
            self._empty = -1
            await self._journal.upkeep.checkpoints.adopt(base, raw)
        self._state.got_state(now, useful=useful)

    async def _take(self, message: SyncMessage, checked: Checked) -> None:
        if message.entries and not self._state.fetching:
            raise RemoteProtocolError("entries that nobody has asked for", self.peer)
        received, before = await self._journal.take(checked), self._durable
        self._durable = received.durable
        if before is not None:  # so much is in memory only, and no more
            await before.wait()
        if message.entries:
            self._empty = -1  # the answer's end adds one
            self._answer_at = time.monotonic()
            if received.added:
                self.useful_at = self._answer_at
        metrics.ENTRIES_TAKEN.inc(received.added)
        metrics.ENTRIES_KNOWN.inc(len(message.entries) - received.added)
        self._state.got((chain, offer_of(head)) for chain, head in received.lasts.items())
        if received.refused:
            reason = received.refused[0][1]
            raise RemoteProtocolError(f"{len(received.refused)} entries against the rules: {reason}", self.peer)


class _Heard(NamedTuple):
    """A frame, and what becomes of checking it."""

    message: SyncMessage
    checked: asyncio.Task[Checked | EntryRefusedError | None]


def _rest_since(began: float) -> float:
    return min(LONGEST_REST_S, REST * (time.monotonic() - began))
