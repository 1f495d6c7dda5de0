"""Documents whose replaced values are in graves do what whole ones do, whatever comes, and hold less."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, fold_all, key_of

from lattica.store.canonical import canonical_update
from lattica.store.entry import ChainId, Entry
from lattica.store.graves import Worth
from lattica.store.namespace import Policy, create_genesis
from lattica.store.snapshot import bury_replaced, take_snapshot

AUTHORS = (1, 2, 3)


def replicas() -> list[SimReplica]:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    return [SimReplica(genesis, key_of(number)) for number in AUTHORS]


def whole(replica: SimReplica) -> bytes:
    return canonical_update(replica.replica.content().whole())


def reach(replica: SimReplica) -> tuple[dict[ChainId, int], int]:
    """How far it goes, but for hashes: yrs writes what is in a mapping in any order, and so other entries each time."""
    frontier = replica.replica.ledger.frontier()
    return {chain: head.seq for chain, head in frontier.heads.items()}, frontier.base


def is_buried(replica: SimReplica) -> bool:
    return replica.replica.content().graves is not None


def overwrite(replica: SimReplica, times: int) -> None:
    """Write each of three keys so many times, in turn."""
    for number in range(3 * times):
        assert replica.write(5 * number)


numbers = st.integers(0, 12).map(lambda number: 5 * number) | st.integers(0, 60)
"""What is written: most of it values of three keys."""

steps = st.lists(
    st.tuples(
        st.sampled_from(("write", "write", "write", "tell", "reload and tell", "compact")),
        st.integers(0, 2),
        st.integers(0, 2),
        numbers,
    ),
    min_size=25,
    max_size=50,
)


def check_alike(history: list[tuple[str, int, int, int]]) -> None:
    """The same story twice: in one of them replicas are loaded from snapshots at times."""
    loaded = replicas()
    plain = [SimReplica(loaded[0].genesis, key_of(number)) for number in AUTHORS]
    for action, who, whom, number in history:
        if action == "reload and tell":
            loaded[whom].reload()
        for world in (loaded, plain):
            if action == "write":
                world[who].write(number)
            elif action == "compact":
                world[0].compact()
            elif who != whom:
                world[whom].hear(world[who])
                world[whom].fold()
        for one, other in zip(loaded, plain, strict=True):
            assert (reach(one), one.state()) == (reach(other), other.state())
            assert whole(one) == whole(other)
    converge(loaded)
    fold_all(loaded)
    for one in loaded:
        one.reload()
    assert len({whole(one) for one in loaded}) == 1


@settings(deadline=None, max_examples=15)
@given(steps)
def test_a_document_with_graves_is_like_one_without(history: list[tuple[str, int, int, int]]) -> None:
    check_alike(history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(deadline=None, max_examples=600)
@given(steps)
def test_a_document_with_graves_is_like_one_without_in_many_stories(history: list[tuple[str, int, int, int]]) -> None:
    check_alike(history)


def test_what_was_replaced_is_not_in_the_document_any_more() -> None:
    writer = replicas()[0]
    overwrite(writer, 40)
    before, state = whole(writer), writer.state()
    size = len(writer.replica.ydoc.get_update())
    writer.reload()
    assert is_buried(writer)
    assert len(writer.replica.ydoc.get_update()) < size // 5
    assert (writer.state(), whole(writer)) == (state, before)


def check_made_whole(writer: SimReplica, late: Entry) -> None:
    """An entry that comes when what it builds on was buried makes a document like one that was whole all the time."""
    overwrite(writer, 5)
    plain = SimReplica(writer.genesis, key_of(3))
    plain.hear(writer)
    writer.reload()
    assert is_buried(writer)
    writer.receive([late])
    plain.receive([late])
    assert not is_buried(writer)
    assert (writer.state(), whole(writer)) == (plain.state(), whole(plain))


def test_a_value_that_was_written_before_those_that_were_buried_came_makes_the_document_whole() -> None:
    writer, late, _ = replicas()
    overwrite(writer, 3)
    late.hear(writer)
    entry = late.write(300)  # of the same key, after its third value
    assert entry is not None
    check_made_whole(writer, entry)


def test_a_first_value_of_a_key_that_has_others_makes_the_document_whole() -> None:
    writer, late, _ = replicas()
    entry = late.write(0)
    assert entry is not None
    check_made_whole(writer, entry)


def test_other_values_of_others_leave_the_graves_alone() -> None:
    writer, other, _ = replicas()
    overwrite(writer, 5)
    other.hear(writer)
    writer.reload()
    for number in (0, 1, 2, 5):  # of that key, of a list, of a text, and of a new key
        assert other.write(number)
    writer.hear(other)
    assert is_buried(writer)
    assert writer.state() == other.state()
    assert whole(writer) == whole(other)


def test_nothing_is_buried_where_little_would_be_saved() -> None:
    writer = replicas()[0]
    overwrite(writer, 40)
    snapshot = take_snapshot(writer.replica)

    def buried(worth: Worth) -> bool:
        return bury_replaced(snapshot, worth).document.graves is not None

    size = len(snapshot.document.update)
    assert buried(Worth(size, 0.5))
    assert not buried(Worth(size + 1, 0.5))
    assert not buried(Worth(size, 0.999))


def test_keys_that_have_no_value_any_more_keep_theirs() -> None:
    writer, late, _ = replicas()
    overwrite(writer, 3)
    late.hear(writer)
    for number in (3, 8, 13):
        assert writer.write(number)  # deletes a key
    assert writer.state()["map:settings"] == {}
    writer.reload()
    assert not is_buried(writer)
    entry = late.write(0)  # at the same time as they were deleted
    assert entry is not None
    writer.receive([entry])
    late.hear(writer)
    assert writer.state() == late.state()
    assert whole(writer) == whole(late)
