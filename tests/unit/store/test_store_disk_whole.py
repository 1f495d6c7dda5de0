"""What is committed in a transaction of the whole store: read at once, durable together or not at all."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_batches import NAMESPACE, OTHER, batch, genesis, record

from lattica.errors import BatchRefusedError, ReplicaStoreError
from lattica.store.disk import StoreDisk, open_store_disk, open_store_transaction
from lattica.store.disk_batch import Record
from lattica.store.disk_view import StoreView, open_store_view


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


async def stored(disk: StoreView, namespace: bytes = NAMESPACE) -> list[Record]:
    return [entry for _, entry in await disk.records(namespace)]


async def begin(disk: StoreDisk) -> None:
    for namespace in (NAMESPACE, OTHER):
        await disk.commit(genesis(namespace))
        await disk.commit(batch(record(1), namespace=namespace))


async def test_what_is_committed_is_read_at_once_and_by_others_only_at_the_end(path: Path) -> None:
    async with open_store_transaction(path) as disk:
        await begin(disk)
        assert await stored(disk) == await stored(disk, OTHER) == [record(1)]
        async with open_store_view(path) as view:
            assert await view.namespaces() == {}
    async with open_store_disk(path) as disk:
        assert await stored(disk) == await stored(disk, OTHER) == [record(1)]


async def begin_and_fail(path: Path) -> None:
    async with open_store_transaction(path) as disk:
        await begin(disk)
        raise ZeroDivisionError


async def test_nothing_is_stored_when_the_block_raises(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        await begin_and_fail(path)
    async with open_store_disk(path) as disk:
        assert await disk.namespaces() == {}


async def test_a_batch_that_does_not_fit_hinders_no_other(path: Path) -> None:
    async with open_store_transaction(path) as disk:
        await begin(disk)
        with pytest.raises(BatchRefusedError):
            await disk.commit(batch(record(2), record(1, salt=b"fraud")))
        await disk.commit(batch(record(2)))
    async with open_store_disk(path) as disk:
        assert await stored(disk) == [record(1), record(2)]


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def write_more_than_fits(path: Path) -> None:
    async with open_store_transaction(path) as disk:
        await begin(disk)
        with no_file_larger_than(1 << 20), pytest.raises(ReplicaStoreError):
            await disk.commit(batch(record(2, size=16 << 20)))
        with pytest.raises(ReplicaStoreError):
            await disk.commit(batch(record(3)))


async def test_after_an_error_of_the_disk_nothing_is_stored_not_even_what_comes_later(path: Path) -> None:
    with pytest.raises(ReplicaStoreError):
        await write_more_than_fits(path)
    async with open_store_disk(path) as disk:
        assert await disk.namespaces() == {}
