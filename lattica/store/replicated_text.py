"""A text of a replicated document."""

from __future__ import annotations

from itertools import accumulate
from operator import index as as_index
from typing import Any

from pycrdt import Text

from lattica.store.containers_host import Container
from lattica.store.roots import RootKind
from lattica.store.values import check_text


class ReplicatedText(Container):
    """A text that keeps everybody's insertions. Positions are in characters, as in `str`; none is ever cut in two.

    Formats and embedded objects, which other programs may write, are no characters and not shown.
    """

    KIND = RootKind.TEXT

    def __str__(self) -> str:
        return str(self._text())

    def __len__(self) -> int:
        return len(str(self))

    def append(self, text: str) -> None:
        """Insert text at the end, as `insert` does."""
        self.insert(len(self), text)

    def insert(self, index: int, text: str) -> None:
        """Insert text before the character at ``index``; the length is the end.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: The text is too long, or has half of a surrogate pair; nothing is written.
            IndexError: There is no such place.
        """
        self._host.check_writing()
        check_text(text, self._name, self._max_bytes)
        shared = self._text()
        places = _Places(shared)
        self._check_range(index, index, places.length)
        if text:
            shared.insert(places.after(as_index(index)), text)

    def delete(self, start: int, stop: int) -> None:
        """Delete the characters from ``start`` to before ``stop``.

        Raises:
            StoreUsageError: There is no transaction.
            IndexError: ``0 <= start <= stop <= len(text)`` does not hold.
        """
        self._host.check_writing()
        shared = self._text()
        places = _Places(shared)
        self._check_range(start, stop, places.length)
        if start < stop:
            del shared[places.before(as_index(start)) : places.after(as_index(stop))]

    def clear(self) -> None:
        """Delete every character that is known here; what others insert at the same time stays."""
        self.delete(0, len(self))

    def _check_range(self, start: int, stop: int, length: int) -> None:
        if not 0 <= as_index(start) <= as_index(stop) <= length:
            span = f"{start}" if start == stop else f"{start}:{stop}"
            raise IndexError(f"{self._name} has {length} characters; there is no place {span}")


class _Places:
    """Where characters are for pycrdt, which counts bytes of UTF-8, and one for each embedded object."""

    def __init__(self, shared: Text) -> None:
        self._text = str(shared)
        self.length = len(self._text)
        plain = len(shared) == len(self._text.encode())
        self._objects = [] if plain else _places_of_objects(shared.diff())

    def after(self, index: int) -> int:
        """The place directly after ``index`` characters."""
        return self._bytes(index) + sum(1 for place in self._objects if place < index)

    def before(self, index: int) -> int:
        """The place directly before the character at ``index``."""
        return self._bytes(index) + sum(1 for place in self._objects if place <= index)

    def _bytes(self, index: int) -> int:
        return len(self._text[:index].encode())


def _places_of_objects(chunks: list[tuple[Any, Any]]) -> list[int]:
    """Before which character each embedded object is."""
    sizes = [len(content) if isinstance(content, str) else 0 for content, _ in chunks]
    ends = accumulate(sizes)
    return [end for end, (content, _) in zip(ends, chunks, strict=True) if not isinstance(content, str)]
