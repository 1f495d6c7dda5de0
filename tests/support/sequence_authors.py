"""Authors that edit one list and one text as people do, and take over from each other what they have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from placed_updates import Settlement, document_of, no_items, take
from pycrdt import Array, Doc, Text, TransactionEvent, UndoManager

CLIENTS = (3, 2**33, 2**53 - 1)
ACTIONS = 14

_CHARACTERS = range(33, 127)
_FIRST_NAME = 0x4E00


class SequenceAuthor:
    """One replica: it types on where it was, goes elsewhere, deletes, formats, undoes.

    Args:
        client: As which it writes.
        log: What all have written.
        names: For what it inserts.
        base: A checkpoint's state that it goes on with.
        covered: What of the log is in that, in order.

    Attributes:
        known: Numbers of what it knows of the log, in order.
        items: Where the items of its document are.
    """

    def __init__(
        self,
        client: int,
        log: list[bytes],
        names: Iterator[int],
        base: Settlement | None = None,
        covered: Sequence[int] = (),
    ) -> None:
        self.client = client
        self.log = log
        self.known = list(covered)
        self.items = no_items() if base is None else base.known()
        self.doc: Doc[Any] = document_of([] if base is None else [base.update], client)
        self._names = names
        self._roots = (self.doc.get("list", type=Array), self.doc.get("text", type=Text))
        self._undo = [UndoManager(scopes=[root], capture_timeout_millis=0) for root in self._roots]
        self._at = 0
        self._learning = False
        self._subscription = self.doc.observe(self._note)

    def _note(self, event: TransactionEvent) -> None:
        if not self._learning:
            assert take(self.items, event.update) is event.update, "what is written belongs where it is"
            self.known.append(len(self.log))
            self.log.append(event.update)

    def take_over(self, other: SequenceAuthor) -> None:
        """Apply what the other knows, in its order."""
        self._learn(other.known)

    def _learn(self, numbers: Sequence[int]) -> None:
        self._learning = True
        for number in numbers:
            if number not in self.known:
                self.doc.apply_update(take(self.items, self.log[number]))
                self.known.append(number)
        self._learning = False

    def folded(self, base: Settlement, covered: Sequence[int]) -> SequenceAuthor:
        """The same author that has put a checkpoint's state in the place of what it covers."""
        author = SequenceAuthor(self.client, self.log, self._names, base, covered)
        author._learn(self.known)
        return author

    def write(self, action: int, number: int) -> None:
        """Do one thing to the list or the text; several at once for some numbers."""
        if number % 10:
            self._write(action, number)
            return
        with self.doc.transaction():
            for more in range(4):
                self._write((action + 3 * more) % 10, number + more)

    def _write(self, action: int, number: int) -> None:
        root = self._roots[action % 2]
        size = len(root)
        if action < 6:
            self._insert(root, (self._at, number, size)[action // 2] % (size + 1), number)
        elif action < 9:
            at = number % max(size, 1)
            del root[at : min(at + 1 + number % 3, size)]
        elif isinstance(root, Text) and action < 10 and size:
            root.format(number % size, size, {"bold": (None, True)[number % 2]})
        elif action >= 12:
            self._undo[action % 2].redo()
        elif action >= 10:
            self._undo[action % 2].undo()

    def _insert(self, root: Array[Any] | Text, at: int, number: int) -> None:
        if isinstance(root, Text):
            names = (_CHARACTERS[next(self._names) % len(_CHARACTERS)] for _ in range(1 + number % 3))
            root.insert(at, "".join(map(chr, names)))
        else:
            root.insert(at, chr(_FIRST_NAME + next(self._names)))
            root.insert(at + number % 2, chr(_FIRST_NAME + next(self._names)))
        self._at = at + 1 + number % 3


class SequenceAuthors:
    """Some authors, and the log of all that they have written: each update after those that its author knew."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        names = count()
        self.authors = [SequenceAuthor(client, self.log, names) for client in CLIENTS]

    def do(self, steps: Sequence[tuple[int, int, int]]) -> None:
        """For each step an author and an action with a number; beyond the actions: it takes over what another knows."""
        for who, action, number in steps:
            author = self.authors[who % len(self.authors)]
            if action < ACTIONS:
                author.write(action, number)
            else:
                author.take_over(self.authors[number % len(self.authors)])

    def meet(self) -> None:
        """Let all learn all."""
        first, *others = self.authors
        for other in others:
            first.take_over(other)
        for other in others:
            other.take_over(first)

    def fold(self, who: int, base: Settlement, covered: Sequence[int]) -> None:
        """Let one put a checkpoint's state in the place of what it covers, all of which it knows then."""
        self.authors[who] = self.authors[who].folded(base, covered)
