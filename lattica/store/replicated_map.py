"""Maps of a replicated document: of keys to values, of authors to their values, and of one value only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from lattica.store.containers_host import Container
from lattica.store.roots import RootKind
from lattica.store.values import Storable, Value, check_key, decode_value, encode_value


class _Entries(Container):
    """Single entries of a map root, decoded."""

    def _get(self, key: object) -> Value:
        shared = self._map()
        # pycrdt takes nothing but strings in UTF-8 for keys.
        if not _can_be_key(key) or key not in shared:
            raise KeyError(key)
        return decode_value(shared[key])

    def _has(self, key: object) -> bool:
        return _can_be_key(key) and key in self._map()

    def _set(self, key: str, value: object, where: str) -> None:
        self._host.check_writing()
        self._map()[key] = encode_value(value, where, self._max_bytes)

    def _remove(self, key: object) -> None:
        self._host.check_writing()
        if not self._has(key):
            raise KeyError(key)
        del self._map()[key]


class ReplicatedMap(_Entries, MutableMapping[str, Value]):
    """A mapping that merges key by key; of concurrent writes to one key, one wins, the same everywhere.

    A value is replaced as a whole: what is read is a copy, and changing that changes nothing.
    """

    KIND = RootKind.MAP

    def __getitem__(self, key: str) -> Value:
        return self._get(key)

    def __setitem__(self, key: str, value: Storable) -> None:
        """Write one value.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: The key or the value cannot be kept; nothing is written.
        """
        self._set(check_key(key, self._name), value, f"{self._name}[{key!r}]")

    def __delitem__(self, key: str) -> None:
        self._remove(key)

    def __contains__(self, key: object) -> bool:
        return self._has(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def clear(self) -> None:
        """Remove every key that is known here; what others write at the same time stays."""
        for key in self._keys():
            self._remove(key)

    def to_dict(self) -> dict[str, Value]:
        """A copy of everything, sorted by key."""
        return dict(self._items())


class OwnMap(_Entries, Mapping[str, Value]):
    """One value of each author, such as its presence: everybody reads all of them and writes its own."""

    KIND = RootKind.OWN

    def __getitem__(self, author: str) -> Value:
        return self._get(author)

    def __contains__(self, author: object) -> bool:
        return self._has(author)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def set(self, value: Storable) -> None:
        """Write our own value.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: The value cannot be kept; nothing is written.
        """
        self._set(self._host.author, value, self._name)

    def clear(self) -> None:
        """Remove our own value, if there is one."""
        self._host.check_writing()
        if self._has(self._host.author):
            self._remove(self._host.author)


class Register(_Entries):
    """One value; of concurrent writes, one wins, the same everywhere."""

    KIND = RootKind.REGISTER
    _KEY = "value"

    def get(self, default: Value = None) -> Value:
        """The value, or ``default`` if none is set."""
        return self._get(self._KEY) if self.is_set else default

    @property
    def is_set(self) -> bool:
        """Whether there is a value, which may be ``None``."""
        return self._has(self._KEY)

    def set(self, value: Storable) -> None:
        """Replace the value.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: The value cannot be kept; nothing is written.
        """
        self._set(self._KEY, value, self._name)

    def clear(self) -> None:
        """Leave no value; a concurrent `set` may win."""
        self._host.check_writing()
        if self.is_set:
            self._remove(self._KEY)


def _can_be_key(key: object) -> bool:
    return isinstance(key, str) and (key.isascii() or not any("\ud800" <= char <= "\udfff" for char in key))
