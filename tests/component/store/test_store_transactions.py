"""Transactions: all or nothing, whatever happens to them, and to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lattica.errors import DocumentUpdateError, LatticaError, ReplicaStoreError, StoreUsageError
from lattica.store import Change, Document, Limits, Place, ReplicatedStore, replica
from lattica.store.disk_writer import DiskWriter, Outcome
from lattica.store.entry import Entry
from lattica.store.testing import MemoryNetwork, converged, key_of

ALICE, BOB = key_of(1), key_of(2)
A = Place("map:m", "a")


@pytest.fixture
async def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
async def store(network: MemoryNetwork, tmp_path: Path) -> AsyncIterator[ReplicatedStore]:
    async with network.open(ALICE, tmp_path) as opened:
        yield opened


async def put(document: Document, key: str, value: int) -> None:
    async with document.transaction():
        document.map("m")[key] = value


def seen(document: Document) -> dict[str, object]:
    return dict(document.map("m"))


async def reopened(store: ReplicatedStore, document: Document) -> Document:
    await store.close(document.namespace)
    return await store.open(document.namespace)


class HeldDisk:
    """Holds up the disk's writer until it is let go; then it may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_write = threading.Event()
        self.may_write.set()
        self.failure: ReplicaStoreError | None = None
        apply = DiskWriter.apply

        def held(writer: DiskWriter, group: list[object]) -> list[Outcome]:
            assert self.may_write.wait(20)
            return [self.failure] * len(group) if self.failure else apply(writer, group)  # type: ignore[arg-type]

        monkeypatch.setattr(DiskWriter, "apply", held)

    async def hold(self) -> None:
        self.may_write.clear()

    def fail(self) -> None:
        self.failure = ReplicaStoreError(Path("held"), "the disk is gone")
        self.may_write.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> HeldDisk:
    return HeldDisk(monkeypatch)


async def test_a_transaction_that_raises_writes_nothing(store: ReplicatedStore) -> None:
    document = await store.create()
    await put(document, "a", 1)
    before = document.frontier()
    await broken_off(document)
    assert seen(document) == {"a": 1}
    assert document.frontier() == before
    await put(document, "b", 3)
    assert seen(await reopened(store, document)) == {"a": 1, "b": 3}


async def test_a_transaction_that_is_cancelled_writes_nothing_wherever_it_is_cancelled(store: ReplicatedStore) -> None:
    """Once more while what it had written is being taken back: no trace stays in memory, for others to build on."""
    document = await store.create()
    await put(document, "a", 0)

    async def write() -> None:
        async with document.transaction():
            document.map("m")["x"] = 1
            await asyncio.Event().wait()

    for steps in range(1, 13):
        task = asyncio.create_task(write())
        await asyncio.sleep(0)
        while not task.done():
            task.cancel()
            for _ in range(steps):
                await asyncio.sleep(0)
        await asyncio.wait([task])
        assert seen(document) == {"a": steps - 1}
        await put(document, "a", steps)
    assert seen(await reopened(store, document)) == {"a": 12}


async def test_a_write_that_is_cancelled_at_any_step_is_there_as_a_whole_or_not_at_all(store: ReplicatedStore) -> None:
    document = await store.create()
    texts = []
    for steps in range(40):
        task = asyncio.create_task(put_pair(document, steps))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            texts.append(steps)
        await put(document, "last", steps)
    pairs = dict((await reopened(store, document)).map("pairs"))
    assert all(pairs.get(f"a{n}") == pairs.get(f"b{n}") for n in range(40))
    assert all(f"a{n}" in pairs for n in texts), "an acknowledged write is lost"


async def put_pair(document: Document, number: int) -> None:
    async with document.transaction():
        document.map("pairs")[f"a{number}"] = number
        document.map("pairs")[f"b{number}"] = number


async def test_what_becomes_durable_meanwhile_is_not_lost_when_another_transaction_is_taken_back(
    store: ReplicatedStore, disk: HeldDisk
) -> None:
    """Neither by a message that brings nothing new between the two: a number used twice would be taken for fraud."""
    document = await store.create()
    await put(document, "a", 1)
    raws = [record.raw for _, record in await store.disk.records(document.namespace.raw)]
    await disk.hold()
    writing = asyncio.create_task(put(document, "b", 2))
    while "b" not in document.map("m"):
        await asyncio.sleep(0)
    repeated = asyncio.create_task(document._journal.receive(raws))
    breaking = asyncio.create_task(broken_off(document))
    await asyncio.wait([breaking], timeout=0.1)
    disk.may_write.set()
    await asyncio.gather(writing, repeated, breaking)
    assert seen(document) == {"a": 1, "b": 2}
    await put(document, "c", 3)
    assert seen(await reopened(store, document)) == {"a": 1, "b": 2, "c": 3}


async def broken_off(document: Document) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with document.transaction():
            document.map("m")["x"] = 1
            raise ZeroDivisionError


async def test_transactions_do_not_nest(store: ReplicatedStore) -> None:
    document = await store.create()
    async with document.transaction():
        document.map("m")["a"] = 1
        with pytest.raises(StoreUsageError, match="within another"):
            async with document.transaction():
                pass
        document.map("m")["b"] = 2
    assert seen(document) == {"a": 1, "b": 2}


async def test_what_would_wait_for_the_transaction_that_it_is_in_says_so(store: ReplicatedStore) -> None:
    document = await store.create()
    async with document.transaction():
        document.map("m")["a"] = 1
        with pytest.raises(StoreUsageError, match="transaction"):
            await document.grant(BOB.peer_id)
        with pytest.raises(StoreUsageError, match="transaction"):
            await document.revoke(BOB.peer_id)
        with pytest.raises(StoreUsageError, match="transaction"):
            await store.close(document.namespace)
    assert seen(document) == {"a": 1}
    await put(document, "b", 2)


async def test_only_the_task_of_the_transaction_writes_in_it(store: ReplicatedStore) -> None:
    document = await store.create()

    async def intrude() -> None:
        document.map("m")["b"] = 2

    async with document.transaction():
        document.map("m")["a"] = 1
        with pytest.raises(StoreUsageError, match="outside of a transaction"):
            await asyncio.create_task(intrude())
    with pytest.raises(StoreUsageError, match="outside of a transaction"):
        document.map("m")["c"] = 3
    assert seen(document) == {"a": 1}


async def test_transactions_of_several_tasks_come_one_after_the_other(store: ReplicatedStore) -> None:
    document = await store.create()

    async def add() -> None:
        async with document.transaction():
            value = document.register("n").get(0)
            await asyncio.sleep(0)
            document.register("n").set(value + 1)  # type: ignore[operator]

    await asyncio.gather(*(add() for _ in range(50)))
    assert document.register("n").get() == 50
    assert max(head.seq for head in document.frontier().heads.values()) == 50


async def test_too_large_a_transaction_is_refused_and_leaves_the_document_as_it_was(store: ReplicatedStore) -> None:
    document = await store.create(limits=Limits(entry=2000))
    await put(document, "a", 1)
    with pytest.raises(StoreUsageError, match=r"nothing was written: it has .* of at most 2000"):
        async with document.transaction():
            document.map("m")["b"] = "x" * 3000
    assert seen(document) == {"a": 1}
    await put(document, "c", 3)
    assert seen(await reopened(store, document)) == {"a": 1, "c": 3}


async def test_who_has_no_right_to_write_is_told_so(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob:
        ours = await alice.create()
        theirs = await bob.open(ours.namespace)
        await put(ours, "a", 1)
        await converged([ours, theirs])
        with pytest.raises(StoreUsageError, match="no right to write"):
            await put(theirs, "b", 2)
        with pytest.raises(StoreUsageError, match="no admin"):
            await theirs.grant(BOB.peer_id)
        assert seen(theirs) == {"a": 1}
        await ours.grant(BOB.peer_id)
        await converged([ours, theirs])
        await put(theirs, "b", 2)
        await converged([ours, theirs])
        assert seen(ours) == {"a": 1, "b": 2}


async def test_after_a_failure_of_the_disk_every_use_fails_alike(store: ReplicatedStore, disk: HeldDisk) -> None:
    document, other = await store.create(), await store.create()
    changes = document.changes()
    await put(document, "a", 1)
    assert (await anext(changes)).local
    await disk.hold()
    writes = [asyncio.create_task(put(document, key, 2)) for key in "bcd"]
    await asyncio.sleep(0)
    disk.fail()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, ReplicaStoreError) for result in results)
    for use in (put(document, "e", 3), document.grant(BOB.peer_id), document._journal.receive([]), anext(changes)):
        with pytest.raises(ReplicaStoreError, match="the disk is gone"):
            await use
    assert len(document.frontier().heads) == 1
    assert next(iter(document.frontier().heads.values())).seq == 1
    disk.failure = None
    await store.close(document.namespace)
    assert seen(await store.open(document.namespace)) == {"a": 1}
    await put(other, "a", 1)


async def test_when_what_a_broken_transaction_wrote_cannot_be_taken_back_the_document_fails(
    store: ReplicatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await store.create()
    await put(document, "a", 1)

    async def fail(*_: object) -> None:
        raise ReplicaStoreError(Path("here"), "it cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr("lattica.store.journal.load_replica", fail)
        await broken_off(document)
    with pytest.raises(ReplicaStoreError, match="cannot be read"):
        await put(document, "c", 3)
    assert seen(await reopened(store, document)) == {"a": 1}


async def test_when_a_write_ends_for_a_bug_the_document_fails_and_is_as_before_when_it_is_opened_again(
    store: ReplicatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await store.create()
    await put(document, "a", 1)

    def broken(*_: object) -> Entry:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(replica, "sign_entry", broken)
        with pytest.raises(ZeroDivisionError):
            await put(document, "b", 2)
    with pytest.raises(ReplicaStoreError, match="could not be written"):
        await put(document, "c", 3)
    document = await reopened(store, document)
    await put(document, "d", 4)
    assert seen(document) == {"a": 1, "d": 4}


async def test_an_open_transaction_is_finished_before_the_document_is_closed(store: ReplicatedStore) -> None:
    document = await store.create()
    entered, go = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with document.transaction():
            document.map("m")["a"] = 1
            entered.set()
            await go.wait()

    writing = asyncio.create_task(write())
    await entered.wait()
    closing = asyncio.create_task(store.close(document.namespace))
    opening = asyncio.create_task(store.open(document.namespace))
    late = asyncio.create_task(put(document, "late", 1))
    await asyncio.wait([closing, opening, late], timeout=0.05)
    assert not closing.done()
    assert not opening.done(), "it would not know of what is being written"
    go.set()
    await asyncio.gather(writing, closing)
    with pytest.raises(StoreUsageError, match="closed"):
        await late
    again = await opening
    assert seen(again) == {"a": 1}
    await put(again, "b", 2)
    assert document.frontier().frozen == {}
    with pytest.raises(StoreUsageError, match="open it again"):
        await put(document, "c", 3)


async def test_closing_that_is_cancelled_can_be_done_again_or_the_document_opened(store: ReplicatedStore) -> None:
    document = await store.create()
    for steps in range(15):
        await put(document, "n", steps)
        writing = asyncio.create_task(put(document, f"k{steps}", steps))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close(document.namespace))
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing, writing])
        document = await store.open(document.namespace)
        assert document.map("m")["n"] == steps
        if writing.exception() is None:
            assert document.map("m")[f"k{steps}"] == steps
        await put(document, "again", steps)
    assert document.frontier().frozen == {}


# changes


async def test_changes_tell_of_what_is_written_from_their_beginning_on(network: MemoryNetwork, tmp_path: Path) -> None:
    async with network.open(ALICE, tmp_path) as alice, network.open(BOB, tmp_path) as bob, asyncio.timeout(20):
        ours = await alice.create()
        theirs = await bob.open(ours.namespace)
        here, there = ours.changes(), theirs.changes()
        await put(ours, "a", 1)
        local, remote = await anext(here), await anext(there)
        assert local == Change(author=ALICE.peer_id, places=frozenset({A}), time=local.time, local=True)
        assert remote == Change(author=ALICE.peer_id, places=frozenset({A}), time=local.time)
        await alice.close(ours.namespace)
        assert [change async for change in here] == []
        assert [change async for change in ours.changes()] == []


async def test_a_slow_observer_is_told_to_look_at_everything(
    store: ReplicatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.changes.MAX_PENDING", 5)
    document = await store.create()
    slow = document.changes()
    for number in range(8):
        await put(document, f"k{number}", number)
    first, *rest = [await anext(slow) for _ in range(3)]
    assert first == Change(author=None, everything=True)
    assert [change.places for change in rest] == [{Place("map:m", f"k{number}")} for number in (6, 7)]


async def test_an_observer_that_nobody_waits_for_is_not_kept(store: ReplicatedStore) -> None:
    document = await store.create()
    watched = document.changes()
    assert document._journal.feed.observed
    del watched
    assert not document._journal.feed.observed


def test_errors_of_documents_can_be_raised_again() -> None:
    """The journal raises copies of what has failed."""
    for error in (StoreUsageError("a"), ReplicaStoreError(Path("a"), "b"), DocumentUpdateError("c")):
        copy: LatticaError = type(error)(*error.args)
        assert str(copy) == str(error)
