"""A backup that is restored in a process which is killed, at each of its commits: all of it is there, or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lattica.store import Document
from lattica.store.archive import ArchivePart, write_archive
from lattica.store.backup import backup_parts
from lattica.store.disk_view import open_store_view
from lattica.store.namespace import NamespaceId, read_genesis
from lattica.store.testing import MemoryNetwork, key_of

ALICE, BOB = key_of(1), key_of(2)

# Restores as `lattica store import` does, and is killed before (even numbers) or after (odd) one of its commits.
RESTORE = """
import asyncio, os, signal, sys
from pathlib import Path
from lattica.background import background_tasks
from lattica.store.backup import read_backup, restore
from lattica.store.disk import StoreDisk, open_store_transaction
from lattica.store.testing import key_of

commit, moments = StoreDisk.commit, iter(range(10**6))

def pass_moment():
    if next(moments) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

async def commit_or_die(disk, batch):
    pass_moment()
    row = await commit(disk, batch)
    pass_moment()
    return row

async def main():
    with open(sys.argv[2], "rb") as file:
        backups = read_backup(file)
    async with open_store_transaction(Path(sys.argv[1])) as disk, background_tasks() as tasks:
        for backup in backups:
            await restore(key_of(2), disk, tasks, backup)

StoreDisk.commit = commit_or_die
asyncio.run(main())
"""


async def stored_parts(path: Path) -> list[ArchivePart]:
    async with open_store_view(path) as disk:
        found = (await disk.namespaces()).items()
        return [
            part
            for raw_id, raw in sorted(found)
            for part in await backup_parts(disk, read_genesis(raw, NamespaceId(raw_id)))
        ]


async def write(document: Document, first: int, last: int) -> None:
    for number in range(first, last):
        async with document.transaction():
            document.map("a")[f"{number}"] = number


async def archive(folder: Path) -> Path:
    """Of two documents, one of them compacted and written again, with rights; ``old.db`` has the other's beginning."""
    path = folder / f"{ALICE.peer_id}.db"
    async with MemoryNetwork().open(ALICE, folder) as store:
        document = await store.create("one")
        await write(document, 0, 3)
    shutil.copy(path, folder / "old.db")
    async with MemoryNetwork().open(ALICE, folder) as store:
        await write(await store.open(document.namespace), 3, 6)
        document = await store.create("two")
        await write(document, 0, 3)
        await document.grant(BOB.peer_id)
        assert await document.compact()
        await write(document, 3, 6)
    file = folder / "archive"
    with file.open("wb") as written:
        write_archive(written, await stored_parts(path))
    return file


def restore_and_kill(path: Path, file: Path, moment: int) -> bool:
    """Whether it was killed; else it has come to its end."""
    paths = [str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", RESTORE, str(path), str(file), str(moment)]
    code = subprocess.run(command, env=environment, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
async def test_a_backup_is_restored_as_a_whole_or_not_at_all_wherever_it_is_killed(tmp_path: Path) -> None:
    file = await archive(tmp_path)
    path = tmp_path / "restored.db"
    moment = 0
    while restore_and_kill(path, file, moment):
        assert await stored_parts(path) == []
        moment += 1
    assert moment > 8, "of each document the beginning, rights or a state, and entries"
    whole = await stored_parts(path)
    assert sorted(map(repr, whole)) == sorted(map(repr, await stored_parts(tmp_path / f"{ALICE.peer_id}.db")))


async def test_what_was_there_before_is_as_it_was_after_a_restoring_was_killed(tmp_path: Path) -> None:
    file = await archive(tmp_path)
    path = tmp_path / "old.db"
    before = await stored_parts(path)
    assert restore_and_kill(path, file, 5)
    assert await stored_parts(path) == before
    assert not restore_and_kill(path, file, 1000)
    assert len(await stored_parts(path)) > len(before)
