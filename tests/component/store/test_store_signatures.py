"""Signatures are checked by a process beside the replica when many come, and here when it is of no help."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from stored_journals import Writer

from lattica.background import background_tasks
from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store import signatures
from lattica.store.entry import Entry, Verifier, read_entry
from lattica.store.namespace import Genesis, Policy, create_genesis
from lattica.store.signatures import BEGIN_AFTER, BULK, SignatureChecker

AUTHOR = IdentityKey.from_seed(b"a" * 32)
GENESIS: Genesis = create_genesis(AUTHOR, policy=Policy.OPEN)
ENTRIES: Sequence[Entry] = [read_entry(raw, GENESIS.namespace) for raw in Writer(GENESIS, AUTHOR).write(BULK)]


def forged(entry: Entry) -> Entry:
    return Entry(entry.chain, entry.body, entry.signed, entry.hash, bytes(64), entry.raw)


class Checking:
    """A checker with its process under way."""

    def __init__(self, checker: SignatureChecker) -> None:
        self.checker = checker
        self.verifier = Verifier(GENESIS.namespace)

    async def check(self, entries: Sequence[Entry] = ENTRIES) -> None:
        await self.checker.check(entries, self.verifier)

    async def begin(self) -> int:
        """Let so much come in that the process is begun; its ID."""
        async with asyncio.timeout(30):
            while not (self.checker.has_helper and helpers()):
                await self.check()
                await asyncio.sleep(0.01)
        (process,) = helpers()
        return process

    async def until_over(self) -> None:
        async with asyncio.timeout(20):
            while self.checker.has_helper or helpers():
                await asyncio.sleep(0.01)


def helpers() -> list[int]:
    """Process IDs of ours that check signatures."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == os.getpid() and b"signature_process.py" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def cpu_ticks(process: int) -> int:
    """What it has worked, in ticks of 10 ms."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


@contextlib.asynccontextmanager
async def checking(processors: int = 2) -> AsyncIterator[Checking]:
    async with background_tasks() as tasks:
        yield Checking(SignatureChecker(tasks, processors=processors))
    assert not helpers()


async def test_many_entries_begin_a_process_that_finds_a_forgery_among_them() -> None:
    async with checking() as it:
        process = await it.begin()
        before = cpu_ticks(process)
        for _ in range(20):
            await it.check()
        assert cpu_ticks(process) > before
        with pytest.raises(EntryRefusedError, match="signature is wrong"):
            await it.check([*ENTRIES[:70], forged(ENTRIES[70]), *ENTRIES[71:]])
        await it.check()
        assert it.checker.has_helper


async def test_questions_that_are_asked_together_get_each_its_own_answer() -> None:
    async with checking() as it:
        await it.begin()
        bad = [*ENTRIES[:-1], forged(ENTRIES[-1])]
        asked = [it.check(bad if number % 3 == 0 else ENTRIES) for number in range(12)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(outcome, EntryRefusedError) for outcome in found] == [
            number % 3 == 0 for number in range(12)
        ]


async def test_one_who_does_not_wait_for_an_answer_does_not_shift_the_others() -> None:
    async with checking() as it:
        await it.begin()
        gone = asyncio.create_task(it.check())
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(EntryRefusedError):
            await it.check([forged(ENTRIES[0]), *ENTRIES[1:]])
        await it.check()


async def test_few_entries_are_checked_here() -> None:
    async with checking() as it:
        for _ in range(BEGIN_AFTER // BULK + 5):
            await it.check(ENTRIES[: BULK - 1])
        assert not helpers()
        with pytest.raises(EntryRefusedError):
            await it.check([forged(ENTRIES[0])])


async def test_with_one_processor_all_are_checked_here() -> None:
    async with checking(processors=1) as it:
        for _ in range(BEGIN_AFTER // BULK + 5):
            await it.check()
        assert not helpers()
        with pytest.raises(EntryRefusedError):
            await it.check([forged(ENTRIES[0]), *ENTRIES[1:]])


async def test_without_a_program_to_run_all_are_checked_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    async with checking() as it:
        for _ in range(2 * BEGIN_AFTER // BULK):
            await it.check()
            await asyncio.sleep(0)
        assert not it.checker.has_helper
        with pytest.raises(EntryRefusedError):
            await it.check([forged(ENTRIES[0]), *ENTRIES[1:]])
    assert caplog.text.count("without a process of their own") == 1


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_process_that_fails_is_done_without(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with checking() as it:
        process = await it.begin()
        await it.check()  # it has answered: only now a question takes no longer than its work
        monkeypatch.setattr(signatures, "ANSWER_S", 0.5)
        os.kill(process, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        asked = [it.check(), it.check([forged(ENTRIES[0]), *ENTRIES[1:]]), it.check()]
        async with asyncio.timeout(20):
            found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in found] == [type(None), EntryRefusedError, type(None)]
        await it.until_over()
        await it.check()
        assert not it.checker.has_helper


async def test_a_process_without_work_ends_and_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "IDLE_S", 0.3)
    async with checking() as it:
        first = await it.begin()
        await it.until_over()
        second = await it.begin()
        assert first != second
        await it.check()


async def test_an_interrupt_from_a_terminal_leaves_the_process_to_its_owner() -> None:
    async with checking() as it:
        process = await it.begin()
        await it.check()  # it has answered: it has come so far as to ignore them
        os.kill(process, signal.SIGINT)
        await it.check()
        assert it.checker.has_helper
