"""Runs large unary calls that must not run twice; a caller that has lost its attempt makes another, which joins them.

A call is looked up by its number in the memory that its caller names. There is the call that the first attempt began,
or its answer; if there is nothing, none came whole, and this one is begun. A call whose attempts are all lost runs on,
as a batched one does: that its caller has given up is said in the batched session.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lattica.identity import PeerId
from lattica.rpc import batch_wire as wire
from lattica.rpc.call_answers import Answer, answer_size, forgotten
from lattica.rpc.call_context import CurrentCall, running_call
from lattica.rpc.call_memory import MAX_REMEMBERED_BYTES, CallMemory, Entry
from lattica.rpc.call_server import CallServer
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import ServerCall
from lattica.rpc.dispatch import Served
from lattica.rpc.intake import Claim
from lattica.rpc.own_wire import CallHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceCall:
    """One attempt at a call.

    Attributes:
        peer: Who makes it.
        served: What it calls.
        header: What it began with.
        deadline: In seconds of the monotonic clock; ``None`` without one.
    """

    peer: PeerId
    served: Served
    header: CallHeader
    deadline: float | None


def memory_for(server: CallServer, call: OnceCall) -> CallMemory | None:
    """The memory that the call's caller means; ``None`` if there is none of that name. Raises `RemoteProtocolError`."""
    header = call.header
    if not header.memory:
        return server.memory_of(call.peer, header.instance)[0]
    memory = server.known_memory(call.peer, header.instance)
    return memory if memory is not None and memory.name == header.memory else None


def begin(server: CallServer, memory: CallMemory, call: OnceCall, args: Encoded, claim: Claim) -> wire.Failure | None:
    """Run the call, unless it has been begun; the failure if it cannot be. ``claim`` is its own from then on."""
    header, served = call.header, call.served
    if header.id in memory.entries:
        return None
    refusal = forgotten(header.id) if header.id in memory.settled else server.refusal(served, memory, header.id)
    if refusal is not None:
        return server.refused("unary_unary", refusal)
    entry = memory.entries[header.id] = Entry(header.id, None, once=True, deadline=call.deadline)
    entry.again = bool(header.flags & wire.AGAIN)
    served.gate.enter(memory.load)
    # Owned by its entry; `CallServer.close` waits for it.
    entry.task = asyncio.get_running_loop().create_task(_run(server, memory, entry, call, args, claim.handed_over()))
    if call.deadline is not None:
        server.deadlines.add(call.deadline, entry)
    return None


async def joined(memory: CallMemory, call: OnceCall) -> Answer:
    """The answer of a call that has been begun, when it has one. It runs on if this is cancelled."""
    entry = memory.entries.get(call.header.id)
    if entry is None:
        return forgotten(call.header.id)
    if call.header.flags & wire.AGAIN:
        entry.again = True
    if entry.task is None:
        return entry.answer or forgotten(entry.id)
    task = entry.task
    await asyncio.wait([task])
    if task.cancelled():
        return wire.Failure(entry.id, wire.FORGOTTEN, "", "it was cancelled there before its end")
    answer: Answer | None = task.result()
    return forgotten(entry.id) if answer is None else answer  # None: it came in a batch, which only a fault can cause


async def _run(
    server: CallServer, memory: CallMemory, entry: Entry, call: OnceCall, args: Encoded, claim: Claim
) -> Answer:
    with ServerCall(server.metrics, "unary_unary", call.deadline) as counted:
        counted.received(args)
        answer = await _executed(server, memory, entry, call, args, claim)
        counted.answered(answer)
        return answer


async def _executed(
    server: CallServer, memory: CallMemory, entry: Entry, call: OnceCall, args: Encoded, claim: Claim
) -> Answer:
    header, served = call.header, call.served
    running_call.set(CurrentCall(call.peer, header.method, call.deadline, header.context))
    try:
        answer = await server.answer(served, args.body, args.buffers, header.id, header.flags)
        del args
        claim.release()
        size = answer_size(answer)
        if size <= MAX_REMEMBERED_BYTES:
            await server.wait_room(memory, size)
    except asyncio.CancelledError:
        if not entry.expired:
            memory.answered(entry, b"", 0, keep=False)
            raise
        answer = wire.Failure(header.id, wire.EXPIRED, "", "")
        size = answer_size(answer)
    finally:
        served.gate.leave(memory.load)
        claim.release()
        if entry.deadline is not None:
            server.deadlines.discard(entry.deadline, entry)
    if size > MAX_REMEMBERED_BYTES:
        too_large = wire.Failure(header.id, wire.FORGOTTEN, "", f"its result of {size} bytes is too large to be kept")
        memory.answered(entry, too_large, answer_size(too_large), keep=True)
    else:
        memory.answered(entry, answer, size, keep=True)
    return answer
