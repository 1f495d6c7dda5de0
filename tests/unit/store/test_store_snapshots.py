"""A replica that was loaded from a snapshot is the one that was dumped: it holds the same, and judges alike."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_replicas import NOW, SimReplica, converge, key_of
from ledger_stories import OWNER, Step, Story, policies, steps
from pycrdt import Map

from lattica.store.arrays import from_runs, pack, to_runs, unpack
from lattica.store.namespace import Policy, create_genesis
from lattica.store.replica import Replica
from lattica.store.snapshot import VERSION, dump_snapshot, load_snapshot, take_snapshot


def story_of(policy: Policy, history: list[Step]) -> Story:
    story = Story(create_genesis(key_of(OWNER), policy=policy))
    for step in history:
        story.do(*step)
    return story


def tell(replica: SimReplica) -> tuple[object, ...]:
    """All that can be told of a replica from outside."""
    refused = [(entry.hash, reason) for entry, reason in replica.refused]
    stored = [entry.hash for entry in replica.stored]
    return replica.digest, replica.state(), replica.replica.tops, replica.replica.ydoc.client_id, stored, refused


@pytest.mark.slow
@settings(deadline=None)
@given(policies, steps)
def test_reloaded_replicas_go_on_as_if_nothing_had_happened(policy: Policy, history: list[Step]) -> None:
    genesis = create_genesis(key_of(OWNER), policy=policy)
    story, reloaded = Story(genesis), Story(genesis)
    for step in history:
        story.do(*step)
        for replica in reloaded.everybody:
            replica.reload()
        reloaded.do(*step)
        assert list(map(tell, reloaded.everybody)) == list(map(tell, story.everybody))
    converge(story.everybody)
    converge(reloaded.everybody)
    assert list(map(tell, reloaded.everybody)) == list(map(tell, story.everybody))


@settings(deadline=None)
@given(policies, steps)
def test_a_snapshot_holds_what_a_full_replay_finds(policy: Policy, history: list[Step]) -> None:
    for replica in story_of(policy, history).everybody:
        replica.reload()
        loaded, size = (replica.digest, replica.state()), replica.replica.snapshotted
        replica.restart()
        assert (replica.digest, replica.state()) == loaded
        assert size == replica.replica.ledger.size


def small_replica() -> SimReplica:
    replica = SimReplica(create_genesis(key_of(OWNER)), key_of(OWNER))
    for number in range(5):
        replica.write(number)
    return replica


SMALL = small_replica()
SMALL_SNAPSHOT = dump_snapshot(take_snapshot(SMALL.replica))


@given(st.data())
def test_a_damaged_or_cut_snapshot_is_none(data: st.DataObject) -> None:
    raw = bytearray(SMALL_SNAPSHOT)
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans(), label="cut"):
        del raw[at:]
    else:
        raw[at] ^= data.draw(st.integers(1, 255))

    assert load_snapshot(SMALL.genesis, SMALL.key.peer_id.raw, {}, bytes(raw)) is None


def test_a_snapshot_of_another_version_is_none() -> None:
    raw = SMALL_SNAPSHOT
    version = VERSION.to_bytes(4)
    assert raw[4:8] == version

    other = raw[:4] + (VERSION + 1).to_bytes(4) + raw[8:]

    assert load_snapshot(SMALL.genesis, SMALL.key.peer_id.raw, {}, other) is None


def test_a_snapshot_of_another_namespace_or_author_is_none() -> None:
    raw = SMALL_SNAPSHOT
    own = SMALL.key.peer_id.raw

    assert load_snapshot(create_genesis(SMALL.key), own, {}, raw) is None
    assert load_snapshot(SMALL.genesis, key_of(2).peer_id.raw, {}, raw) is None
    assert load_snapshot(SMALL.genesis, own, {}, raw) is not None


def test_a_snapshot_from_before_a_fraud_was_proven_is_none() -> None:
    writer = SimReplica(create_genesis(key_of(OWNER), policy=Policy.OPEN), key_of(3))
    twin = writer.twin()
    writer.write(1)
    raw = dump_snapshot(take_snapshot(writer.replica))
    twin.write(2)
    writer.receive(twin.stored)
    assert writer.frauds

    assert load_snapshot(writer.genesis, writer.key.peer_id.raw, writer.frauds, raw) is None


def test_an_entry_that_sets_a_key_takes_fifty_bytes_at_most() -> None:
    key = key_of(OWNER)
    replica = Replica(create_genesis(key), key.peer_id.raw)
    updates: list[bytes] = []
    replica.ydoc.observe(lambda event: updates.append(event.update))
    sizes = []
    for _ in range(2):
        for number in range(1000):
            replica.ydoc.get("map:settings", type=Map)[f"key {number % 10}"] = number
            replica.add_own(replica.write(key, updates.pop(), NOW))
        sizes.append(len(dump_snapshot(take_snapshot(replica))))

    assert sizes[1] - sizes[0] < 50 * 1000


@given(st.lists(st.integers(1, 60), unique=True).map(sorted))
@example([])
@example([1, 2, 3, 2**63])
def test_rising_numbers_survive_as_runs(numbers: list[int]) -> None:
    runs = to_runs(array("Q", numbers))

    assert from_runs(runs) == array("Q", numbers)
    assert all(first + count < after for (first, count), (after, _) in pairwise(runs))


def test_numbers_are_packed_little_endian() -> None:
    assert pack(array("I", [1, 2**32 - 1])) == b"\1\0\0\0\xff\xff\xff\xff"
    assert unpack("I", b"\1\0\0\0\2\1\0\0") == array("I", [1, 258])
