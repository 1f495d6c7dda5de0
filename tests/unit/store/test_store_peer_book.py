"""Whom to call and when, by a clock that stands still."""

from __future__ import annotations

import random

import pytest
from ledger_replicas import key_of

from lattica.identity import PeerId
from lattica.store.peer_book import (
    BAN_S,
    GIVE_UP,
    LATELY_PAUSE_S,
    LATELY_S,
    LONGEST_BAN_S,
    LONGEST_PAUSE_S,
    LONGEST_SEARCH_PAUSE_S,
    SEARCH_PAUSE_S,
    PeerBook,
)

A, B, C = (key_of(number).peer_id for number in (1, 2, 3))
SLACK = 1.25


@pytest.fixture
def book() -> PeerBook:
    return PeerBook(random.Random(1))


def pause(book: PeerBook, peer: PeerId, now: float) -> float:
    """Seconds until a peer is called again, to a hundredth."""
    steps = 0
    while peer not in book.due(now + steps / 100, 10, ()):
        steps += 1
    return steps / 100


def test_peers_that_were_found_are_called_but_not_those_in_touch_nor_more_than_wanted(book: PeerBook) -> None:
    for peer in (A, B, C, A):
        book.found(peer)
    assert len(book) == 3
    assert set(book.due(0, 10, {B})) == {A, C}
    assert len(book.due(0, 2, ())) == 2
    assert book.due(0, 0, ()) == []


def test_who_cannot_be_reached_is_called_ever_more_rarely_and_forgotten(book: PeerBook) -> None:
    book.found(A)
    now, pauses = 0.0, []
    while len(book):
        book.failed(A, now)
        if len(book):
            pauses.append(pause(book, A, now))
            now += pauses[-1]
    assert len(pauses) == GIVE_UP - 1
    assert pauses[0] < 2
    assert pauses[-1] > 30
    assert max(pauses) <= LONGEST_PAUSE_S * SLACK
    book.found(A)
    assert book.due(now, 10, ()) == [A]


def test_who_was_in_touch_lately_is_called_again_soon_for_a_while_and_forgotten_then(book: PeerBook) -> None:
    book.found(A)
    book.ended(A, 0, lasted=100)
    now = 0.0
    while now < LATELY_S - LONGEST_PAUSE_S:
        book.failed(A, now)
        assert pause(book, A, now) <= LATELY_PAUSE_S * SLACK
        now += LATELY_PAUSE_S * 20
    book.failed(A, LATELY_S + 1)
    assert len(book) == 0


def test_streams_that_end_at_once_are_not_opened_again_at_once(book: PeerBook) -> None:
    book.found(A)
    pauses = []
    for now in range(0, 100, 10):
        book.ended(A, now, lasted=0.01)
        pauses.append(pause(book, A, now))
    assert min(pauses) > 0.3
    assert max(pauses) > 1.4
    book.ended(A, 100, lasted=100)
    assert pause(book, A, 100) <= 0.5 * SLACK + 0.01


def test_who_breaks_the_rules_is_shunned_longer_each_time(book: PeerBook) -> None:
    book.found(A)
    now, bans = 0.0, []
    for _ in range(10):
        book.misbehaved(A, now)
        assert not book.is_welcome(A, now)
        assert book.due(now, 10, ()) == []
        ban = BAN_S
        while not book.is_welcome(A, now + ban):
            ban += BAN_S
        bans.append(ban)
        now += ban
        assert book.due(now, 10, ()) == [A]
    assert bans[:4] == [BAN_S, 2 * BAN_S, 4 * BAN_S, 8 * BAN_S]
    assert bans[-1] == LONGEST_BAN_S
    assert book.is_welcome(B, now)


def test_a_ban_outlasts_that_the_peer_is_forgotten_and_found_again(book: PeerBook) -> None:
    book.found(A)
    book.misbehaved(A, 0)
    for _ in range(GIVE_UP):
        book.failed(A, 0)
    assert len(book) == 0
    book.found(A)
    assert book.due(BAN_S - 1, 10, ()) == []
    assert not book.is_welcome(A, BAN_S - 1)


def test_strangers_under_any_number_of_names_cost_no_memory(book: PeerBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.peer_book.MAX_BANS", 5)
    monkeypatch.setattr("lattica.store.peer_book.MAX_PEERS", 5)
    for number in range(20):
        book.found(key_of(number).peer_id)
        book.misbehaved(key_of(number).peer_id, number)
    assert len(book) == 5
    assert [book.is_welcome(key_of(number).peer_id, 20) for number in range(20)] == [True] * 15 + [False] * 5


def test_those_that_do_not_answer_make_room_for_others(book: PeerBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody fills the book with names that are gone."""
    monkeypatch.setattr("lattica.store.peer_book.MAX_PEERS", 2)
    book.found(A)
    book.found(B)
    book.found(C)
    assert set(book.due(0, 10, ())) == {A, B}
    book.ended(A, 0, lasted=0)
    book.found(C)
    assert set(book.due(1000, 10, ())) == {B, C}


def test_searches_are_rare_while_nobody_is_found(book: PeerBook) -> None:
    now = 0.0
    assert book.may_search(now)
    for _ in range(6):
        book.searched(now, 0)
        assert not book.may_search(now + 1)
        now += book.search_pause * SLACK
        assert book.may_search(now)
    assert book.search_pause == LONGEST_SEARCH_PAUSE_S
    book.searched(now, 1)
    assert book.search_pause == SEARCH_PAUSE_S
    assert book.may_search(now + SEARCH_PAUSE_S * SLACK)
