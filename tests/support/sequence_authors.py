"""Authors that edit one list and one text as people do, and take over from each other what they have written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pycrdt import Array, Doc, Text, TransactionEvent, UndoManager

CLIENTS = (3, 2**33, 2**53 - 1)
ACTIONS = 14


class SequenceAuthor:
    """One replica: it types on where it was, goes elsewhere, deletes, formats, undoes."""

    def __init__(self, client: int, log: list[bytes]) -> None:
        self.log = log
        self.known: list[int] = []
        self.doc: Doc[Any] = Doc(client_id=client)
        self._roots = (self.doc.get("list", type=Array), self.doc.get("text", type=Text))
        self._undo = [UndoManager(scopes=[root], capture_timeout_millis=0) for root in self._roots]
        self._at = 0
        self._learning = False
        self._subscription = self.doc.observe(self._note)

    def _note(self, event: TransactionEvent) -> None:
        if not self._learning:
            self.known.append(len(self.log))
            self.log.append(event.update)

    def take_over(self, other: SequenceAuthor) -> None:
        """Apply what the other knows, in its order."""
        self._learning = True
        for number in other.known:
            if number not in self.known:
                self.doc.apply_update(self.log[number])
                self.known.append(number)
        self._learning = False

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
            root.insert(at, "abc"[: 1 + number % 3])
        else:
            root.insert(at, number)
            root.insert(at + number % 2, number)
        self._at = at + 1 + number % 3


class SequenceAuthors:
    """Some authors, and the log of all that they have written: each update after those that its author knew."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.authors = [SequenceAuthor(client, self.log) for client in CLIENTS]

    def do(self, steps: Sequence[tuple[int, int, int]]) -> None:
        """For each step an author and an action with a number; beyond the actions: it takes over what another knows."""
        for who, action, number in steps:
            author = self.authors[who % len(self.authors)]
            if action < ACTIONS:
                author.write(action, number)
            else:
                author.take_over(self.authors[number % len(self.authors)])
