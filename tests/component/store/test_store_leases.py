"""Leases of documents on two disks: who is a member, who is lost, and when ghosts vanish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from open_documents import Desk, advance, following, key_of, open_desk, stop_clocks
from waiting import until

from lattica.errors import LeaseLostError, StoreUsageError, StoreValueError
from lattica.store.clock import MAX_LEAD_S, MAX_SKEW_S
from lattica.store.members import MembersChange
from lattica.store.namespace import create_genesis
from lattica.store.values import Storable

GENESIS = create_genesis(key_of(0))
DEADLINE = 20.0


@pytest.fixture(autouse=True)
def _nobody_looks_without_having_been_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who withdraws has the time for it that a busy machine takes."""
    monkeypatch.setattr("lattica.store.lease_hold.MAX_WAIT_S", 3600.0)
    monkeypatch.setattr("lattica.store.members.MAX_WAIT_S", 3600.0)
    monkeypatch.setattr("lattica.store.lease_hold.WITHDRAW_S", DEADLINE)


@pytest.fixture
async def alice(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path / "alice.sqlite", GENESIS, key_of(0)) as desk:
        yield desk


@pytest.fixture
async def bob(tmp_path: Path, alice: Desk) -> AsyncIterator[Desk]:
    """Somebody who may write."""
    async with open_desk(tmp_path / "bob.sqlite", GENESIS, key_of(1)) as desk:
        await alice.document.grant(desk.peer)
        await desk.hear(alice)
        yield desk


async def next_of(changes: AsyncIterator[MembersChange]) -> MembersChange:
    async with asyncio.timeout(DEADLINE):
        return await anext(changes)


async def test_a_lease_is_seen_while_it_is_held(alice: Desk, bob: Desk) -> None:
    members = alice.document.members("workers")
    assert dict(members) == {}

    async with bob.document.hold("workers", {"layers": [0, 12]}):
        await alice.hear(bob)
        assert dict(members) == {bob.peer: {"layers": [0, 12]}}
        assert bob.peer in members
        assert len(members) == 1
        assert alice.peer not in members
    assert bob.peer in members  # has not heard yet
    await alice.hear(bob)

    assert dict(members) == {}


async def test_a_member_sees_itself(alice: Desk) -> None:
    async with alice.document.hold("workers", 1):
        assert dict(alice.document.members("workers")) == {alice.peer: 1}
        assert dict(alice.document.members("others")) == {}
    assert dict(alice.document.members("workers")) == {}


async def test_an_update_is_seen_instead(alice: Desk, bob: Desk) -> None:
    async with bob.document.hold("workers", 1) as lease:
        await lease.update({"load": 0.5})
        await alice.hear(bob)

        assert lease.value == {"load": 0.5}
        assert dict(alice.document.members("workers")) == {bob.peer: {"load": 0.5}}


async def test_a_lease_outlives_its_duration_while_it_is_renewed(alice: Desk, bob: Desk) -> None:
    stop_clocks(alice, bob)
    async with bob.document.hold("workers", 1, ttl=1.0) as lease, following(alice, bob):
        first = lease.until
        while bob.now() < first + 0.5:
            before = lease.until
            advance(0.5, alice, bob)
            await until(lambda before=before: lease.until > before)  # type: ignore[misc]
            assert lease.lost is None
        await until(lambda: dict(alice.document.members("workers")) == {bob.peer: 1})


async def test_who_watches_is_told_of_joins_updates_and_leaves_but_not_of_heartbeats(alice: Desk, bob: Desk) -> None:
    changes = alice.document.members("workers").changes()
    stop_clocks(alice, bob)
    async with following(alice, bob):
        async with bob.document.hold("workers", 1, ttl=1.0) as lease:
            first = lease.until
            assert await next_of(changes) == MembersChange(joined={bob.peer: 1})
            advance(0.5, alice, bob)
            await until(lambda: lease.until > first)
            await lease.update(2)
            assert await next_of(changes) == MembersChange(updated={bob.peer: 2})
        assert await next_of(changes) == MembersChange(left={bob.peer: 2})


async def test_a_ghost_vanishes_with_no_entry_coming(alice: Desk, bob: Desk) -> None:
    changes = alice.document.members("workers").changes()
    stop_clocks(alice, bob)
    async with bob.document.hold("workers", 1, ttl=1.0):
        await alice.hear(bob)
        assert await next_of(changes) == MembersChange(joined={bob.peer: 1})

        alice.stopped = None
        assert await next_of(changes) == MembersChange(left={bob.peer: 1})


async def test_a_ghost_whose_clock_was_ahead_vanishes_within_the_skew(alice: Desk, bob: Desk) -> None:
    stop_clocks(alice, bob)
    bob.ahead = MAX_SKEW_S - 1
    async with bob.document.hold("workers", 1, ttl=30.0):
        await alice.hear(bob)
    members = alice.document.members("workers")

    alice.ahead = 30.0 + MAX_SKEW_S - 5
    assert bob.peer in members
    alice.ahead = 30.0 + MAX_SKEW_S
    assert bob.peer not in members


async def step(desk: Desk) -> None:
    async with desk.document.transaction():
        desk.document.counter("steps").add(1)


async def test_a_slow_clock_is_set_right_by_what_it_hears(alice: Desk, bob: Desk) -> None:
    bob.ahead = -25.0
    async with alice.document.transaction():
        alice.document.counter("steps").add(1)
    await bob.hear(alice)

    async with bob.document.hold("workers", 1, ttl=10.0):
        await alice.hear(bob)
        assert bob.peer in alice.document.members("workers")


async def test_a_fast_clock_does_not_make_others_times_so_late_that_they_are_refused(
    tmp_path: Path, alice: Desk, bob: Desk
) -> None:
    bob.ahead = MAX_SKEW_S - 1
    await step(bob)
    await alice.hear(bob)
    await step(alice)
    latest = (await alice.disk.records(alice.document.namespace.raw))[-1][1].raw

    behind = MAX_SKEW_S - MAX_LEAD_S - 1
    async with open_desk(tmp_path / "carol", alice.document.genesis, key_of(9), ahead=-behind) as carol:
        await carol.journal.receive([latest])


async def test_a_fast_clock_ends_nobody_elses_lease(alice: Desk, bob: Desk) -> None:
    async with alice.document.hold("workers", 1, ttl=30.0):
        bob.ahead = MAX_SKEW_S - 1
        async with bob.document.transaction():
            bob.document.counter("steps").add(1)
        await alice.hear(bob)

        assert alice.peer in alice.document.members("workers")


async def test_who_is_revoked_is_no_member_and_is_told(alice: Desk, bob: Desk) -> None:
    changes = alice.document.members("workers").changes()
    async with bob.document.hold("workers", 1) as lease:
        await alice.hear(bob)
        assert (await next_of(changes)).joined
        await alice.document.revoke(bob.peer)
        assert await next_of(changes) == MembersChange(left={bob.peer: 1})
        assert lease.lost is None
        await bob.hear(alice)
        async with asyncio.timeout(DEADLINE):
            lost = await lease.wait_lost()

        assert "revoked" in str(lost)
        with pytest.raises(LeaseLostError, match="'workers' is lost: our right"):
            await lease.update(2)


async def test_a_lease_that_counts_no_more_is_written_again(alice: Desk, bob: Desk) -> None:
    """Revoked and granted anew, of which the holder hears at once: its record was cut, but it may go on."""
    async with bob.document.hold("workers", 1, ttl=600.0) as lease:
        await alice.document.revoke(bob.peer)  # knows nothing of the lease
        await alice.document.grant(bob.peer)
        await bob.hear(alice)
        async with following(alice, bob), asyncio.timeout(DEADLINE):
            while bob.peer not in alice.document.members("workers"):
                await asyncio.sleep(0.02)

        assert lease.lost is None


async def test_a_lease_that_could_not_be_renewed_in_time_is_lost(alice: Desk) -> None:
    async with alice.document.hold("workers", 1, ttl=1.0) as lease:
        async with alice.document.transaction(), asyncio.timeout(DEADLINE):
            lost = await lease.wait_lost()  # nobody else can write meanwhile
        assert "not renewed in time" in str(lost)


async def test_a_lease_is_lost_when_the_document_is_closed(alice: Desk) -> None:
    async with alice.document.hold("workers", 1) as lease:
        await alice.journal.close()
        async with asyncio.timeout(DEADLINE):
            assert "closed" in str(await lease.wait_lost())


async def test_watching_ends_when_the_document_is_closed(alice: Desk) -> None:
    changes = alice.document.members("workers").changes()
    async with alice.document.hold("workers", 1):
        assert await next_of(changes)
        await alice.journal.close()
        with pytest.raises(StopAsyncIteration):
            await next_of(changes)


async def test_a_cancelled_block_withdraws_its_lease(alice: Desk, bob: Desk) -> None:
    held = asyncio.Event()

    async def work() -> None:
        async with bob.document.hold("workers", 1):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await alice.hear(bob)

    assert dict(alice.document.members("workers")) == {}


async def test_a_block_that_is_cancelled_while_it_begins_leaves_no_lease(alice: Desk) -> None:
    async def work() -> None:
        async with alice.document.hold("workers", 1):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert alice.peer in alice.document.members("workers")  # though it is not durable yet
    assert alice.document.frontier().heads == {}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert dict(alice.document.members("workers")) == {}


async def test_an_error_of_the_block_comes_out_as_it_is(alice: Desk) -> None:
    with pytest.raises(ZeroDivisionError):
        async with alice.document.hold("workers", 1):
            raise ZeroDivisionError
    assert dict(alice.document.members("workers")) == {}


async def test_what_cannot_be_held_is_refused_and_leaves_nothing(alice: Desk, tmp_path: Path) -> None:
    async with alice.document.hold("workers", 1) as lease:
        with pytest.raises(StoreUsageError, match="held already"):
            async with alice.document.hold("workers", 2):
                pass
        with pytest.raises(StoreValueError, match="4096 bytes"):
            await lease.update("x" * 4096)
        async with alice.document.transaction():
            with pytest.raises(StoreUsageError, match="within a transaction"):
                await lease.update(3)
        assert lease.value == 1
    for ttl in (0.9, 86_401, float("nan")):
        with pytest.raises(StoreUsageError, match="out of range"):
            async with alice.document.hold("workers", 1, ttl=ttl):
                pass
    async with open_desk(tmp_path / "carol.sqlite", GENESIS, key_of(2)) as carol:
        with pytest.raises(StoreUsageError, match="right"):
            async with carol.document.hold("workers", 1):
                pass
    assert dict(alice.document.members("workers")) == {}


async def test_foreign_values_are_no_members(alice: Desk, bob: Desk) -> None:
    values: list[Storable] = [
        7,
        None,
        {"until": 1},
        {"value": 1},
        {"until": "x", "value": 1},
        {"until": 2**62, "value": 1},
        [1],
        b"",
    ]
    for value in values:
        async with bob.document.transaction():
            bob.document.own("workers").set(value)
        await alice.hear(bob)
        assert dict(alice.document.members("workers")) == {}


async def test_a_lease_that_was_left_behind_is_taken_over_after_a_restart(tmp_path: Path, alice: Desk) -> None:
    path = tmp_path / "dora.sqlite"
    await alice.document.grant(key_of(3).peer_id)
    async with open_desk(path, GENESIS, key_of(3)) as dora:
        await dora.hear(alice)
        async with dora.document.hold("workers", "before"):
            await dora.journal.close()  # as if killed: nothing can be withdrawn
    async with open_desk(path, GENESIS, key_of(3)) as dora:
        assert dict(dora.document.members("workers")) == {dora.peer: "before"}
        async with dora.document.hold("workers", "after"):
            assert dict(dora.document.members("workers")) == {dora.peer: "after"}
        assert dict(dora.document.members("workers")) == {}


async def test_a_lease_outlives_the_folding_of_its_history(alice: Desk, bob: Desk) -> None:
    async with bob.document.hold("workers", 1) as lease:
        await lease.update(2)
        await alice.hear(bob)

        assert await alice.document.compact()
        assert dict(alice.document.members("workers")) == {bob.peer: 2}
        await lease.update(3)
        await alice.hear(bob)
        assert dict(alice.document.members("workers")) == {bob.peer: 3}
