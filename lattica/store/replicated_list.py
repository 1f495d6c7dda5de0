"""A list of a replicated document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from lattica.store.containers_host import Container
from lattica.store.roots import RootKind
from lattica.store.values import Storable, Value, decode_value, encode_value


class ReplicatedList(Container, Sequence[Value]):
    """A sequence of values that keeps everybody's insertions, in one order everywhere.

    An element is inserted and deleted, not replaced: two who replace one at the same time would get it twice. What is
    read is a copy, and changing that changes nothing.

    yrs finds an element by walking from the start: to read 2,000 that came one by one takes 15 ms, 16,000 a second.
    """

    KIND = RootKind.LIST

    def __len__(self) -> int:
        return len(self._array())

    def __iter__(self) -> Iterator[Value]:
        return iter(self.to_list())

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        places = range(len(self))[index]
        shared = self._array()
        if isinstance(places, int):
            return decode_value(shared[places])
        with self._host.ydoc.transaction():
            return [decode_value(shared[place]) for place in places]

    def to_list(self) -> list[Value]:
        """A copy of everything."""
        return self[:]

    def append(self, value: Storable) -> None:
        """Insert a value at the end, as `insert` does."""
        self.insert(len(self), value)

    def extend(self, values: Iterable[Storable]) -> None:
        """Insert values at the end: all of them, or none if one cannot be kept."""
        self._insert(len(self), list(values))

    def insert(self, index: int, value: Storable) -> None:
        """Insert a value before the one at ``index``; negative ones count from the end, the length is the end.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: The value cannot be kept; nothing is written.
            IndexError: There is no such place.
        """
        length = len(self)
        self._insert(length if index == length else range(length)[index], [value])

    def __delitem__(self, index: int | slice) -> None:
        """Delete one element, or all of a slice.

        Raises:
            StoreUsageError: There is no transaction.
            IndexError: There is no such element.
        """
        self._host.check_writing()
        places = range(len(self))[index]
        shared = self._array()
        if isinstance(places, int):
            del shared[places]
        elif places.step == 1 and places:
            del shared[places.start : places.stop]
        else:
            for place in sorted(places, reverse=True):
                del shared[place]

    def clear(self) -> None:
        """Delete every element that is known here; what others insert at the same time stays."""
        del self[:]

    def _insert(self, index: int, values: list[Storable]) -> None:
        self._host.check_writing()
        plain = [
            encode_value(value, f"{self._name}[{place}]", self._max_bytes) for place, value in enumerate(values, index)
        ]
        self._array()[index:index] = plain
