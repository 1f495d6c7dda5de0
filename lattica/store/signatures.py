"""Checks signatures, when there are many in a process of its own.

A signature takes longer to check than its entry takes to be added, and both would hold the interpreter: with two
processors a replica that catches up does both at once. The process is begun when much comes in, and ends when nothing
does; where there is none, or only one processor, signatures are checked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from lattica.background import Background, outlast
from lattica.store import signature_process
from lattica.store.absorb import check_signatures
from lattica.store.entry import Entry, Verifier
from lattica.store.signature_process import ALL_GOOD, LENGTH

logger = logging.getLogger(__name__)

BULK = 100
"""Entries that come together, from which on it is worth asking another process."""
BEGIN_AFTER = 2000
"""Entries that have come in bulk before it is begun."""
IDLE_S = 15.0
"""Seconds after which it ends if nothing has come in bulk."""
ANSWER_S = 20.0
"""Seconds for it to answer; then it is given up."""


class SignatureChecker:
    """Checks entries' signatures for all documents of a store; a process is begun and ended as needed."""

    def __init__(self, tasks: Background, *, processors: int | None = None) -> None:
        self._tasks = tasks
        self._can_help = (processors or _processors()) > 1 and bool(sys.executable)
        self._is_running = False
        self._helper: _Helper | None = None
        self._in_bulk = 0

    @property
    def has_helper(self) -> bool:
        """Whether a process helps at present."""
        return self._helper is not None

    async def check(self, entries: Sequence[Entry], verifier: Verifier) -> None:
        """See `check_signatures`."""
        good = 0
        if len(entries) >= BULK and self._can_help:
            good = await self._ask(entries, verifier)
        check_signatures(entries[good:], verifier)

    async def _ask(self, entries: Sequence[Entry], verifier: Verifier) -> int:
        """How many entries, from the first on, have good signatures as far as the process says."""
        self._in_bulk += len(entries)
        if self._helper is not None:
            wrong = await self._helper.first_wrong([verifier.question(entry) for entry in entries])
            return len(entries) if wrong == ALL_GOOD else wrong or 0
        if self._in_bulk >= BEGIN_AFTER and not self._is_running:
            self._is_running = self._tasks.start_unless_ending(self._run()) is not None
        return 0

    async def _run(self) -> None:
        """Have the process while there is much to check."""
        try:
            async with _helper() as helper:
                self._helper = helper
                try:
                    await helper.serve()
                finally:
                    self._helper = None
        except (OSError, EOFError, TimeoutError) as error:
            logger.warning("signatures are checked without a process of their own from now on reason=%r", error)
            self._can_help = False
        finally:
            self._is_running, self._in_bulk = False, 0


class _Helper:
    """The process, as it is talked to: questions leave at once, and are answered in their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked: deque[asyncio.Future[int | None]] = deque()
        self._was_asked = asyncio.Event()

    async def first_wrong(self, signatures: Sequence[bytes]) -> int | None:
        """The index of the first that is wrong, or `ALL_GOOD`; ``None`` if the process ends before it says so."""
        parts = [part for each in signatures for part in (len(each).to_bytes(LENGTH), each)]
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._was_asked.set()
        self._writer.writelines([sum(map(len, parts)).to_bytes(LENGTH), *parts])
        return await answer

    async def serve(self) -> None:
        """Hand out answers until nothing has been asked for `IDLE_S` seconds.

        Raises:
            OSError, EOFError, TimeoutError: The process has failed.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._was_asked.wait()
            if not self._asked:
                return
            while self._asked:
                async with asyncio.timeout(ANSWER_S):
                    wrong = int.from_bytes(await self._reader.readexactly(LENGTH))
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result(wrong)
            self._was_asked.clear()

    def end(self) -> None:
        """Say no more: who waits for an answer gets none."""
        self._writer.transport.abort()
        for answer in self._asked:
            if not answer.done():
                answer.set_result(None)


@contextlib.asynccontextmanager
async def _helper() -> AsyncIterator[_Helper]:
    """A process, which has ended after the block."""
    ours, theirs = socket.socketpair()
    with theirs:
        # -P: or the modules beside it would stand before others of their names.
        command = [sys.executable, "-P", str(Path(signature_process.__file__))]
        try:
            child = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)  # noqa: ASYNC220, S603
        except BaseException:
            ours.close()
            raise
    try:
        helper = _Helper(*await asyncio.open_connection(sock=ours))
        try:
            yield helper
        finally:
            helper.end()
    finally:
        ours.close()
        child.kill()
        await outlast(asyncio.get_running_loop().run_in_executor(None, child.wait))


def _processors() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
