"""The store's file after kill -9 and with a damaged log: all that was acknowledged is there, and no batch is torn."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_batches import ALICE, DATA, NAMESPACE, batch, genesis, record

from lattica.errors import ReplicaStoreError
from lattica.store.disk import StoreDisk, open_store_disk
from lattica.store.disk_batch import Record

WRITERS = 4
BATCH = 3

# Each writer has a namespace, goes on where it was killed, and says the last number of each batch that is durable.
WRITER = f"""
import asyncio, os, sys
from pathlib import Path
import lattica.store.disk_schema as schema
from lattica.store.disk import open_store_disk
from store_batches import batch, genesis, record

async def write(disk, number):
    namespace = bytes([number]) * 32
    await disk.commit(genesis(namespace))
    _, seq = await disk.snapshot(namespace) or (b"", 0)
    while True:
        change = batch(*(record(seq + more, size=100) for more in range(1, {BATCH + 1})), namespace=namespace)
        seq += {BATCH}
        change.snapshot(b"up to %d" % seq, seq)
        await disk.commit(change)
        os.write(1, b"%d %d\\n" % (number, seq))

async def main():
    async with open_store_disk(Path(sys.argv[1])) as disk:
        await asyncio.gather(*(write(disk, number) for number in range({WRITERS})))

schema.CHECKPOINT_PAGES = int(sys.argv[2])
asyncio.run(main())
"""


def run_and_kill(path: Path, chance: random.Random) -> dict[int, int]:
    """Let the writers write, kill them at a random moment; the last acknowledged number of each."""
    paths = [str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    checkpoint_pages = chance.choice([5, 50, 4000])
    command = [sys.executable, "-c", WRITER, str(path), str(checkpoint_pages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        count = chance.choice([0, 1, 10, chance.randrange(1000)])
        if count == 0:
            time.sleep(chance.uniform(0, 0.5))  # while it starts, opens the file, and after that
        lines = [process.stdout.readline() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    acknowledged: dict[int, int] = {}
    for line in lines:
        if line.endswith(b"\n"):  # the last may be cut off
            number, seq = map(int, line.split())
            acknowledged[number] = seq
    return acknowledged


async def check_writer(disk: StoreDisk, number: int, acknowledged: int) -> None:
    namespace = bytes([number]) * 32
    records: list[Record] = []
    after = 0
    while page := await disk.records(namespace, after):
        records += [entry for _, entry in page]
        after = page[-1][0]
    assert len(records) >= acknowledged
    assert len(records) % BATCH == 0, "a batch is torn"
    assert records == [record(seq, size=100) for seq in range(1, len(records) + 1)]
    snapshot = (b"up to %d" % len(records), len(records)) if records else None
    assert await disk.snapshot(namespace) == snapshot, "a batch is torn"
    assert await disk.run(namespace, ALICE, DATA, 1, None, 1 << 30) == [entry.raw for entry in records]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rounds", [20, pytest.param(150, marks=pytest.mark.slow)])
async def test_after_kill_9_all_that_was_acknowledged_is_there_and_no_batch_is_torn(
    tmp_path: Path, rounds: int
) -> None:
    chance = random.Random(rounds)
    acknowledged = dict.fromkeys(range(WRITERS), 0)
    for turn in range(rounds):
        path = tmp_path / f"store-{turn // 10}.sqlite"  # each is killed ten times
        if turn % 10 == 0:
            acknowledged = dict.fromkeys(range(WRITERS), 0)
        acknowledged |= run_and_kill(path, chance)
        async with open_store_disk(path) as disk:
            for number, seq in acknowledged.items():
                await check_writer(disk, number, seq)


Damage = Callable[[bytearray, random.Random], None]


def cut(log: bytearray, chance: random.Random) -> None:
    del log[chance.randrange(len(log)) :]


def flip(log: bytearray, chance: random.Random) -> None:
    log[chance.randrange(len(log))] ^= 1 << chance.randrange(8)


def garble(log: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(log))
    size = min(len(log) - start, chance.randrange(1, 10_000))
    log[start : start + size] = chance.randbytes(size)


def zero_the_end(log: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(log))
    log[start:] = bytes(len(log) - start)


def append(log: bytearray, chance: random.Random) -> None:
    log += chance.randbytes(chance.randrange(1, 10_000))


DAMAGES = [cut, flip, garble, zero_the_end, append]


async def write_batches(disk: StoreDisk, first: int, last: int) -> None:
    for number in range(first, last):
        await disk.commit(batch(*batch_records(number)))


def batch_records(number: int) -> list[Record]:
    return [record(number * BATCH + more, size=300) for more in range(1, BATCH + 1)]


def copy_with_log(path: Path, target: Path, log: bytearray) -> Path:
    target.mkdir()
    shutil.copy(path, target / path.name)
    (target / f"{path.name}-wal").write_bytes(log)
    return target / path.name


@pytest.mark.parametrize("checkpointed", [0, 50], ids=["all in the log", "half in the log"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_with_a_damaged_log_the_file_holds_whole_batches_from_the_first_on(
    tmp_path: Path, damage: Damage, checkpointed: int
) -> None:
    """What a disk that lost its last writes may leave behind."""
    chance = random.Random(checkpointed)
    path = tmp_path / "store.sqlite"
    found = set()
    async with open_store_disk(path) as disk:
        await disk.commit(genesis())
        if checkpointed:
            await write_batches(disk, 0, checkpointed)
            disk._writer._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await write_batches(disk, checkpointed, 100)
        log = path.with_name("store.sqlite-wal").read_bytes()
        for turn in range(25):
            damaged = bytearray(log)
            damage(damaged, chance)
            async with open_store_disk(copy_with_log(path, tmp_path / str(turn), damaged)) as copy:
                records = [entry for _, entry in await copy.records(NAMESPACE)]
                batches = len(records) // BATCH
                found.add(batches)
                assert records == [entry for number in range(batches) for entry in batch_records(number)]
                await copy.commit(genesis())
                await copy.commit(batch(*batch_records(batches)))
    assert min(found) >= checkpointed
    assert max(found) <= 100
    assert (found == {100}) == (damage is append), "nothing was tried"


async def test_with_a_log_damaged_after_it_was_carried_over_there_is_a_clear_error_or_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a power loss can do: SQLite flushes the log before it carries it over. It must not crash us either."""
    monkeypatch.setattr("lattica.store.disk_schema.CHECKPOINT_PAGES", 20)
    chance = random.Random(1)
    reasons: list[str] = []
    written = {entry for number in range(200) for entry in batch_records(number)}
    path = tmp_path / "store.sqlite"
    async with open_store_disk(path) as disk:
        await disk.commit(genesis())
        for turn in range(40):
            await write_batches(disk, turn * 5, turn * 5 + 5)
            damaged = bytearray(path.with_name("store.sqlite-wal").read_bytes())
            chance.choice(DAMAGES)(damaged, chance)
            copied = copy_with_log(path, tmp_path / str(turn), damaged)
            try:
                async with open_store_disk(copied) as copy:
                    assert {entry for _, entry in await copy.records(NAMESPACE)} <= written
            except ReplicaStoreError as error:
                reasons.append(error.reason)
    assert all("it is damaged" in reason for reason in reasons)
