"""The store's file read while a node has it: one moment of it, whatever comes after, and nothing is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_batches import NAMESPACE, batch, genesis, record

from lattica.errors import ReplicaStoreError
from lattica.store.disk import open_store_disk
from lattica.store.disk_batch import Record
from lattica.store.disk_view import StoreView, open_store_view

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from lattica.store.disk import open_store_disk
from store_batches import batch, genesis, record

async def main():
    async with open_store_disk(Path(sys.argv[1])) as disk:
        await disk.commit(genesis())
        await disk.commit(batch(record(1)))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


async def stored(view: StoreView) -> list[Record]:
    return [entry for _, entry in await view.records(NAMESPACE)]


async def test_a_view_stays_at_its_moment_while_the_node_writes_on(path: Path) -> None:
    async with open_store_disk(path) as disk:
        await disk.commit(genesis())
        await disk.commit(batch(record(1)))
        async with open_store_view(path) as view:
            changed = batch(record(2))
            changed.drop(record(1).author, record(1).lane, 1, 1)
            changed.snapshot(b"later", 1)
            await disk.commit(changed)

            assert await stored(view) == [record(1)]
            assert await view.snapshot(NAMESPACE) is None
            assert await stored(disk) == [record(2)]
        async with open_store_view(path) as view:
            assert await stored(view) == [record(2)]


def write_and_die(path: Path) -> None:
    paths = [str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL


async def test_a_view_of_a_killed_node_has_what_was_acknowledged_and_leaves_the_file_as_it_is(path: Path) -> None:
    write_and_die(path)
    log = path.with_name(path.name + "-wal")
    before = path.read_bytes(), log.read_bytes()
    assert before[1], "nothing is in the log alone"

    async with open_store_view(path) as view:
        assert await stored(view) == [record(1)]
    assert (path.read_bytes(), log.read_bytes()) == before

    async with open_store_disk(path) as disk:  # whoever writes is not in its way afterwards
        await disk.commit(batch(record(2)))
        assert await stored(disk) == [record(1), record(2)]


async def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(ReplicaStoreError):
        async with open_store_view(path):
            pytest.fail("it was opened")
    assert not path.exists()
