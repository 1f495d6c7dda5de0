"""Calls that must not run twice, while the server is killed or the connection is cut."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from append_log import Log, log_process
from mesh_rooms import Rooms, open_rooms

from lattica import rpc
from lattica.errors import LatticaError, OutcomeUnknownError, PeerUnreachableError
from lattica.identity import IdentityKey, PeerId
from lattica.rpc.batch_wire import MAX_SMALL

IN_FLIGHT = 1000


class Run:
    """Many calls, and what became of each."""

    def __init__(self, stub: Log, calls: int, padding: bytes = b"") -> None:
        self.stub = stub
        self.padding = padding
        self.calls = calls
        self.results: dict[int, int | LatticaError] = {}
        self._turn = asyncio.Semaphore(IN_FLIGHT)
        self._some = asyncio.Event()
        self._progress = asyncio.Event()

    async def all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.calls):
                tasks.create_task(self._one(number))

    async def some(self) -> None:
        """Return when a third has been answered."""
        await self._some.wait()

    async def progress(self) -> None:
        """Return when another call has been answered, or all have been."""
        self._progress.clear()
        if len(self.results) < self.calls:
            await self._progress.wait()

    async def _one(self, number: int) -> None:
        async with self._turn:
            try:
                call = self.stub.read if number % 10 == 0 else self.stub.append
                self.results[number] = await call(number, self.padding)
            except LatticaError as error:
                self.results[number] = error
            self._progress.set()
            if len(self.results) >= self.calls // 3:
                self._some.set()

    def check(self, path: Path) -> Counter[str]:
        """No line twice, each result's line there, clear errors only; how many of each, errors by what they say."""
        lines = [int(line) for line in path.read_text().split()]
        assert len(lines) == len(set(lines)), "a call was executed twice"
        assert len(self.results) == self.calls
        written = set(lines)
        for number, result in self.results.items():
            if isinstance(result, LatticaError):
                assert isinstance(result, OutcomeUnknownError | PeerUnreachableError), repr(result)
                assert number % 10, "an idempotent call failed"
            else:
                assert result == number
                assert number % 10 == 0 or number in written
        for said, times in Counter(str(error) for error in self.results.values() if not isinstance(error, int)).items():
            print(f"{times} calls: {said}")  # pytest shows it with a failure
        return Counter(type(result).__name__ for result in self.results.values())


def cut_all(alice: Rooms, peer: PeerId) -> None:
    for pipe in list(alice.mesh._table.of(peer)):
        alice.mesh._table.drop(pipe)


def knows_log(alice: Rooms, process_address: object) -> None:
    from lattica.identity import PeerAddress

    assert isinstance(process_address, PeerAddress)
    assert process_address.peer_id is not None
    alice.mesh.add_addresses(process_address.peer_id, [process_address])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calls", "size"),
    [
        pytest.param(3000, 0, id="small"),
        pytest.param(10_000, 0, id="many-small", marks=pytest.mark.slow),
        pytest.param(1500, MAX_SMALL + 1, id="large"),
    ],
)
async def test_no_call_runs_twice_when_the_server_is_killed_and_started_again(
    tmp_path: Path, calls: int, size: int
) -> None:
    key, path = IdentityKey.generate(), tmp_path / "log"
    async with open_rooms() as alice:
        async with log_process(key, path) as first:
            knows_log(alice, first.address)
            stub = alice.rpc.stub(Log, key.peer_id, timeout=45.0)
            await stub.read(0)
            run = Run(stub, calls, bytes(size))
            calling = asyncio.create_task(run.all())
            await run.some()
            await first.kill()
        port = int(first.address.text.split("/")[4])
        async with log_process(key, path, port):
            await calling
            outcome = run.check(path)
    assert outcome["int"] >= calls - IN_FLIGHT - 1
    assert outcome["PeerUnreachableError"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calls", "size"), [pytest.param(3000, 0, id="small"), pytest.param(300, MAX_SMALL + 1, id="large")]
)
async def test_every_call_succeeds_once_when_only_the_connection_is_cut(tmp_path: Path, calls: int, size: int) -> None:
    key, path = IdentityKey.generate(), tmp_path / "log"
    async with open_rooms() as alice, log_process(key, path) as server:
        knows_log(alice, server.address)
        stub = rpc.options(alice.rpc.stub(Log, key.peer_id), timeout=45.0)
        await stub.read(0)
        run = Run(stub, calls, bytes(size))
        calling = asyncio.create_task(run.all())
        await run.some()
        cut_all(alice, key.peer_id)
        await calling
        assert run.check(path) == Counter(int=calls)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
async def test_every_call_succeeds_once_when_connections_are_cut_as_soon_as_they_are_made(
    tmp_path: Path, seed: int
) -> None:
    """Also when a stream is lost before its server has said who it is, or while calls wait for it to say so."""
    rng, key, path, calls = random.Random(seed), IdentityKey.generate(), tmp_path / "log", 5000
    async with open_rooms() as alice, log_process(key, path) as server:
        knows_log(alice, server.address)
        stub = rpc.options(alice.rpc.stub(Log, key.peer_id), timeout=45.0)
        run = Run(stub, calls)
        await stub.read(0)
        calling = asyncio.create_task(run.all())
        while not calling.done():
            await asyncio.wait([calling], timeout=rng.choice([0.0, 0.001, 0.01, 0.1, 0.3]) * rng.random())
            cut_all(alice, key.peer_id)
            await run.progress()
        await calling
        assert run.check(path) == Counter(int=calls)
