"""The address book: newest first, and bounded whoever fills it."""

from __future__ import annotations

import pytest

from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh import address_book
from lattica.mesh.address_book import MAX_BOOK_ADDRESSES, AddressBook

ALICE = IdentityKey.from_seed(bytes(32)).peer_id


def address(number: int) -> PeerAddress:
    return PeerAddress.tcp("192.0.2.1", number)


def peer(number: int) -> PeerId:
    return PeerId(bytes((0x12, 0x20)) + number.to_bytes(32))


def test_an_unknown_peer_has_no_addresses() -> None:
    assert AddressBook().of(ALICE) == []


def test_the_newest_address_comes_first() -> None:
    book = AddressBook()
    book.add(ALICE, [address(1), address(2)])
    book.add(ALICE, [address(3)])
    assert book.of(ALICE) == [address(3), address(2), address(1)]


def test_an_address_told_again_is_the_newest_and_not_there_twice() -> None:
    book = AddressBook()
    book.add(ALICE, [address(1), address(2)])
    book.add(ALICE, [address(1)])
    assert book.of(ALICE) == [address(1), address(2)]


def test_new_addresses_displace_old_ones() -> None:
    book = AddressBook()
    book.add(ALICE, [address(number) for number in range(1, MAX_BOOK_ADDRESSES + 6)])
    known = book.of(ALICE)
    assert len(known) == MAX_BOOK_ADDRESSES
    assert known[0] == address(MAX_BOOK_ADDRESSES + 5)
    assert address(5) not in known


def test_the_peer_told_of_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_book, "MAX_BOOK", 3)
    book = AddressBook()
    for number in range(3):
        book.add(peer(number), [address(1)])
    book.add(peer(0), [address(2)])
    book.add(peer(3), [address(1)])
    assert book.of(peer(1)) == []
    assert all(book.of(peer(number)) for number in (0, 2, 3))
