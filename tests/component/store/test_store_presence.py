"""Presence in documents: told to others while the block runs, and never kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from open_documents import Desk, advance, key_of, open_desk, stop_clocks
from waiting import until

from lattica.errors import EntryRefusedError, StoreUsageError, StoreValueError
from lattica.store.members import MembersChange
from lattica.store.namespace import create_genesis
from lattica.store.presence import Presence

GENESIS = create_genesis(key_of(0))
DEADLINE = 20.0


@pytest.fixture(autouse=True)
def _nobody_looks_without_having_been_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattica.store.presence.MAX_WAIT_S", 3600.0)


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


async def test_others_see_who_is_present_until_it_goes(alice: Desk, bob: Desk) -> None:
    bob.document.presence.connect(alice.document.presence.receive)
    changes = alice.document.presence.changes()

    await bob.document.presence.set({"cursor": 1})
    assert alice.document.presence.values() == {bob.peer: {"cursor": 1}}
    assert await next_of(changes) == MembersChange(joined={bob.peer: {"cursor": 1}})
    await bob.document.presence.set({"cursor": 2})
    assert await next_of(changes) == MembersChange(updated={bob.peer: {"cursor": 2}})
    await bob.document.presence.set(None)
    assert await next_of(changes) == MembersChange(left={bob.peer: {"cursor": 2}})


async def test_who_has_just_come_is_told_by_a_snapshot(alice: Desk, bob: Desk) -> None:
    await bob.document.presence.set(1)
    for raw in bob.document.presence.snapshot():
        assert alice.document.presence.receive(raw)
        assert not alice.document.presence.receive(raw)

    assert alice.document.presence.values() == {bob.peer: 1}


async def test_presence_is_not_kept(alice: Desk) -> None:
    before = await alice.disk.records(GENESIS.namespace.raw)
    await alice.document.presence.set(1)

    assert await alice.disk.records(GENESIS.namespace.raw) == before
    assert alice.document.frontier().heads == {}


@pytest.mark.slow
async def test_presence_is_told_again_before_it_ends_and_a_ghost_vanishes(alice: Desk, bob: Desk) -> None:
    stop_clocks(alice, bob)
    presence = Presence(bob.journal, ttl=1.0)
    told: list[bytes] = []

    def tell(raw: bytes) -> None:
        told.append(raw)
        alice.document.presence.receive(raw)

    disconnect = presence.connect(tell)
    changes = alice.document.presence.changes()
    await presence.set(1)
    assert await next_of(changes) == MembersChange(joined={bob.peer: 1})

    for _ in range(3):
        told.clear()
        advance(0.5, alice, bob)
        await until(lambda: told)
    disconnect()
    advance(1.0, alice, bob)
    assert await next_of(changes) == MembersChange(left={bob.peer: 1}), "nothing else has happened before"


async def test_of_what_changes_quickly_the_newest_is_told(alice: Desk, bob: Desk) -> None:
    told: list[bytes] = []
    bob.document.presence.connect(told.append)

    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(bob.document.presence.set(number))

    assert len(told) <= 2
    assert alice.document.presence.receive(told[-1])
    assert alice.document.presence.values() == {bob.peer: 99}


async def test_others_are_told_when_the_document_is_closed(alice: Desk, bob: Desk) -> None:
    bob.document.presence.connect(alice.document.presence.receive)
    changes = alice.document.presence.changes()
    await bob.document.presence.set(1)
    assert (await next_of(changes)).joined

    await bob.journal.close()

    assert await next_of(changes) == MembersChange(left={bob.peer: 1})
    with pytest.raises(StoreUsageError, match="closed"):
        await bob.document.presence.set(1)


async def test_watching_ends_when_the_document_is_closed(alice: Desk) -> None:
    changes = alice.document.presence.changes()
    await alice.document.presence.set(1)
    assert (await next_of(changes)).joined

    await alice.journal.close()

    rest = [change async for change in changes]
    assert rest in ([], [MembersChange(left={alice.peer: 1})])


async def test_only_who_may_write_is_present(alice: Desk, bob: Desk, tmp_path: Path) -> None:
    async with open_desk(tmp_path / "carol.sqlite", GENESIS, key_of(2)) as carol:
        with pytest.raises(StoreUsageError, match="no right to write"):
            await carol.document.presence.set(1)
    disconnect = bob.document.presence.connect(alice.document.presence.receive)
    changes = alice.document.presence.changes()
    await bob.document.presence.set(1)
    assert (await next_of(changes)).joined

    await alice.document.revoke(bob.peer)

    assert await next_of(changes) == MembersChange(left={bob.peer: 1})
    disconnect()
    await bob.document.presence.set(2)  # has not heard of it
    [raw] = bob.document.presence.snapshot()
    with pytest.raises(EntryRefusedError, match="no right"):
        alice.document.presence.receive(raw)


async def test_a_value_that_cannot_be_told_leaves_the_old_one(alice: Desk) -> None:
    await alice.document.presence.set([1])
    with pytest.raises(StoreValueError, match="3840; tell less"):
        await alice.document.presence.set("x" * 4000)

    assert alice.document.presence.values() == {alice.peer: [1]}
