"""What containers need of the document that they are in, and what all of them share."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from pycrdt import Array, Doc, Map, Text

from lattica.store.roots import RootKind, root_name
from lattica.store.values import MAX_VALUE_BYTES, Value, decode_value


class DocumentHost(Protocol):
    """One replicated document, as its containers see it."""

    @property
    def author(self) -> str:
        """Our peer ID as text: the key in maps where each author has its own."""

    @property
    def ydoc(self) -> Doc[Any]:
        """The document as it is now.

        It may be replaced at any time, as when entries do not count any more: neither it nor its shared types may be
        kept between calls.
        """

    def check_writing(self) -> None:
        """Return if a transaction for writing is under way.

        Raises:
            StoreUsageError: There is none.
        """


class Container:
    """A root of a document. Reads need no transaction, and within one see what it has written; writes need one."""

    KIND: ClassVar[RootKind]

    def __init__(self, host: DocumentHost, name: str, *, max_bytes: int = MAX_VALUE_BYTES) -> None:
        """Access the root of this name; it need not exist, and is created by writing.

        Args:
            host: The document.
            name: 1 to 200 bytes, printable; roots of other kinds may have the same.
            max_bytes: How large one written value may be, in lib0's encoding.

        Raises:
            StoreUsageError: The name cannot be used.
        """
        self._root = root_name(self.KIND, name)
        self._host = host
        self._name = name
        self._max_bytes = max_bytes

    @property
    def name(self) -> str:
        """The name without the kind."""
        return self._name

    @property
    def root(self) -> str:
        """The root's name in the Yjs document, such as ``"map:settings"``."""
        return self._root

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def _map(self) -> Map[Any]:
        found: Map[Any] = self._host.ydoc.get(self._root, type=Map)
        return found

    def _keys(self) -> list[str]:
        """The keys of a map that have values, sorted: yrs gives them in any order."""
        shared = self._map()
        with self._host.ydoc.transaction():
            # pycrdt lists keys that hold a format, as nobody writes with this module, but finds nothing there.
            return sorted(key for key in shared if key in shared)

    def _items(self) -> list[tuple[str, Value]]:
        """The keys of a map with their values, decoded, sorted by key."""
        shared = self._map()
        with self._host.ydoc.transaction():
            return [(key, decode_value(shared[key])) for key in self._keys()]

    def _array(self) -> Array[Any]:
        found: Array[Any] = self._host.ydoc.get(self._root, type=Array)
        return found

    def _text(self) -> Text:
        return self._host.ydoc.get(self._root, type=Text)
