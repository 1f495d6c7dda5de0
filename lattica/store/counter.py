"""A counter of a replicated document."""

from __future__ import annotations

from lattica.errors import StoreValueError
from lattica.store.containers_host import Container
from lattica.store.roots import RootKind
from lattica.store.values import encode_value, is_integer


class Counter(Container):
    """An integer to which everybody can add, at the same time too: no addition is lost.

    Each author keeps the sum of its own additions under its own key. What is there and no integer counts as zero.
    """

    KIND = RootKind.COUNTER

    @property
    def value(self) -> int:
        """The sum of all additions that are known here."""
        return sum(self.by_author().values())

    def by_author(self) -> dict[str, int]:
        """What each author has added in sum, sorted by author."""
        return {author: value for author, value in self._items() if isinstance(value, int) and is_integer(value)}

    def add(self, amount: int = 1) -> None:
        """Add to the counter; negative amounts subtract.

        Raises:
            StoreUsageError: There is no transaction.
            StoreValueError: This is no integer, or our own sum would not fit 64 bits; nothing is written.
        """
        self._host.check_writing()
        if not is_integer(amount):
            reason = f"a counter takes integers of 64 bits, not this {type(amount).__qualname__}"
            raise StoreValueError(self._name, reason)
        author = self._host.author
        total = self.by_author().get(author, 0) + amount
        if not is_integer(total):
            raise StoreValueError(self._name, "the sum of all that was added here would not fit 64 bits")
        self._map()[author] = encode_value(total, self._name)
