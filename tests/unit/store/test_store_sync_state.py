"""What follows from what two replicas have told each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from entry_forge import OTHER, OWNER, WRITER, Forge, value

from lattica.identity import IdentityKey
from lattica.store.entry import ChainId, Entry, Lane
from lattica.store.frontier import Frontier, Head
from lattica.store.ledger import Fraud, Ledger
from lattica.store.namespace import Limits, Policy, create_genesis
from lattica.store.sync_state import LONGEST_FUTILE_PAUSE_S, MAX_RETOLD, LinkState, last_common, locator_of, offer_of
from lattica.store.sync_wire import MAX_LOCATOR, MAX_PROOFS, NOTHING, Offer

DATA = ChainId(WRITER.peer_id.raw, Lane.DATA)
UNKNOWN = Offer(9, b"unknown!")


@pytest.fixture
def forge() -> Forge:
    return Forge(Policy.OPEN)


@pytest.fixture
def state() -> LinkState:
    return LinkState()


def written(forge: Forge, count: int, key: IdentityKey = WRITER) -> list[Entry]:
    return [forge.write(key) for _ in range(count)]


def offer(entry: Entry) -> Offer:
    return Offer(entry.body.seq, entry.hash[:8])


def names(count: int) -> Sequence[ChainId]:
    return [ChainId(number.to_bytes(38), Lane.DATA) for number in range(count)]


# what is told


def test_each_head_is_told_once_and_again_when_it_has_changed(forge: Forge, state: LinkState) -> None:
    first, second = written(forge, 1)[0], None
    assert state.news(forge.ledger.frontier()) == {DATA: offer(first)}
    assert state.news(forge.ledger.frontier()) == {}
    second = written(forge, 1)[0]
    assert state.news(forge.ledger.frontier()) == {DATA: offer(second)}


def test_what_the_peer_has_told_is_not_told_back(forge: Forge, state: LinkState) -> None:
    first, second = written(forge, 2)
    state.hear({DATA: offer(second)})
    assert state.news(forge.ledger.frontier()) == {}
    state.hear({DATA: offer(first)})
    assert state.news(forge.ledger.frontier()) == {}, "it was as if told"
    third = written(forge, 1)[0]
    state.got([(DATA, offer(third))])
    assert state.news(forge.ledger.frontier()) == {}
    state.got([(DATA, offer(first))])
    assert state.offered(DATA) == offer(third), "that it sends old entries does not mean that it lacks new ones"


def test_that_a_chain_does_not_count_any_more_is_told(forge: Forge, state: LinkState) -> None:
    written(forge, 1)
    full = forge.ledger.frontier()
    state.news(full)
    empty = Frontier(forge.namespace, {}, {})
    assert state.news(empty) == {DATA: NOTHING}
    assert state.news(empty) == {}
    assert len(state.news(full)) == 1


def test_many_heads_are_told_in_several_frames(forge: Forge, state: LinkState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.sync_state.NEWS_HEADS", 10)
    frontier = Frontier(forge.namespace, {name: Head(1, bytes(32)) for name in names(25)}, {})
    told: list[dict[ChainId, Offer]] = []
    while not told or state.is_behind:
        told.append(state.news(frontier))
    assert [len(one) for one in told] == [10, 10, 5]
    assert set().union(*told) == set(names(25))


def test_many_proofs_are_told_in_several_frames_and_each_once(forge: Forge, state: LinkState) -> None:
    """A peer takes so many only in a frame: all at once would look like an attack, and split the network for ever."""
    frauds = {name: Fraud(1, bytes(100), bytes(100)) for name in names(MAX_PROOFS + 5)}
    frontier = Frontier(forge.namespace, {}, dict.fromkeys(frauds, 1))
    told = []
    for _ in range(2):
        state.news(frontier)
        told.append((len(state.new_proofs(frontier, frauds)), state.is_behind))
    assert told == [(MAX_PROOFS, True), (5, False)]
    assert state.new_proofs(frontier, frauds) == []
    lower = {name: Fraud(0, b"", b"") for name in names(1)}
    assert len(state.new_proofs(Frontier(forge.namespace, {}, dict.fromkeys(lower, 0)), lower)) == 1


def test_large_proofs_are_told_one_at_a_time(forge: Forge, state: LinkState) -> None:
    frauds = {name: Fraud(1, bytes(1 << 20), bytes(1 << 20)) for name in names(3)}
    frontier = Frontier(forge.namespace, {}, dict.fromkeys(frauds, 1))
    assert [len(state.new_proofs(frontier, frauds)) for _ in range(4)] == [1, 1, 1, 0]


def test_proofs_are_told_again_with_the_entries_before_them(forge: Forge, state: LinkState) -> None:
    """The peer may have had no use for them before: its author had no right there, or was a stranger too many."""
    frauds = {name: Fraud(1, b"one", b"other") for name in names(3)}
    frontier = Frontier(forge.namespace, {}, dict.fromkeys(frauds, 1))
    assert state.new_proofs(frontier, frauds) == list(frauds.values())

    state.served([names(3)[1], DATA])

    assert state.new_proofs(frontier, frauds) == [frauds[names(3)[1]]]
    assert state.new_proofs(frontier, frauds) == []


def test_who_offers_what_a_fraud_makes_void_is_told_again_of_it_for_some_time(forge: Forge, state: LinkState) -> None:
    frauds = {name: Fraud(3, b"one", b"other") for name in names(2)}
    frontier = Frontier(forge.namespace, {}, dict.fromkeys(frauds, 3))
    state.new_proofs(frontier, frauds)

    state.hear({names(2)[0]: Offer(2, bytes(8)), names(2)[1]: Offer(3, bytes(8))})

    assert state.new_proofs(frontier, frauds) == [frauds[names(2)[1]]]
    told = 0
    for number in range(100):
        state.hear({names(2)[1]: Offer(4 + number, bytes(8))})
        told += len(state.new_proofs(frontier, frauds))
    assert told == MAX_RETOLD - 1


def test_that_strangers_are_left_out_is_told_once(state: LinkState) -> None:
    assert [state.new_full(is_full=is_full) for is_full in (False, True, True, False, True)] == [
        False,
        True,
        False,
        False,
        False,
    ]


# what is fetched


def test_what_could_not_be_placed_is_asked_for_again_when_more_is_taken_in(forge: Forge, state: LinkState) -> None:
    state.hear({DATA: UNKNOWN})
    assert state.to_fetch(forge.ledger, (), 0)
    state.answered(forge.ledger, 0)
    assert not state.to_fetch(forge.ledger, (), LONGEST_FUTILE_PAUSE_S)

    forge.ledger.crowd.vouch(DATA.author, 9)

    assert set(state.to_fetch(forge.ledger, (), LONGEST_FUTILE_PAUSE_S)) == {DATA}


def test_chains_of_strangers_that_are_not_taken_in_are_not_asked_for(state: LinkState) -> None:
    ledger = Ledger(create_genesis(OWNER, policy=Policy.OPEN, limits=Limits(strangers=0)))
    owners = ChainId(OWNER.peer_id.raw, Lane.DATA)
    state.hear(dict.fromkeys((owners, *names(3)), UNKNOWN))

    assert set(state.to_fetch(ledger, (), 0)) == {owners}
    assert state.leaves_out

    state.answered(ledger, 0)
    for name in names(3):
        ledger.crowd.vouch(name.author)
    assert set(state.to_fetch(ledger, (), 0)) == set(names(3))
    assert not state.leaves_out


def test_what_the_peer_has_more_of_is_asked_for_once(forge: Forge, state: LinkState) -> None:
    entries = written(forge, 3)
    state.hear({DATA: UNKNOWN})
    asked = state.to_fetch(forge.ledger, (), 0)
    assert asked == {DATA: [offer(entries[2]), offer(entries[1])]}
    assert state.to_fetch(forge.ledger, (), 0) == {}
    assert state.fetching == {DATA}


def test_what_is_here_is_not_asked_for_nor_what_somebody_else_sends(forge: Forge, state: LinkState) -> None:
    entries = written(forge, 3)
    state.hear({DATA: offer(entries[1])})
    assert state.to_fetch(forge.ledger, (), 0) == {}, "it has less"
    state.hear({DATA: offer(entries[2])})
    assert state.to_fetch(forge.ledger, (), 0) == {}, "it has the same"
    state.hear({DATA: UNKNOWN})
    assert state.to_fetch(forge.ledger, {DATA}, 0) == {}
    state.hear({DATA: NOTHING})
    assert state.to_fetch(forge.ledger, (), 0) == {}


def test_another_entry_with_the_number_of_our_last_one_is_asked_for(forge: Forge, state: LinkState) -> None:
    """It proves a fraud."""
    entries = written(forge, 2)
    state.hear({DATA: Offer(2, b"another.")})
    assert list(state.to_fetch(forge.ledger, (), 0)) == [DATA]
    assert last_common(forge.ledger.chain(DATA), [Offer(2, b"another."), offer(entries[0])]) == 1


def test_of_a_frozen_chain_only_what_comes_before_the_fraud_is_asked_for(forge: Forge, state: LinkState) -> None:
    written(forge, 1)
    one, other = forge.data(WRITER), forge.data(WRITER, value("list:other"))
    forge.freeze(one, other)
    state.hear({DATA: UNKNOWN})
    assert state.to_fetch(forge.ledger, (), 0) == {}
    short = Forge(Policy.OPEN)
    short.freeze(one, other)
    assert list(state.to_fetch(short.ledger, (), 0)) == [DATA], "the entry before is not here"


def test_a_question_fits_in_a_frame(forge: Forge, state: LinkState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.sync_state.MAX_WANTED", 10)
    state.hear(dict.fromkeys(names(25), UNKNOWN))
    assert len(state.to_fetch(forge.ledger, (), 0)) == 10
    first = state.fetching
    state.answered(forge.ledger, 0)
    assert len(state.to_fetch(forge.ledger, (), 0)) == 10
    assert not first & state.fetching


def test_what_the_peer_could_not_give_is_asked_for_again_only_when_something_is_new(
    forge: Forge, state: LinkState
) -> None:
    def asks(now: float) -> bool:
        asked = bool(state.to_fetch(forge.ledger, (), now))
        if asked:
            state.answered(forge.ledger, now)
        return asked

    state.hear({DATA: UNKNOWN})
    assert asks(0)
    assert not asks(1000), "nothing is new"
    written(forge, 1, OTHER)
    assert asks(1000)
    written(forge, 1, OTHER)
    assert not asks(1000.1), "too soon after the second time"
    assert asks(1000.3)
    state.hear({DATA: Offer(10, b"another.")})
    assert asks(1000.3), "it offers something else"
    for number in range(20):
        written(forge, 1, OTHER)
        asks(2000 + 100 * number)
    written(forge, 1, OTHER)
    assert not asks(3901 + LONGEST_FUTILE_PAUSE_S / 2)
    assert asks(3901 + LONGEST_FUTILE_PAUSE_S)
    written(forge, 1)
    assert asks(3902 + LONGEST_FUTILE_PAUSE_S), "we have come closer"


def test_what_is_offered_while_an_answer_comes_is_asked_for_when_it_has_ended(forge: Forge, state: LinkState) -> None:
    """The answer may have been on its way before, and nothing else need ever happen."""
    state.hear({DATA: Offer(2, b"second..")})
    assert state.to_fetch(forge.ledger, (), 0)
    state.hear({DATA: Offer(3, b"third...")})
    second = written(forge, 2)[-1]
    state.got([(DATA, offer(second))])
    state.answered(forge.ledger, 0)
    assert state.to_fetch(forge.ledger, (), 0) == {DATA: locator_of(forge.ledger.chain(DATA))}


# locators


@pytest.mark.parametrize("common", [0, 1, 2, 50, 99, 100])
def test_a_locator_finds_an_entry_close_to_the_last_one_in_common(forge: Forge, common: int) -> None:
    written(forge, 100)
    ours = forge.ledger.chain(DATA)
    theirs = Forge(Policy.OPEN)
    theirs.genesis, theirs.namespace, theirs.ledger = forge.genesis, forge.namespace, type(forge.ledger)(forge.genesis)
    for entry in forge.entries[:common]:
        theirs.add(entry)
    while theirs.ledger.chain(DATA).head < 100:
        theirs.write(WRITER, value("list:other"))
    locator = locator_of(theirs.ledger.chain(DATA))
    found = last_common(ours, locator)
    assert common - (100 - common + 1) <= found <= common
    assert len(locator) <= min(8, MAX_LOCATOR)
    assert last_common(theirs.ledger.chain(DATA), locator_of(ours)) == found


def test_a_peer_may_send_any_locator(forge: Forge) -> None:
    entries = written(forge, 3)
    chain = forge.ledger.chain(DATA)
    lies = [Offer(2**64 - 1, b"12345678"), Offer(0, b"12345678"), Offer(2, b"12345678"), offer(entries[0])]
    assert last_common(chain, lies) == 1
    assert last_common(chain, []) == 0
    assert last_common(forge.ledger.chain(ChainId(OWNER.peer_id.raw, 0)), lies) == 0


def test_a_head_is_told_by_the_beginning_of_its_hash() -> None:
    assert offer_of(Head(3, bytes(range(32)))) == Offer(3, bytes(range(8)))
