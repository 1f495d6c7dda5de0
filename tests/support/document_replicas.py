"""Replicas of one document, with containers to write through, that get each other's updates in any causal order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from pycrdt import Doc, TransactionEvent

from lattica.errors import StoreUsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One transaction.

    Attributes:
        author: The replica's number.
        update: What it has written.
        after: How many updates of each replica its author had applied before.
    """

    author: int
    update: bytes
    after: tuple[int, ...]


class Replica:
    """A document whose updates are kept in order, so that it can be built anew; a `DocumentHost`."""

    def __init__(self, number: int = 0, of: int = 1) -> None:
        self.number = number
        self.author = f"author{number}"
        self.seen = [0] * of
        self._applied: list[bytes] = []
        self._writing = False
        self._doc = self._new_doc()

    @property
    def ydoc(self) -> Doc[Any]:
        return self._doc

    def check_writing(self) -> None:
        if not self._writing:
            raise StoreUsageError("written outside a transaction; use `async with document.transaction():`")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._doc.transaction():
            self._writing = True
            try:
                yield
            finally:
                self._writing = False

    def write(self, update: bytes) -> None:
        """Apply an update, whoever made it."""
        self._doc.apply_update(update)

    def apply(self, written: Written) -> None:
        """Apply another replica's update, once more if it is known."""
        self.write(written.update)
        if written.after[written.author] == self.seen[written.author]:
            self.seen[written.author] += 1

    def can_apply(self, written: Written) -> bool:
        return all(seen >= needed for seen, needed in zip(self.seen, written.after, strict=True))

    def take_written(self, start: int) -> Written | None:
        """What was written since so many updates had been applied, as one transaction."""
        updates = self._applied[start:]
        if not updates:
            return None
        (update,) = updates
        written = Written(author=self.number, update=update, after=tuple(self.seen))
        self.seen[self.number] += 1
        return written

    @property
    def applied(self) -> int:
        return len(self._applied)

    def rebuild(self) -> None:
        """Replace the document by one that is built from the same updates."""
        updates = self._applied
        self._applied = []
        self._doc = self._new_doc()
        for update in updates:
            self.write(update)

    def _new_doc(self) -> Doc[Any]:
        doc: Doc[Any] = Doc(client_id=self.number + 1)
        doc.observe(self._keep)
        return doc

    def _keep(self, event: TransactionEvent) -> None:
        self._applied.append(event.update)


class Replicas:
    """Several replicas of one document and everything that they have written."""

    def __init__(self, count: int) -> None:
        self.replicas = [Replica(number, count) for number in range(count)]
        self.log: list[Written] = []

    @contextmanager
    def transaction(self, number: int) -> Iterator[Replica]:
        """Write on one replica; the log gets the update."""
        replica = self.replicas[number]
        start = replica.applied
        with replica.transaction():
            yield replica
        written = replica.take_written(start)
        if written is not None:
            self.log.append(written)

    def deliverable(self, number: int) -> list[Written]:
        """What a replica may be given next, known updates included."""
        replica = self.replicas[number]
        return [written for written in self.log if written.author != number and replica.can_apply(written)]

    def deliver_one(self, number: int, choice: int) -> Written | None:
        """Give one replica one of the updates that it may be given."""
        ready = self.deliverable(number)
        if not ready:
            return None
        written = ready[choice % len(ready)]
        self.replicas[number].apply(written)
        return written

    def deliver_all(self, order: Random) -> None:
        """Give every replica all that it has not got, in a random causal order, now and then something once more."""
        for number, replica in enumerate(self.replicas):
            while sum(replica.seen) < len(self.log):
                ready = self.deliverable(number)
                new = [written for written in ready if written.after[written.author] == replica.seen[written.author]]
                replica.apply(order.choice(ready if order.random() < 0.2 else new))

    def late_reader(self, order: Random) -> Replica:
        """A replica that got each author's updates in order, but those of different authors in any."""
        late = Replica(len(self.replicas), len(self.replicas))
        queues = [[one.update for one in self.log if one.author == replica.number] for replica in self.replicas]
        while waiting := [queue for queue in queues if queue]:
            late.write(order.choice(waiting).pop(0))
        return late
