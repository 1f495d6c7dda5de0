"""Authors that write into one shared document at random, and take over from each other what they have written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pycrdt import (
    Array,
    Doc,
    Map,
    Text,
    TransactionEvent,
    UndoManager,
    XmlElement,
    XmlFragment,
    XmlText,
)

CLIENTS = (3, 2**33, 2**53 - 1)
WORDS = ("a", "plain text", "naïve", "😀x", "")
KEYS = ("red", "green")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What one transaction of an author has written.

    Attributes:
        client: The author's client ID.
        root: The root that it was about.
        key: The key in it; ``None`` if it is no map, or all keys may be concerned.
        update: The transaction's update.
        deleted: The encoded set of what it has deleted.
        before: The author's encoded state vector.
        after: The same afterwards.
    """

    client: int
    root: str
    key: str | None
    update: bytes
    deleted: bytes
    before: bytes
    after: bytes


class Author:
    """One replica of the document."""

    def __init__(self, client: int) -> None:
        self.doc: Doc[Any] = Doc(client_id=client)
        self.known: list[int] = []
        self.map: Map[Any] = self.doc.get("map", type=Map)
        self.array: Array[Any] = self.doc.get("array", type=Array)
        self.text: Text = self.doc.get("text", type=Text)
        self.xml: XmlFragment = self.doc.get("xml", type=XmlFragment)
        roots = {"map": self.map, "array": self.array, "text": self.text, "xml": self.xml}
        self._undo = {name: UndoManager(scopes=[root], capture_timeout_millis=0) for name, root in roots.items()}
        self._events: list[tuple[bytes, bytes, bytes, bytes]] = []
        self._subscription = self.doc.observe(self._note)

    def _note(self, event: TransactionEvent) -> None:
        self._events.append((event.update, event.delete_set, event.before_state, event.after_state))

    def write(self, action: int, number: int) -> list[Written]:
        """Do one thing; usually that is one transaction."""
        self._events.clear()
        write, root = _ACTIONS[action % len(_ACTIONS)]
        key = write(self, number)
        return [
            Written(
                client=self.doc.client_id,
                root=root,
                key=key,
                update=update,
                deleted=deleted,
                before=before,
                after=after,
            )
            for update, deleted, before, after in self._events
        ]

    def undo_or_redo(self, root: str, number: int) -> None:
        if number % 2:
            self._undo[root].undo()
        else:
            self._undo[root].redo()


class Authors:
    """Some authors, and the log of all that they have written: each entry after those that its author knew."""

    def __init__(self) -> None:
        self.authors = [Author(client) for client in CLIENTS]
        self.log: list[Written] = []

    def do(self, steps: Sequence[tuple[int, int, int]]) -> None:
        """For each step an author and an action with a number; beyond the actions: it takes over what another knows."""
        for who, action, number in steps:
            author = self.authors[who % len(self.authors)]
            if action < len(_ACTIONS):
                for written in author.write(action, number):
                    author.known.append(len(self.log))
                    self.log.append(written)
            else:
                self.take_over(author, self.authors[number % len(self.authors)])

    def take_over(self, author: Author, other: Author) -> None:
        """Apply what the other knows, in its order."""
        for index in other.known:
            if index not in author.known:
                author.doc.apply_update(self.log[index].update)
                author.known.append(index)


def _set_value(author: Author, number: int) -> str:
    key = KEYS[number % 2]
    author.map[key] = ({"deep": [1, None, {"x": number}]}, WORDS[number % 5], b"\xff", 1.25, True, 2**40)[number % 6]
    return key


def _set_shared(author: Author, number: int) -> str:
    key = KEYS[number % 2]
    author.map[key] = Map({"inner": Array([number, Text(WORDS[number % 5])])})
    return key


def _set_below(author: Author, number: int) -> str:
    key = KEYS[number % 2]
    inner = author.map.get(key)
    if isinstance(inner, Map):
        with author.doc.transaction():
            inner["inner"] = number
            inner["brief"] = Text("gone at once")
            del inner["brief"]
    return key


def _delete_key(author: Author, number: int) -> str:
    key = KEYS[number % 2]
    if key in author.map:
        del author.map[key]
    return key


def _undo(root: str) -> Callable[[Author, int], None]:
    return lambda author, number: author.undo_or_redo(root, number)


def _insert_values(author: Author, number: int) -> None:
    author.array.insert(number % (len(author.array) + 1), WORDS[number % 5])
    author.array.extend([number, None, [1, 2]])


def _insert_shared(author: Author, number: int) -> None:
    value = (Text("shared"), Map({"k": Map()}), Doc(), b"bytes")[number % 4]
    author.array.insert(number % (len(author.array) + 1), value)


def _delete_values(author: Author, number: int) -> None:
    if len(author.array):
        del author.array[number % len(author.array)]


def _insert_text(author: Author, number: int) -> None:
    at = 0 if number % 2 else len(author.text)
    author.text.insert(at, WORDS[number % 5], {"bold": True} if number % 3 else None)


def _format_text(author: Author, number: int) -> None:
    if len(author.text):
        author.text.format(0, len(author.text), {"bold": None, "style": {"font": [number]}})


def _embed(author: Author, number: int) -> None:
    author.text.insert_embed(0, {"image": WORDS[number % 5]}, {"wide": number})


def _delete_text(author: Author, number: int) -> None:
    if number % 4 == 0:
        author.text.clear()
    elif str(author.text).isascii() and len(author.text):
        at = number % len(author.text)
        del author.text[at : min(at + 3, len(author.text))]


def _insert_xml(author: Author, number: int) -> None:
    child = XmlElement("p", {"class": "x"}, [XmlText("word")]) if number % 3 else XmlText(WORDS[number % 5])
    author.xml.children.insert(number % (len(author.xml.children) + 1), child)


def _edit_xml(author: Author, number: int) -> None:
    if len(author.xml.children):
        child = author.xml.children[number % len(author.xml.children)]
        child.attributes["id"] = str(number)
        if isinstance(child, XmlText):
            child.insert(0, "more ", {"em": True})


def _delete_xml(author: Author, number: int) -> None:
    if len(author.xml.children):
        del author.xml.children[number % len(author.xml.children)]


_ACTIONS: list[tuple[Callable[[Author, int], str | None], str]] = [
    (_set_value, "map"),
    (_set_shared, "map"),
    (_set_below, "map"),
    (_delete_key, "map"),
    (_undo("map"), "map"),
    (_insert_values, "array"),
    (_insert_shared, "array"),
    (_delete_values, "array"),
    (_undo("array"), "array"),
    (_insert_text, "text"),
    (_format_text, "text"),
    (_embed, "text"),
    (_delete_text, "text"),
    (_undo("text"), "text"),
    (_insert_xml, "xml"),
    (_edit_xml, "xml"),
    (_delete_xml, "xml"),
    (_undo("xml"), "xml"),
]
ACTIONS = len(_ACTIONS)
