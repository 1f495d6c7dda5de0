"""Serves calls that have a gRPC call of their own: streams, large arguments, large results."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from lattica.errors import CodecError, DecodeError, LatticaError, RemoteProtocolError, RpcError
from lattica.identity import PeerId
from lattica.rpc import batch_wire as wire
from lattica.rpc.call_answers import Answer, bad_call, bad_result, forgotten, is_cancellation
from lattica.rpc.call_context import CurrentCall, running_call
from lattica.rpc.call_server import CallServer
from lattica.rpc.caller import caller_id
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import ServerCall, kind_of_method
from lattica.rpc.dispatch import Served
from lattica.rpc.intake import Claim, IntakeFullError
from lattica.rpc.once_server import OnceCall, begin, joined, memory_for
from lattica.rpc.own_wire import (
    END_MESSAGE,
    FETCH,
    CallHeader,
    ValueReader,
    failure_message,
    value_messages,
)
from lattica.rpc.remote_errors import failure_of
from lattica.rpc.tracing import ServedSpan

PIECE_WAIT_S = 60.0
"""Seconds of silence within a value, after which its call is refused: what it has taken is not free for others."""


async def serve_call(server: CallServer, context: Any) -> None:
    """Serve one call. Cancelling it ends the method, but not one that must not run twice; see `once_server`."""
    peer = caller_id(context)
    claim = server.intake.claim(peer)
    reader = ValueReader(claim.take)
    try:
        first = await context.read()
        if first is grpc.aio.EOF:
            raise RemoteProtocolError("a call without a header", peer)
        header, rest = reader.header(first)
        try:
            await _serve(server, _OwnCall(peer, header, reader, context, claim), rest)
        except IntakeFullError as error:
            await _refuse(context, server.refused("stream_stream", wire.Failure(header.id, wire.BUSY, "", str(error))))
    except RemoteProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
    finally:
        claim.release()


async def _serve(server: CallServer, call: _OwnCall, rest: memoryview) -> None:
    header, context = call.header, call.context
    if header.flags & FETCH:
        await _send(context, server.sent(_remembered(server, call.peer, header)))
        return
    served = server.dispatcher.find(header.method)
    if served is None:
        await _refuse(context, server.refused("stream_stream", wire.Failure(header.id, wire.NO_METHOD, "", "")))
    elif not served.spec.is_unary:
        await _stream(server, served, call, await _arguments(call, rest))
    elif header.flags & wire.ONCE:
        await _once(server, served, call, rest)
    elif (refusal := server.busy(served, server.load_of(call.peer), header.id)) is not None:
        await _refuse(context, server.refused("unary_unary", refusal))
    else:
        args = await _arguments(call, rest)
        answer = await server.run_own(call.peer, served, header, args, _deadline(context))
        await _send(context, server.sent(answer))


async def _once(server: CallServer, served: Served, call: _OwnCall, rest: memoryview) -> None:
    """Run a unary call that must not run twice, or join it; arguments that have come before are not waited for."""
    header, context = call.header, call.context
    once = OnceCall(peer=call.peer, served=served, header=header, deadline=_deadline(context))
    memory = memory_for(server, once)
    if memory is None:
        await _refuse(context, server.refused("unary_unary", wire.Failure(header.id, wire.OTHER_MEMORY, "", "")))
        return
    server.attached(memory)
    try:
        if header.id in memory.entries:
            await _refuse(context, server.sent(await joined(memory, once)))
            return
        early = server.refusal(served, memory, header.id)
        if early is not None:
            await _refuse(context, server.refused("unary_unary", early))
            return
        refusal = begin(server, memory, once, await _arguments(call, rest), call.claim)
        await _send(context, refusal or server.sent(await joined(memory, once)))
    finally:
        server.detached(memory)


def _deadline(context: Any) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


class _BrokenOffError(RpcError):
    """A stream of items has no end: nobody waits for the result any more, and what came is not all."""


class _OwnCall:
    """A call that is being served.

    Attributes:
        peer: Who makes it.
        header: What it began with.
        reader: Puts its values together.
        context: gRPC's.
        claim: What its arguments have taken of the node's intake.
        fault: Of a stream: why what came, or what is to go, cannot be taken; any other error is the method's own.
    """

    def __init__(self, peer: PeerId, header: CallHeader, reader: ValueReader, context: Any, claim: Claim) -> None:
        self.peer = peer
        self.header = header
        self.reader = reader
        self.context = context
        self.claim = claim
        self.fault: LatticaError | IntakeFullError | None = None


async def _stream(server: CallServer, served: Served, call: _OwnCall, args: Encoded) -> None:
    deadline = _deadline(call.context)
    try:
        with ServerCall(server.metrics, kind_of_method(served.spec), deadline) as counted:
            if served.spec.streams_requests is None:
                counted.received(args)
            load = server.load_of(call.peer)
            failure = server.busy(served, load, call.header.id)
            if failure is None:
                with served.gate.entered(load):
                    failure = await _run_stream(server, served, call, args, deadline)
            if failure is not None:
                counted.answered(failure)
                await _refuse(call.context, failure)
    except asyncio.CancelledError as error:
        if is_cancellation(error):
            raise


async def _run_stream(
    server: CallServer, served: Served, call: _OwnCall, args: Encoded, deadline: float | None
) -> wire.Failure | None:
    """Run a method with a stream of requests, of results, or both; how it failed, of which its caller must be told."""
    header = call.header
    running_call.set(CurrentCall(call.peer, header.method, deadline, header.context))
    items = server.intake.claim(call.peer)
    call.reader.admit = items.take
    try:
        with ServedSpan(server.tracing) as span:
            failure = await _stream_results(server, served, call, args, items)
            if failure is not None:
                span.answered(failure)
            return failure
    finally:
        items.release()


async def _stream_results(
    server: CallServer, served: Served, call: _OwnCall, args: Encoded, items: Claim
) -> wire.Failure | None:
    context, spec = call.context, served.spec
    try:
        with _faults(call):
            values = spec.args.decode(args.body, args.buffers)
        positional, named = served.bound(values, _items(served, call, items))
        if not spec.streams_results:
            await _send(context, server.sent(_encoded(call, served, await served.run(positional, named))))
            return None
        async for result in served.iterate(positional, named):
            await _send(context, _encoded(call, served, result))
    except _BrokenOffError as error:
        raise asyncio.CancelledError from error  # its caller has gone
    except (Exception, asyncio.CancelledError, GeneratorExit) as error:  # the caller gets it
        if is_cancellation(error):
            raise
        return _failure(call, error)
    return None


@contextlib.contextmanager
def _faults(call: _OwnCall) -> Iterator[None]:
    """Note that what the block raises is no error of the method's."""
    try:
        yield
    except (CodecError, DecodeError, RemoteProtocolError, IntakeFullError) as error:
        call.fault = error
        raise


def _encoded(call: _OwnCall, served: Served, result: Any) -> bytes | Encoded:
    with _faults(call):
        return served.spec.result.encode_small(result)


def _failure(call: _OwnCall, error: BaseException) -> wire.Failure:
    """What its caller is told of a stream's error; raises it if the caller broke the protocol."""
    header = call.header
    if error is call.fault:
        match error:
            case DecodeError():
                return bad_call(header.id, error)
            case CodecError():
                return bad_result(header.id, error)
            case IntakeFullError():
                return wire.Failure(header.id, wire.BUSY, wire.BEGUN, str(error))
            case _:
                raise error
    return failure_of(header.id, error, with_traceback=bool(header.flags & wire.TRACEBACK))


async def _items(served: Served, call: _OwnCall, claim: Claim) -> AsyncIterator[Any]:
    """The caller's items, to the end that it has marked; each counts until the next is asked for."""
    codec = served.spec.items
    if codec is None:
        return
    while True:
        claim.release()
        message = await call.context.read()
        if message == END_MESSAGE:
            return
        if message is grpc.aio.EOF:
            raise _BrokenOffError(f"{call.peer} has cancelled the call, or the connection was lost")
        with _faults(call):
            item = await _value(call, message)
            value = codec.decode(item.body, item.buffers)
        yield value


async def _arguments(call: _OwnCall, rest: memoryview) -> Encoded:
    return await _value(call, rest if len(rest) else await _piece(call))


async def _value(call: _OwnCall, message: bytes | memoryview) -> Encoded:
    """The value that begins with a message."""
    while True:
        value = call.reader.feed(message)
        if isinstance(value, Encoded):
            return value
        if value is not None:
            raise RemoteProtocolError("a failure from a caller", call.peer)
        message = await _piece(call)


async def _piece(call: _OwnCall) -> bytes:
    """The next message of a value that has begun."""
    try:
        async with asyncio.timeout(PIECE_WAIT_S):
            message = await call.context.read()
    except TimeoutError:
        raise RemoteProtocolError(f"a value of which nothing came for {PIECE_WAIT_S:g} s", call.peer) from None
    if message is grpc.aio.EOF:
        raise RemoteProtocolError("a call that ends within a value", call.peer)
    return bytes(message)


async def _send(context: Any, answer: Answer) -> None:
    if isinstance(answer, wire.Failure):
        await context.write(failure_message(answer))
        return
    for message in value_messages(answer):
        await context.write(message)


async def _refuse(context: Any, answer: Answer) -> None:
    """Fail, or answer, a call whose caller may still be sending.

    If the call ended now, gRPC would throw the answer away at a caller whose next message it cannot send; so the
    caller ends it, when it has read the answer.
    """
    await _send(context, answer)
    while await context.read() is not grpc.aio.EOF:
        continue


def _remembered(server: CallServer, peer: PeerId, header: CallHeader) -> Answer:
    memory, _ = server.memory_of(peer, header.instance)
    entry = memory.entries.get(header.id)
    if entry is None or entry.answer is None:
        return forgotten(header.id)
    return entry.answer
