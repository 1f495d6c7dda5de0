"""Serves the calls of plain Python services: both kinds of stream, and the memory that is common to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from lattica.background import Background
from lattica.errors import CodecError, DecodeError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.rpc import batch_wire as wire
from lattica.rpc.call_answers import (
    Answer,
    answer_size,
    bad_call,
    bad_result,
    forgotten,
    is_cancellation,
    outcome_of_answer,
)
from lattica.rpc.call_context import CurrentCall, running_call
from lattica.rpc.call_memory import (
    FETCH_WAIT_S,
    MAX_CALLERS_OF_PEER,
    RESULT_MEMORY_S,
    RUN_ON_S,
    CallMemory,
    Entry,
)
from lattica.rpc.codec import Encoded
from lattica.rpc.codec.arrays import Buffer
from lattica.rpc.counted_call import BATCHED, ServerCall
from lattica.rpc.deadlines import Deadlines
from lattica.rpc.dispatch import Dispatcher, Served
from lattica.rpc.intake import Claim, Intake, IntakeFullError, default_limit
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.outcomes import CANCELLED, outcome_of_cancelled, outcome_of_failure
from lattica.rpc.remote_errors import failure_of
from lattica.rpc.shares import PeerLoad
from lattica.rpc.spare import SpareTime
from lattica.rpc.tracing import CallTracing, ServedSpan

logger = logging.getLogger(__name__)

SWEEP_S = 5.0
"""Seconds between looks at which callers have gone."""
INSTANCE_BYTES = 16
"""Bytes of the names of a caller's instance and of a memory."""
DRAIN_LOOK_S = 0.02
"""Seconds between looks at whether calls are under way, when the node closes."""


class CallServer:
    """Runs the calls that peers make, each `ONCE` call at most once.

    Attributes:
        dispatcher: The services.
        intake: Admits large arguments.
        deadlines: Those of the calls that are remembered.
        spare: Whether there is time for more messages.
        tracing: Makes spans of their calls; ``None``: there are none.
        answer: Runs a method; its encoded result, or its failure.
        ending: Set when streams of callers have to end: the node closes.
    """

    def __init__(self, dispatcher: Dispatcher, metrics: RpcMetrics, intake: Intake | None = None) -> None:
        self.dispatcher = dispatcher
        self.metrics = metrics
        self.intake = intake or Intake(default_limit())
        self.tracing: CallTracing | None = None
        self.answer: Callable[[Served, Any, Any, int, int], Awaitable[Answer]] = self._executed
        self._callers: dict[tuple[PeerId, bytes], CallMemory] = {}
        self._loads: WeakValueDictionary[PeerId, PeerLoad] = WeakValueDictionary()
        self.deadlines = Deadlines[Entry](self._expired)
        self.spare = SpareTime()
        self._ending_calls: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.ending = asyncio.Event()

    def start(self, tasks: Background) -> None:
        """Forget callers that have gone, from now on."""
        tasks.start(self._sweep())

    def use_tracing(self, tracing: CallTracing) -> None:
        """Make a span of each call that is begun from now on."""
        self.tracing = tracing
        self.answer = self._traced

    def memory_of(self, peer: PeerId, instance: bytes) -> tuple[CallMemory, bool]:
        """What is remembered of a caller, and whether that is anything; raises `RemoteProtocolError`."""
        if len(instance) != INSTANCE_BYTES:
            raise RemoteProtocolError("a caller without a name for its instance", peer)
        memory = self._callers.get((peer, instance))
        if memory is not None:
            return memory, True
        self._make_room(peer)
        memory = self._callers[peer, instance] = CallMemory(os.urandom(INSTANCE_BYTES), self.load_of(peer))
        memory.gone_since = time.monotonic()
        return memory, False

    def load_of(self, peer: PeerId) -> PeerLoad:
        """What a peer has under way; the same one for as long as it is held on to."""
        load = self._loads.get(peer)
        if load is None:
            load = self._loads[peer] = PeerLoad()
        return load

    def known_memory(self, peer: PeerId, instance: bytes) -> CallMemory | None:
        """What is remembered of a caller, if anything is."""
        return self._callers.get((peer, instance))

    def _make_room(self, peer: PeerId) -> None:
        of_peer = [(key, memory) for key, memory in self._callers.items() if key[0] == peer]
        if len(of_peer) < MAX_CALLERS_OF_PEER:
            return
        gone = [(memory.gone_since, key) for key, memory in of_peer if memory.gone_since is not None]
        if not gone:
            raise RemoteProtocolError(f"more than {MAX_CALLERS_OF_PEER} callers at one peer", peer)
        key = min(gone, key=lambda each: each[0])[1]
        self._drop(key)

    # Calls

    def begin(
        self,
        peer: PeerId,
        memory: CallMemory,
        stream: Any,
        call: wire.Call,
        now: float,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Run a call of a batch, or answer it at once; ``stream`` gets the answer."""
        known = memory.entries.get(call.id)
        if known is not None:
            self._again(known, stream)
            return
        if memory.settled and call.id in memory.settled:
            stream.answer(call.id, forgotten(call.id))
            return
        served = self.dispatcher.find(call.method)
        refusal = self.refusal(served, memory, call.id)
        if served is None or refusal is not None:
            stream.answer(call.id, refusal)
            return
        claim = None
        if stream.kind.max_value > wire.MAX_SMALL:
            claim = self.intake.claim(peer)
            try:
                claim.take(memoryview(call.args).nbytes + sum(call.sizes))
            except IntakeFullError as error:
                stream.answer(call.id, wire.Failure(call.id, wire.BUSY, "", str(error)))
                return
        deadline = now + call.timeout_ms / 1000 if call.timeout_ms else None
        entry = memory.entries[call.id] = Entry(call.id, stream, bool(call.flags & wire.ONCE), deadline)
        if call.flags & wire.AGAIN:
            entry.again = True
        served.gate.enter(memory.load)
        # Owned by its entry; `close` waits for it.
        running = self._run(peer, memory, entry, served, call, buffers, claim)
        entry.task = asyncio.get_running_loop().create_task(running)
        if deadline is not None:
            self.deadlines.add(deadline, entry)

    def _again(self, entry: Entry, stream: Any) -> None:
        """The caller has lost a stream, and asks again."""
        entry.stream, entry.again = stream, True
        if entry.task is None:
            stream.answer_again(entry.id, entry.answer or forgotten(entry.id))

    def refusal(self, served: Served | None, memory: CallMemory, number: int) -> wire.Failure | None:
        """Why a unary call cannot begin now."""
        if served is None:
            return wire.Failure(number, wire.NO_METHOD, "", "")
        if not served.is_unary:
            return wire.Failure(number, wire.BAD_CALL, "", "it streams, and has to be called so")
        gate, outer = served.gate, self.dispatcher.gate
        is_tight = gate.running >= gate.limit or outer.running >= outer.limit or gate.wanted or outer.wanted
        if is_tight or self._closing:
            failure = self.busy(served, memory.load, number)
            if failure is not None:
                return failure
        if memory.is_full:
            return wire.Failure(number, wire.BUSY, "", "the caller acknowledges no results")
        return None

    def busy(self, served: Served, load: PeerLoad, number: int) -> wire.Failure | None:
        """Why a call of a peer cannot begin now."""
        reason = "the peer's node is closing" if self._closing else self.dispatcher.busy(served, load, time.monotonic())
        return None if reason is None else wire.Failure(number, wire.BUSY, "", reason)

    async def _run(
        self,
        peer: PeerId,
        memory: CallMemory,
        entry: Entry,
        served: Served,
        call: wire.Call,
        buffers: Sequence[Buffer],
        claim: Claim | None,
    ) -> None:
        running_call.set(CurrentCall(peer, call.method, entry.deadline, call.context))
        try:
            if entry.cancelled:
                raise asyncio.CancelledError
            answer = await self.answer(served, memoryview(call.args), buffers, call.id, call.flags)
            del call, buffers
            size = answer_size(answer)
            if size > wire.MAX_SMALL:
                await self._wait_kept(memory, entry, size, claim)
        except asyncio.CancelledError:
            if not entry.expired:
                memory.answered(entry, b"", 0, keep=False)
                if not entry.cancelled:  # by its caller, which has been counted
                    self.metrics.calls("server", BATCHED, CANCELLED, "")
                raise
            answer = wire.Failure(entry.id, wire.EXPIRED, "", "")
            size = answer_size(answer)
        finally:
            served.gate.leave(memory.load)
            if claim is not None:
                claim.release()
            if entry.deadline is not None:
                self.deadlines.discard(entry.deadline, entry)
        memory.answered(entry, answer, size, keep=size > entry.stream.kind.max_value)
        if entry.stream.is_open and not entry.cancelled:
            entry.stream.answer(entry.id, answer)
        elif not entry.cancelled:
            self._answer_elsewhere(memory, entry, answer)

    def _answer_elsewhere(self, memory: CallMemory, entry: Entry, answer: Answer) -> None:
        """The stream of a call was lost: answer by another, if its caller has one."""
        if memory.streams:
            memory.streams[-1].answer(entry.id, answer)
        else:  # nobody to tell, unless its caller comes back and asks
            self.metrics.calls("server", BATCHED, outcome_of_answer(answer), "")

    async def _wait_kept(self, memory: CallMemory, entry: Entry, size: int, claim: Claim | None) -> None:
        """Hold a result that is not small back until it can be kept, if it has to be; its arguments are done with."""
        if claim is not None:
            claim.release()
        if entry.once or size > entry.stream.kind.max_value:
            await self.wait_room(memory, size)

    async def _traced(self, served: Served, args: Any, buffers: Any, number: int, flags: int) -> Answer:
        """The same within a span."""
        with ServedSpan(self.tracing) as span:
            answer = await self._executed(served, args, buffers, number, flags)
            span.answered(answer)
            return answer

    async def _executed(self, served: Served, args: Any, buffers: Any, number: int, flags: int) -> Answer:
        spec = served.spec
        try:
            values = spec.args.decode(args, buffers)
        except DecodeError as error:
            return bad_call(number, error)
        try:
            positional, named = served.bound(values)
            result = await served.run(positional, named)
        except (Exception, asyncio.CancelledError, GeneratorExit) as error:  # the caller gets it
            if is_cancellation(error):
                raise
            return failure_of(number, error, with_traceback=bool(flags & wire.TRACEBACK))
        try:
            return spec.result.encode_small(result)
        except CodecError as error:
            logger.warning("result cannot travel method=%s reason=%s", spec.path, error)
            return bad_result(number, error)

    async def run_own(self, peer: PeerId, served: Served, header: Any, args: Encoded, deadline: float | None) -> Answer:
        """Run a call that has a gRPC call of its own; it ends if that is cancelled."""
        with ServerCall(self.metrics, "unary_unary", deadline) as counted:
            counted.received(args)
            load = self.load_of(peer)
            answer: Answer | None = self.busy(served, load, header.id)
            if answer is None:
                with served.gate.entered(load):
                    running_call.set(CurrentCall(peer, header.method, deadline, header.context))
                    answer = await self.answer(served, args.body, args.buffers, header.id, header.flags)
            counted.answered(answer)
            return answer

    async def wait_room(self, memory: CallMemory, size: int) -> None:
        """Hold a large result back until its caller has fetched others, or for `FETCH_WAIT_S`."""
        if memory.has_room(size):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FETCH_WAIT_S):
                while not memory.has_room(size):
                    memory.freed.clear()
                    await memory.freed.wait()

    def refused(self, kind: str, failure: wire.Failure) -> wire.Failure:
        """Count a call with a gRPC call of its own that is not begun."""
        self.metrics.calls("server", kind, outcome_of_failure(failure.code), "")
        return failure

    def sent(self, answer: Answer) -> Answer:
        """Count the bytes of the only answer of a call that has a gRPC call of its own."""
        if not isinstance(answer, wire.Failure):
            self.metrics.bytes("server", "sent", answer_size(answer))
        return answer

    def cancel(self, memory: CallMemory, numbers: Iterable[int]) -> None:
        """The callers of these calls have gone."""
        ended: dict[str, int] = {}
        for number in numbers:
            entry = memory.entries.get(number)
            if entry is None:
                memory.settle(number)
                continue
            if entry.task is not None:
                if not entry.cancelled and entry.stream is not None:
                    outcome = outcome_of_cancelled(entry.deadline, time.monotonic())
                    ended[outcome] = ended.get(outcome, 0) + 1
                _cancel_soon(entry.task)
            entry.cancelled = True
            if entry.task is None:
                memory.acknowledged([number])
        for outcome, n in ended.items():
            self.metrics.calls("server", BATCHED, outcome, "", n)

    def _expired(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.task is not None:
                entry.expired = True
                _cancel_soon(entry.task)

    # Callers

    def joined(self, memory: CallMemory, stream: Any) -> None:
        """A caller has a stream to us."""
        memory.streams.append(stream)
        memory.gone_since = None

    def left(self, memory: CallMemory, stream: Any) -> None:
        """It has not any more."""
        memory.streams.remove(stream)
        _look_gone(memory)

    def attached(self, memory: CallMemory) -> None:
        """A call of its own begins to wait for its entry."""
        memory.attempts += 1
        memory.gone_since = None

    def detached(self, memory: CallMemory) -> None:
        """It does not wait any more."""
        memory.attempts -= 1
        _look_gone(memory)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for key, memory in list(self._callers.items()):
                if memory.gone_since is None:
                    continue
                if now - memory.gone_since > RUN_ON_S:
                    self._stop_calls(memory)
                if now - memory.gone_since > RESULT_MEMORY_S:
                    self._drop(key)

    def _drop(self, key: tuple[PeerId, bytes]) -> None:
        """Forget a caller; its calls end, though some may take their time."""
        for task in self._stop_calls(self._callers.pop(key)):
            self._ending_calls.add(task)
            task.add_done_callback(self._ending_calls.discard)

    @staticmethod
    def _stop_calls(memory: CallMemory) -> list[asyncio.Task[Any]]:
        tasks = [entry.task for entry in memory.running() if entry.task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    async def drain(self, grace: float) -> None:
        """Begin no more calls, give those under way ``grace`` seconds, and end the callers' streams."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self.dispatcher.running:
                    await asyncio.sleep(DRAIN_LOOK_S)
        await asyncio.sleep(DRAIN_LOOK_S)  # for the last answers to be written
        self.ending.set()

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        self._closing = True
        self.deadlines.close()
        tasks = [task for memory in self._callers.values() for task in self._stop_calls(memory)]
        tasks += self._ending_calls
        if tasks:
            await asyncio.wait(tasks)
        await self.dispatcher.close()


def _cancel_soon(task: asyncio.Task[Any]) -> None:
    """Cancel a task that may not have taken its first step: it would end without giving back what it holds."""
    asyncio.get_running_loop().call_soon(task.cancel)


def _look_gone(memory: CallMemory) -> None:
    if not memory.streams and not memory.attempts:
        memory.gone_since = time.monotonic()
