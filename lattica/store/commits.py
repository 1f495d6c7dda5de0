"""One replica's way to the disk: in order, and nobody is told of anything before it is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lattica.background import Background
from lattica.errors import BatchRefusedError, LatticaError, ReplicaStoreError, StoreUsageError
from lattica.store.changes import Change, ChangeFeed
from lattica.store.disk import StoreDisk
from lattica.store.disk_batch import Batch
from lattica.store.entry import ChainId
from lattica.store.frontier import Frontier, Head


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What is said of a batch once it is durable.

    Attributes:
        heads: Chains that go on.
        frontier: The whole frontier, if chains do not just go on.
        changes: For those who watch the document.
    """

    heads: Mapping[ChainId, Head]
    frontier: Frontier | None = None
    changes: Sequence[Change] = ()


class Durable:
    """A batch on its way to the disk."""

    def __init__(self, task: asyncio.Task[LatticaError | None]) -> None:
        self._task = task

    async def wait(self) -> None:
        """Return when it is durable.

        Raises:
            ReplicaStoreError: It could not be made so. `BatchRefusedError` likewise.
        """
        error = await asyncio.shield(self._task)
        if error is not None:
            raise _copy(error)

    async def wait_ended(self) -> None:
        """Return when it is durable, or cannot be."""
        await asyncio.wait([self._task])


class Commits:
    """Makes batches durable, in order, and says so then.

    Attributes:
        frontier: How far the replica goes, by what is durable.
        feed: Tells what has changed.
        failure: Why nothing more is taken; ``None`` while all is well.
        is_astray: Memory holds what the disk has not got, and never will.
    """

    def __init__(self, disk: StoreDisk, tasks: Background, frontier: Frontier, upkeep: Callable[[], None]) -> None:
        self.frontier = frontier
        self.feed = ChangeFeed()
        self.failure: LatticaError | None = None
        self.is_astray = False
        self._disk = disk
        self._tasks = tasks
        self._upkeep = upkeep
        self._latest: Durable | None = None
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` whenever the frontier has changed, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def fail(self, failure: LatticaError) -> None:
        """Take no more; who watches is told, unless it was just closed."""
        if self.failure is None:
            self.failure = failure
            self.feed.close(None if isinstance(failure, StoreUsageError) else failure)

    def check(self) -> None:
        """Raise what it has failed with."""
        if self.failure is not None:
            raise _copy(self.failure)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[None]:
        """In this block memory gets ahead of the disk, which is given the same in a batch.

        If it raises, there is none, and the two differ for good: then the document cannot be used any more.

        Raises:
            ReplicaStoreError: In place of an error of ours that is about something else.
        """
        try:
            yield
        except (ReplicaStoreError, BatchRefusedError) as error:
            self._go_astray(error)
            raise
        except LatticaError as error:
            failure = self._not_written(error)
            self._go_astray(failure)
            raise failure from error
        except BaseException as error:
            self._go_astray(self._not_written(error))
            raise

    def _go_astray(self, failure: LatticaError) -> None:
        self.is_astray = True
        self.fail(failure)

    def _not_written(self, error: BaseException) -> ReplicaStoreError:
        reason = f"what has changed in memory could not be written ({error!r}); close the document, and open it again"
        return ReplicaStoreError(self._disk.path, reason)

    def start(self, batch: Batch, news: News) -> Durable:
        """Have a batch made durable after all before it, cancelled or not."""
        with self.ahead():  # everything may be ending
            self._latest = Durable(self._tasks.start(self._make_durable(batch, news, self._latest)))
        return self._latest

    async def flush(self) -> None:
        """Wait until the disk has everything; raises if it cannot have it."""
        if self._latest is not None:
            await self._latest.wait()

    async def finish(self) -> None:
        """Wait until nothing is on its way any more."""
        if self._latest is not None:
            await self._latest.wait_ended()

    async def _make_durable(self, batch: Batch, news: News, before: Durable | None) -> LatticaError | None:
        try:
            if batch.changes:
                await self._disk.commit(batch)
            elif before is not None:  # durable is what comes before, too
                await before.wait()
        except (ReplicaStoreError, BatchRefusedError) as error:
            self._go_astray(error)
            return error
        frontier = news.frontier or self.frontier.with_heads(news.heads)
        if frontier != self.frontier:
            self.frontier = frontier
            for listener in list(self._listeners):
                listener()
        for change in news.changes:
            self.feed.publish(change)
        self._upkeep()
        return None


def _copy(error: LatticaError) -> LatticaError:
    """An error of its own for each that raises it: every time that one is raised, its traceback grows."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy
