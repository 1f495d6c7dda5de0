"""Keeps one replica in touch with others: finds them, stays connected with a few, serves those that call."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from lattica.background import Background, cancelled, first_leaf
from lattica.errors import EarlyEntryError, EntryRefusedError, LatticaError, NetworkError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.store import metrics
from lattica.store.disk import StoreDisk
from lattica.store.entry import ChainId, Lane
from lattica.store.journal import Journal
from lattica.store.peer_book import PeerBook
from lattica.store.ports import ReplicaRouting, SyncLink
from lattica.store.presence import Presence
from lattica.store.presence_spread import PresenceSpread
from lattica.store.sync_session import FetchBoard, SyncSession

logger = logging.getLogger(__name__)

DEGREE = 4
"""Replicas with which one stays in touch by itself; others call it. News reach all in about log n steps."""
OWN_CHOICE = 2
"""How many of them it has called, at least, if it knows so many that have not called it."""
MAX_SESSIONS = 16
"""Replicas with which one is in touch at most."""
LOOK_PAUSE_S = 0.25
"""Seconds between two looks whether somebody is to be called."""

Dialer = Callable[[PeerId], AbstractAsyncContextManager[SyncLink]]


class BusyError(NetworkError):
    """This replica takes no more streams, or not this one."""


class Replicator:
    """Brings one replica and others up to date.

    Args:
        me: Our peer ID.
        journal: The replica.
        presence: Who looks at its document.
        disk: Where its entries are.
        dial: Opens a stream to a peer.
        routing: Finds peers that have a replica.
        tasks: For what goes on in the background.
        rng: Chooses peers, and when to call again.
    """

    def __init__(
        self,
        me: PeerId,
        journal: Journal,
        presence: Presence,
        disk: StoreDisk,
        dial: Dialer,
        routing: ReplicaRouting,
        tasks: Background,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._me = me
        self._journal = journal
        self._disk = disk
        self._dial = dial
        self._routing = routing
        self._tasks = tasks
        self._book = PeerBook(rng or random.SystemRandom())
        self._board = FetchBoard()
        self._presences = PresenceSpread(presence)
        self._sessions: dict[PeerId, _Running] = {}
        self._calling: set[PeerId] = set()
        self._own: set[asyncio.Task[None]] = set()
        self._ended = False
        self._key = journal.genesis.namespace.multihash

    @property
    def peers(self) -> list[PeerId]:
        """The replicas with which we are in touch."""
        return list(self._sessions)

    @property
    def has_own(self) -> bool:
        """Whether somebody has told us what it has, and nothing of that which we wrote ourselves is not here."""
        own = [ChainId(self._me.raw, lane) for lane in Lane]
        return any(all(map(running.session.is_level, own)) for running in self._sessions.values())

    def add_peers(self, peers: list[PeerId]) -> None:
        """Remember peers that may have a replica."""
        for peer in peers:
            if peer != self._me:
                self._book.found(peer)

    async def run(self) -> None:
        """Find replicas, and stay in touch, until cancelled; then all streams have ended."""
        disconnect = self._presences.connect()
        try:
            await self._stay_in_touch()
        finally:
            disconnect()
            self._ended = True
            for task in self._own:
                task.cancel()
            if self._own:
                await asyncio.wait(self._own)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.start(coroutine)
        self._own.add(task)
        task.add_done_callback(self._own.discard)
        return task

    async def _stay_in_touch(self) -> None:
        self._start(self._announce())
        searching: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            missing = self._missing()
            if missing > 0:
                for peer in self._book.due(now, missing, {*self._sessions, *self._calling}):
                    self._calling.add(peer)
                    self._start(self._call(peer))
                if (searching is None or searching.done()) and self._book.may_search(now):
                    searching = self._start(self._search())
            await asyncio.sleep(LOOK_PAUSE_S)

    def _missing(self) -> int:
        """How many to call: those that call us are not enough, they may all be of one mind."""
        outgoing = sum(running.outgoing for running in self._sessions.values())
        calling = len(self._calling - self._sessions.keys())
        return max(DEGREE - len(self._sessions), OWN_CHOICE - outgoing) - calling

    async def _announce(self) -> None:
        while True:
            try:
                await self._routing.announce(self._key)
            except NetworkError as error:
                logger.info("replica not announced namespace=%s reason=%s", self._journal.genesis.namespace, error)
                await asyncio.sleep(self._book.search_pause)
            else:
                return

    async def _search(self) -> None:
        found = 0
        try:
            async for peer in self._routing.find(self._key):
                self.add_peers([peer])
                found += 1
        except NetworkError as error:
            logger.debug("no search for replicas reason=%s", error)
        self._book.searched(asyncio.get_running_loop().time(), found)

    # streams

    async def _call(self, peer: PeerId) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._dial(peer) as link:
                await self._run(link, outgoing=True)
        except NetworkError as error:
            logger.debug("replica not reached peer=%s reason=%s", peer, error)
            self._book.failed(peer, loop.time())
        finally:
            self._calling.discard(peer)

    async def serve(self, link: SyncLink) -> None:
        """Serve a stream that a peer has opened, until either side ends it.

        Raises:
            BusyError: There is one already, there are too many, or the peer has broken the rules lately.
        """
        if not self._book.is_welcome(link.peer, asyncio.get_running_loop().time()):
            raise BusyError("it has broken the rules lately")
        if link.peer not in self._sessions and len(self._sessions) >= MAX_SESSIONS:
            raise BusyError("too many replicas are in touch with this one")
        await self._run(link, outgoing=False)

    async def _run(self, link: SyncLink, *, outgoing: bool) -> None:
        peer = link.peer
        while (old := self._sessions.get(peer)) is not None:
            # Of two streams that cross, the smaller peer ID's stays; a new one from the same side takes over.
            if old.outgoing is not outgoing and outgoing is not (self._me < peer):
                raise BusyError("there is a stream between us already")
            await cancelled(old.task)
            self._forget(peer, old)
        if self._ended:
            raise BusyError("this replica is being closed")
        greet = self._journal.genesis.namespace.raw if outgoing else b""
        session = SyncSession(link, self._journal, self._disk, self._board, self._presences, greet=greet)
        task = self._start(self._session(session))
        running = self._sessions[peer] = _Running(task, outgoing, session)
        task.add_done_callback(lambda _: self._forget(peer, running))
        try:
            await asyncio.wait([task])
        finally:
            await cancelled(task)

    def _forget(self, peer: PeerId, running: _Running) -> None:
        if self._sessions.get(peer) is running:
            del self._sessions[peer]

    async def _session(self, session: SyncSession) -> None:
        peer, loop = session.peer, asyncio.get_running_loop()
        self._book.found(peer)
        began = loop.time()
        try:
            await session.run()
        except* EarlyEntryError as group:
            logger.info("replica is ahead of our clock peer=%s reason=%s", peer, first_leaf(group))
        except* (RemoteProtocolError, EntryRefusedError) as group:
            metrics.PEERS_REFUSED.inc()
            logger.warning("replica broke the rules peer=%s reason=%s", peer, first_leaf(group))
            self._book.misbehaved(peer, loop.time())
        except* NetworkError as group:
            logger.debug("stream to a replica broke peer=%s reason=%s", peer, first_leaf(group))
        except* LatticaError as group:
            logger.warning("replica not served reason=%s", first_leaf(group))
        finally:
            if session.was_heard:
                self._book.ended(peer, loop.time(), lasted=loop.time() - began)
            else:
                self._book.failed(peer, loop.time())


@dataclass(frozen=True, slots=True)
class _Running:
    """A stream that is being served."""

    task: asyncio.Task[None]
    outgoing: bool
    session: SyncSession
