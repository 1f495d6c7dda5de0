"""A list and a text to measure with, which several authors edit in turns; little of what they write is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

from pycrdt import Array, Doc, Text, TransactionEvent

from benchmarks.store_documents import EntryWriter
from lattica.identity import IdentityKey
from lattica.store.chain import client_id
from lattica.store.entry import Dep, Entry, Lane
from lattica.store.namespace import Genesis

LIST, TEXT = "list:log", "text:notes"
LIVING = 100
"""Elements of the list that are left, or words of the text."""
TURN = 10
"""Elements of the list, or words of a sentence, that one author writes before another has its turn."""

Edit = Callable[[Doc[Any]], None]
Turn = Sequence[Edit]


def list_turns(count: int) -> Iterator[Turn]:
    """So many writes: elements are appended, and put into the middle; the first and the last are popped."""
    edits: list[Edit] = [partial(_append, number) for number in range(min(LIVING, count))]
    kinds = cycle((_append, _pop_first, _insert, _pop_last))
    for number, edit in zip(range(LIVING, count), kinds, strict=False):
        edits.append(partial(edit, number))
    return (edits[start : start + TURN] for start in range(0, count, TURN))


def _append(number: int, doc: Doc[Any]) -> None:
    doc.get(LIST, type=Array).append(float(number))


def _insert(number: int, doc: Doc[Any]) -> None:
    log = doc.get(LIST, type=Array)
    log.insert(len(log) // 2, float(number))


def _pop_first(_: int, doc: Doc[Any]) -> None:
    del doc.get(LIST, type=Array)[0]


def _pop_last(_: int, doc: Doc[Any]) -> None:
    log = doc.get(LIST, type=Array)
    del log[len(log) - 1]


def text_turns(count: int) -> Iterator[Turn]:
    """So many writes: sentences are typed somewhere, word by word; each time one is deleted, once there are enough."""
    sizes: list[int] = []  # of the sentences, in their order
    while count:
        turn: list[Edit] = []
        if len(sizes) >= LIVING // TURN:
            gone = 3 * count % len(sizes)
            start = sum(sizes[:gone])
            turn.append(partial(_delete, start, start + sizes.pop(gone)))
        spot = 7 * count % (len(sizes) + 1)
        words = [f"word{(count - number) % 1000} " for number in range(TURN)]
        at = sum(sizes[:spot])
        for word in words:
            turn.append(partial(_type, at, word))
            at += len(word)
        sizes.insert(spot, sum(map(len, words)))
        turn = turn[:count]
        count -= len(turn)
        yield turn


def _type(at: int, word: str, doc: Doc[Any]) -> None:
    doc.get(TEXT, type=Text).insert(at, word)


def _delete(start: int, end: int, doc: Doc[Any]) -> None:
    del doc.get(TEXT, type=Text)[start:end]


TURNS: Mapping[str, Callable[[int], Iterator[Turn]]] = {"edits of a list": list_turns, "edits of a text": text_turns}


class _Author:
    """One of them: its document, and its chain of entries."""

    def __init__(self, key: IdentityKey, genesis: Genesis) -> None:
        self.entries = EntryWriter(key, genesis)
        self.doc: Doc[Any] = Doc(client_id=client_id(genesis.namespace, key.peer_id.raw, 1))
        self._known = 0
        self._updates: list[bytes] = []
        self._subscription = self.doc.observe(self._note)

    def _note(self, event: TransactionEvent) -> None:
        self._updates.append(event.update)

    def catch_up(self, log: Sequence[Entry]) -> None:
        """Apply what others have written meanwhile."""
        for entry in log[self._known :]:
            self.doc.apply_update(entry.body.payload)
        self._updates.clear()
        self._known = len(log)

    def write(self, turn: Turn, others: Iterable[_Author]) -> Iterator[Entry]:
        """Do what its turn is."""
        lasts = [last for other in others if (last := other.entries.last) is not None]
        deps = tuple(Dep(last.body.author, Lane.DATA, last.body.seq, last.mark) for last in lasts)
        for edit in turn:
            edit(self.doc)
            yield self.entries.write(self._updates.pop(), deps)
            deps = ()


def edited(keys: Sequence[IdentityKey], genesis: Genesis, turns: Iterable[Turn]) -> tuple[list[Entry], bytes]:
    """The entries of authors that take turns, and what plain pycrdt has of the same updates, as one update."""
    authors = [_Author(key, genesis) for key in keys]
    log: list[Entry] = []
    for author, turn in zip(cycle(authors), turns, strict=False):
        author.catch_up(log)
        log.extend(author.write(turn, [other for other in authors if other is not author]))
    whole: Doc[Any] = Doc(client_id=1)
    authors[0].catch_up(log)
    whole.apply_update(authors[0].doc.get_update())
    update: bytes = whole.get_update()
    return log, update
