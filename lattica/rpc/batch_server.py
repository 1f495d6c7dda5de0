"""Batched calls of one peer over one stream: the server's side."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import grpc
import msgspec

from lattica.errors import RemoteProtocolError
from lattica.identity import PeerId
from lattica.rpc import batch_wire as wire
from lattica.rpc.call_answers import Answer, outcome_of_answer
from lattica.rpc.call_memory import CallMemory, Entry
from lattica.rpc.call_server import CallServer
from lattica.rpc.caller import caller_id
from lattica.rpc.codec import Encoded
from lattica.rpc.codec.arrays import Buffer
from lattica.rpc.counted_call import BATCHED
from lattica.rpc.gathering import CROWD, wait_for_more
from lattica.rpc.outcomes import OK, outcome_of_failure

MAX_UNREAD = 4096
"""Answers that wait for a caller that reads none; until it does, no further calls of its are read."""
MAX_UNREAD_BYTES = 64 << 20
"""Their bytes."""
MAX_HALVED = wire.MAX_BATCH_CALLS * 3 // 4
"""Calls of a message that may be begun in halves: when one is almost full, others are under way behind it."""


class BatchStream:
    """One stream of a caller; made by `serve_session`.

    Attributes:
        kind: What it carries.
        is_open: Whether answers can be sent.
    """

    def __init__(self, server: CallServer, context: Any, kind: wire.SessionKind = wire.SMALL) -> None:
        self.kind = kind
        self.is_open = True
        self._server = server
        self._context = context
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._results: list[wire.EncodedResult] = []
        self._buffers: deque[Sequence[Buffer]] = deque()  # of each result that has any
        self._unread = 0
        self._failures: deque[wire.Failure] = deque()
        self._large: list[int] = []
        self._counted: dict[str, int] = {}

    def answer(self, number: int, answer: Answer | None) -> None:
        """Send an answer with the next message."""
        if isinstance(answer, bytes) and len(answer) <= self.kind.max_value:
            self._results.append((number, msgspec.Raw(answer)))
            self._unread += len(answer)
        elif isinstance(answer, Encoded) and (size := answer.size) <= self.kind.max_value:
            self._results.append((number, msgspec.Raw(answer.body), wire.sizes_of(answer.buffers)))
            self._buffers.append(answer.buffers)
            self._unread += size
        elif isinstance(answer, wire.Failure):
            self._failures.append(answer)
        else:
            self._large.append(number)
        self._wake.set()

    def answer_again(self, number: int, answer: Answer) -> None:
        """Send an answer that was to be sent on another stream, and has been counted there."""
        outcome = outcome_of_answer(answer)
        self._counted[outcome] = self._counted.get(outcome, 0) + 1
        self.answer(number, answer)

    async def wait_room(self) -> None:
        """Return when the caller has read enough of its answers."""
        while len(self._results) + len(self._failures) > MAX_UNREAD or self._unread > MAX_UNREAD_BYTES:
            self._room.clear()
            await self._room.wait()

    async def write(self) -> None:
        """Send answers until cancelled."""
        server, context = self._server, self._context
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._results or self._failures or self._large:
                if server.dispatcher.running >= CROWD:
                    await wait_for_more()
                await context.write(self._message(server.dispatcher.running))
                self._room.set()

    def _message(self, load: int) -> bytes:
        limit, room, count = wire.MAX_BATCH_CALLS, self.kind.max_batch, 0
        buffers: list[Buffer] = []
        for result in self._results[:limit]:
            if room <= 0:
                break
            room -= len(memoryview(result[1]))
            if len(result) == 3:
                room -= sum(result[2])
                buffers += self._buffers.popleft()
            count += 1
        self._unread -= self.kind.max_batch - room
        results, self._results = self._results[:count], self._results[count:]
        failures: list[wire.Failure] = []
        while self._failures and room > 0 and len(failures) < limit:
            failure = self._failures.popleft()
            room -= wire.UTF8_BYTES * (len(failure.kind) + len(failure.message) + len(failure.traceback))
            failures.append(failure)
        large, self._large = self._large[:limit], self._large[limit:]
        self._count(len(results) + len(large), failures)
        message = wire.encode_responses(results, failures, large, load, buffers)
        self._server.metrics.bytes("server", "sent", len(message))
        return message

    def _count(self, ok: int, failures: Iterable[wire.Failure]) -> None:
        ended = {OK: ok}
        for failure in failures:
            outcome = outcome_of_failure(failure.code)
            ended[outcome] = ended.get(outcome, 0) + 1
        if self._counted:
            for outcome, n in ended.items():
                before = min(n, self._counted.get(outcome, 0))
                ended[outcome] -= before
                self._counted[outcome] = self._counted.get(outcome, 0) - before
        for outcome, n in ended.items():
            if n:
                self._server.metrics.calls("server", BATCHED, outcome, "", n)

    def close(self) -> None:
        """Take no more answers; those that are left have been given for nothing."""
        self.is_open = False
        self._count(len(self._results) + len(self._large), self._failures)


async def serve_session(server: CallServer, kind: wire.SessionKind, context: Any) -> None:
    """Serve a stream until its caller ends it."""
    peer = caller_id(context)
    metadata = dict(context.invocation_metadata() or ())
    try:
        memory, known = server.memory_of(peer, bytes(metadata.get(wire.INSTANCE_KEY, b"")))
    except RemoteProtocolError as error:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.reason)
    stream = BatchStream(server, context, kind)
    server.joined(memory, stream)  # from here on it is not forgotten for others
    try:
        await context.send_initial_metadata(
            ((wire.INSTANCE_KEY, memory.name), (wire.KNOWN_KEY, "1" if known else "0")),
        )
        await _serve(server, peer, memory, stream, context)
    finally:
        server.left(memory, stream)


async def _serve(server: CallServer, peer: PeerId, memory: CallMemory, stream: BatchStream, context: Any) -> None:
    loop = asyncio.get_running_loop()
    both = {loop.create_task(stream.write()), loop.create_task(_read(server, peer, memory, stream, context))}
    ending = loop.create_task(server.ending.wait())
    try:
        done, _ = await asyncio.wait({*both, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in done & both:
            task.result()
    except RemoteProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
    finally:
        stream.close()
        for task in (*both, ending):
            task.cancel()
        await asyncio.wait({*both, ending})


async def _read(server: CallServer, peer: PeerId, memory: CallMemory, stream: BatchStream, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        requests, buffers = wire.decode_requests(message, stream.kind.max_message)
        server.metrics.bytes("server", "received", len(message))
        memory.acknowledged(requests.received)
        now = time.monotonic()
        calls = requests.calls
        is_halved = CROWD <= len(calls) <= MAX_HALVED and server.spare.is_there(now)
        half = len(calls) // 2 if is_halved else len(calls)
        for call in calls[:half]:
            server.begin(peer, memory, stream, call, now, buffers.take(call.sizes) if call.sizes else ())
        if calls:
            _time(server, memory.entries.get(calls[0].id), now)
        if half < len(calls):
            await wait_for_more()  # its answers leave, so that the caller has something to do meanwhile
        for call in calls[half:]:
            server.begin(peer, memory, stream, call, now, buffers.take(call.sizes) if call.sizes else ())
        buffers.check_end()
        server.cancel(memory, requests.cancelled)
        await stream.wait_room()
        await asyncio.sleep(0)  # what has begun takes its first step before the next message is read: fair to others


def _time(server: CallServer, entry: Entry | None, started: float) -> None:
    """Count the seconds of one call, which stands for those of its message."""
    if entry is not None and entry.task is not None:
        entry.task.add_done_callback(partial(_timed, server, started))


def _timed(server: CallServer, started: float, _: object) -> None:
    server.metrics.seconds("server", BATCHED, time.monotonic() - started)
