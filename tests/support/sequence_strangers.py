"""Authors that put items of a list or a text between any two, in any order, and what has to be made of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st
from placed_updates import Settlement, document_of, no_items
from pycrdt import Array, Doc, Text
from yjs_bytes import item, text, uint, update

from lattica.store.burial import as_placed
from lattica.store.yupdate import Struct, read_update
from lattica.store.yupdate_places import Displaced

ANY, STRING = 8, 4
CLIENTS = (5, 3, 2**33, 2**53 - 1)
Id = tuple[int, int]
Step = tuple[int, int | None, int | None, int]
"""Number of a client, the neighbours, and how many elements; 0: the neighbours are deleted; -1: garbage is sent."""

OWN = -1
_COVERED = -1
DELETES, GARBAGE = 0, -1
_sides = st.none() | st.integers(0, 3) | st.integers(0, 20)  # how many items ago the neighbour was written


def _steps(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.tuples(st.integers(0, 3), _sides | st.just(OWN), _sides, lengths), max_size=20)


insertions = _steps(st.integers(1, 3))
changes = _steps(st.integers(GARBAGE, 3))
"""The same, with some deletions and garbage."""
deletions = _steps(st.integers(DELETES, 3))
"""Insertions and deletions."""


class Sent(NamedTuple):
    """An update, what documents get of it, and the numbers of those in which what it refers to is.

    Attributes:
        client: Who wrote it.
        raw: As it was written.
        displaced: What of it belongs elsewhere.
        needs: What it refers to, and what its client wrote before.
    """

    client: int
    raw: bytes
    displaced: Displaced
    needs: frozenset[int]

    @property
    def placed(self) -> bytes:
        """What documents get."""
        return as_placed(self.raw, self.displaced)


class Strangers:
    """What they write: each update after those that it needs.

    Attributes:
        log: All of it, since documents begin as they do.
        origins: Of items that are not garbage, those that they come after where they have been put.
        rights: The same on the other side.
        known: Where all items are.
        base: What documents begin with.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.known = no_items()
        self.log: list[Sent] = []
        self.origins: dict[Id, Id | None] = {}
        self.rights: dict[Id, Id | None] = {}
        self.base: list[bytes] = []
        self._in: dict[Id, int] = {}
        self._ends = dict.fromkeys(CLIENTS, 0)

    def go_on(self, base: Settlement) -> None:
        """Let documents begin with a state of all that was written; it is known where what is not in it was."""
        self.log.clear()
        self.origins.clear()
        self.rights.clear()
        self.known, self.base = base.known(), [base.update]
        self._in = dict.fromkeys(self._in, _COVERED)

    def do(self, steps: Iterable[Step]) -> None:
        """Write what the steps mean."""
        for step in steps:
            self.write(step)

    def write(self, step: Step) -> Sent | None:
        """The update that a step means; ``None`` if there is nothing to delete."""
        client, length = CLIENTS[step[0]], step[3]
        origin, right = (self._near(client, side) for side in step[1:3])
        if origin == right:
            right = None
        if length == DELETES:
            gone = [near for near in (origin, right) if near]
            return self._send(client, update({}, _ranges(gone)), gone) if gone else None
        end = self._ends[client]
        struct = b"\0\1" if length == GARBAGE else self._run(client, end, length, origin, right)
        near = [] if length == GARBAGE else [near for near in (origin, right) if near]
        sent = self._send(client, update({client: (end, [struct])}), [*near, *([(client, end - 1)] if end else [])])
        self._ends[client] = end + abs(length)
        for clock in range(end, self._ends[client]):
            self._in[client, clock] = len(self.log) - 1
        [written] = read_update(sent.raw).structs[client]
        placed = sent.displaced.get(client, {}).get(end, written)
        if placed is not None and length != GARBAGE:
            self._note(client, placed)
        return sent

    def _note(self, client: int, placed: Struct) -> None:
        for clock in range(placed.clock, placed.clock + placed.length):
            self.origins[client, clock] = placed.origin if clock == placed.clock else (client, clock - 1)
            self.rights[client, clock] = placed.right_origin

    def _send(self, client: int, raw: bytes, needed: Iterable[Id]) -> Sent:
        placement = self.known.place(read_update(raw))
        self.known.add(placement)
        sent = Sent(client, raw, placement.displaced, frozenset(self._in[near] for near in needed) - {_COVERED})
        self.log.append(sent)
        return sent

    def _near(self, client: int, side: int | None) -> Id | None:
        items = [near for near in self._in if side != OWN or near[0] == client]
        return items[-1 - max(side, 0) % len(items)] if items and side is not None else None

    def _run(self, client: int, end: int, length: int, origin: Id | None, right: Id | None) -> bytes:
        names = [self.name((client, end + more)) for more in range(length)]
        if self.root == "text":
            return item(STRING, text("".join(names)), root="text", origin=origin, right=right)
        values = b"".join(b"\x77" + text(name) for name in names)
        return item(ANY, uint(length) + values, root="list", origin=origin, right=right)

    def name(self, near: Id) -> str:
        """The value that the item has in the list, or its character."""
        return chr(0x4E00 + 1000 * CLIENTS.index(near[0]) + near[1])

    def past(self, sent: Sent) -> list[int]:
        """What the update refers to, directly or not, in order."""
        found: set[int] = set()
        left = set(sent.needs)
        while left:
            number = left.pop()
            found.add(number)
            left |= self.log[number].needs - found
        return sorted(found)

    def shuffled(self, random: Random) -> list[int]:
        """The log's numbers, each after those that it needs."""
        order: list[int] = []
        left = set(range(len(self.log)))
        favour = [random.random() for _ in self.log]
        while left:
            ready = [number for number in left if self.log[number].needs.isdisjoint(left)]
            order.append(max(ready, key=favour.__getitem__))
            left.remove(order[-1])
        return order

    def document(self, order: Iterable[int] | None = None) -> Doc[Any]:
        """One that gets the updates with these numbers; without them all."""
        numbers = range(len(self.log)) if order is None else order
        return document_of([*self.base, *(self.log[number].placed for number in numbers)])

    def state(self, doc: Doc[Any]) -> list[str]:
        """The names of what it shows."""
        if self.root == "text":
            return list(str(doc.get("text", type=Text)))
        return doc.get("list", type=Array).to_py() or []

    def places(self, doc: Doc[Any]) -> dict[Id | None, int]:
        """Where the document shows each item; ``None``, the start of all, is before the first."""
        at = {name: number for number, name in enumerate(self.state(doc))}
        return {None: -1, **{near: at[self.name(near)] for near in self._in if self.name(near) in at}}


def _ranges(items: Sequence[Id]) -> Mapping[int, Sequence[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for client, clock in sorted(items):
        found.setdefault(client, []).append((clock, 1))
    return found
