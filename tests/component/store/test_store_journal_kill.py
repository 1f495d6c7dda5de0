"""A document after kill -9: what was acknowledged is there, nothing is there in part, and writing goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lattica.store import NamespaceId
from lattica.store.testing import MemoryNetwork, key_of

# Four tasks write pairs, one breaks off what it writes, and the owner revokes and grants: so all is made anew at times.
WRITER = """
import asyncio, os, sys
from pathlib import Path
from lattica.store.testing import MemoryNetwork, key_of
from lattica.store import NamespaceId, Policy

async def write(document, number):
    count = 0
    while True:
        async with document.transaction():
            document.map("a")[f"{number} {count}"] = os.getpid()
            document.map("b")[f"{number} {count}"] = os.getpid()
        os.write(1, b"%d %d\\n" % (number, count))
        count += 1

async def break_off(document):
    while True:
        try:
            async with document.transaction():
                document.map("a")["never"] = 1
                await asyncio.sleep(0.001)
                raise ZeroDivisionError
        except ZeroDivisionError:
            await asyncio.sleep(0.02)

async def control(document):
    peer = key_of(os.getpid()).peer_id  # another one each time: of one author nobody gets more than 256 rights
    while True:
        await document.grant(peer)
        await document.revoke(peer)

async def main():
    async with MemoryNetwork().open(key_of(1), Path(sys.argv[1])) as store:
        known = [genesis.namespace for genesis in store.namespaces]
        document = await (store.open(known[0]) if known else store.create(policy=Policy.OPEN))
        os.write(1, b"%s\\n" % str(document.namespace).encode())
        await asyncio.gather(*(write(document, n) for n in range(4)), break_off(document), control(document))

asyncio.run(main())
"""


def run_and_kill(folder: Path, chance: random.Random) -> tuple[str, int, dict[str, int]]:
    """The namespace, the writers' process, and what they have acknowledged before they were killed."""
    paths = [str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randint(2, 150))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    whole = [line.decode().strip() for line in lines if line.endswith(b"\n")]
    return whole[0], process.pid, dict.fromkeys(whole[1:], process.pid)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
async def test_after_kill_9_what_was_acknowledged_is_there_and_nothing_in_part(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    for turn in range(rounds):
        name, process, acknowledged = run_and_kill(tmp_path, chance)
        async with MemoryNetwork().open(key_of(1), tmp_path) as store:
            document = await store.open(NamespaceId.parse(name))
            found = dict(document.map("a"))
            assert found == dict(document.map("b")), "a transaction is torn"
            assert "never" not in found
            assert {key: found.get(key) for key in acknowledged} == acknowledged
            assert process in found.values()
            assert not document.frontier().frozen
            async with document.transaction():
                document.map("a")[f"after {turn}"] = turn
                document.map("b")[f"after {turn}"] = turn
            assert not document.frontier().frozen
