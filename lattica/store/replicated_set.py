"""A set of a replicated document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

from lattica.errors import StoreValueError
from lattica.store.containers_host import Container, DocumentHost
from lattica.store.roots import RootKind
from lattica.store.values import MAX_DEPTH, decode_value, encode_value

Element: TypeAlias = "str | int | bool | bytes | tuple[Element, ...] | None"
"""What a set can hold."""

MAX_ELEMENT_BYTES: Final = 1024
"""Of one element, unless its set says otherwise. It is kept twice: as key and as value."""


class ReplicatedSet(Container):
    """A set where adding wins: an element that somebody adds while another discards it is in the set.

    For that, each author adds under a key of its own, ``element@author``. Under a common key Yjs would keep one of two
    concurrent additions only, and then lose the element with that one. So `discard` and ``in`` look at all keys.

    Elements of different types are different: ``1`` and ``True`` can both be in it.
    """

    KIND = RootKind.SET

    def __init__(self, host: DocumentHost, name: str, *, max_bytes: int = MAX_ELEMENT_BYTES) -> None:
        """Access the set of this name; see `Container`."""
        super().__init__(host, name, max_bytes=max_bytes)

    def __len__(self) -> int:
        return len(self._elements())

    def __iter__(self) -> Iterator[Element]:
        """The elements, in one order everywhere."""
        return iter(self._elements().values())

    def __contains__(self, element: object) -> bool:
        canonical = element_key(element)
        shared = self._map()
        return any(element_key(decode_value(shared[key])) == canonical for key in self._keys_of(canonical))

    def to_set(self) -> set[Element]:
        """A copy; in it, as in any set of Python, ``1`` and ``True`` are one."""
        return set(self)

    def add(self, element: Element) -> None:
        """Have the element in the set; also if it is there, so that it survives being discarded at the same time.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: The element cannot be kept; nothing is written.
        """
        self._host.check_writing()
        where = f"{self._name}, an element"
        plain = encode_value(element, where, self._max_bytes)
        key = element_key(element)
        if key is None:
            raise StoreValueError(where, "sets take None, bool, int, str, bytes, and tuples of these")
        self._map()[f"{key}@{self._host.author}"] = plain

    def discard(self, element: Element) -> None:
        """Remove the element, if it is there; additions that are not known here stay.

        Raises:
            StoreUsageError: There is no transaction.
        """
        self._host.check_writing()
        shared = self._map()
        for key in self._keys_of(element_key(element)):
            del shared[key]

    def clear(self) -> None:
        """Remove every element that is known here."""
        self._host.check_writing()
        shared = self._map()
        for key in self._keys():
            del shared[key]

    def _keys_of(self, canonical: str | None) -> list[str]:
        """The keys under which authors have added the element of this canonical text."""
        shared = self._map()
        found = [key for key in shared if key.rpartition("@")[0] == canonical]
        return [key for key in found if key in shared]

    def _elements(self) -> dict[str, Element]:
        """By canonical text, sorted. What is not under its own key does not count."""
        found: dict[str, Element] = {}
        for key, value in self._items():
            canonical = key.rpartition("@")[0]
            if element_key(value) == canonical:
                found[canonical] = cast("Element", value)
        return found


def element_key(element: object, depth: int = 0) -> str | None:
    """The element's canonical text, different for different elements; ``None`` if sets cannot hold it.

    Like JSON, with ``0x6869`` for bytes and ``("a",1)`` for tuples.
    """
    if element is None or type(element) in (bool, int, str):
        return _json(element)
    if type(element) is bytes:
        return f"0x{element.hex()}"
    if type(element) is not tuple or depth == MAX_DEPTH:
        return None
    parts = [element_key(part, depth + 1) for part in element]
    known = [part for part in parts if part is not None]
    return f"({','.join(known)})" if len(known) == len(parts) else None


def _json(value: object) -> str | None:
    try:
        return json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer of thousands of digits
        return None
