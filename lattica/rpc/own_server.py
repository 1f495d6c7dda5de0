"""Serves calls that have a gRPC call of their own: streams, large arguments, large results."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from lattica.errors import CodecError, DecodeError, RemoteProtocolError
from lattica.identity import PeerId
from lattica.rpc import batch_wire as wire
from lattica.rpc.call_context import CurrentCall, running_call
from lattica.rpc.call_server import Answer, CallServer, answer_size, bad_call, bad_result, forgotten
from lattica.rpc.caller import caller_id
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import ServerCall, kind_of_method
from lattica.rpc.dispatch import Served
from lattica.rpc.own_wire import (
    FETCH,
    KEPT_MESSAGE,
    MAX_UNARY,
    CallHeader,
    ValueReader,
    failure_message,
    value_message,
    value_messages,
)
from lattica.rpc.remote_errors import failure_of
from lattica.rpc.tracing import ServedSpan


async def serve_call(server: CallServer, context: Any) -> None:
    """Serve one call; it ends early if its caller cancels it or its deadline passes."""
    peer = caller_id(context)
    reader = ValueReader()
    try:
        first = await context.read()
        if first is grpc.aio.EOF:
            raise RemoteProtocolError("a call without a header", peer)
        header, rest = reader.header(first)
        if header.flags & FETCH:
            await _send(context, server.sent(_remembered(server, peer, header)))
            return
        served = server.dispatcher.find(header.method)
        if served is None:
            server.metrics.calls(
                "server", "stream_stream", "unimplemented", ""
            )  # whatever kind its caller takes it for
            await _refuse(context, wire.Failure(header.id, wire.NO_METHOD, "", ""))
            return
        args = await _value(reader, context, rest)
        if args is None:
            raise RemoteProtocolError("a call that ends before its arguments", peer)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        if served.spec.is_unary:
            await _send(context, server.sent(await server.run_own(peer, served, header, args, deadline)))
        else:
            await _stream(server, served, _OwnCall(peer, header, args, deadline, reader, context))
    except RemoteProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)


async def serve_unary(server: CallServer, request: bytes, context: Any) -> bytes:
    """Serve a unary call whose arguments are one message."""
    peer = caller_id(context)
    reader = ValueReader()
    try:
        header, rest = reader.header(request)
        args = reader.feed(rest)
        if not isinstance(args, Encoded):
            raise RemoteProtocolError("a call without its arguments", peer)
        served = server.dispatcher.find(header.method)
        if served is None:
            server.metrics.calls("server", "unary_unary", "unimplemented", "")
            return failure_message(wire.Failure(header.id, wire.NO_METHOD, "", ""))
        if not served.spec.is_unary:
            server.metrics.calls("server", "unary_unary", "invalid_argument", "")
            return failure_message(wire.Failure(header.id, wire.BAD_CALL, "", "it streams, and has to be called so"))
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        answer = await server.run_own(peer, served, header, args, deadline)
        if isinstance(answer, wire.Failure):
            return failure_message(answer)
        if answer_size(answer) <= MAX_UNARY:
            server.sent(answer)
            return value_message(answer)
        server.keep(peer, header, answer)
        return KEPT_MESSAGE
    except RemoteProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
        raise  # not reached


class _OwnCall:
    """A call that streams: who makes it, and what has come of it."""

    def __init__(
        self,
        peer: PeerId,
        header: CallHeader,
        args: Encoded,
        deadline: float | None,
        reader: ValueReader,
        context: Any,
    ) -> None:
        self.peer = peer
        self.header = header
        self.args = args
        self.deadline = deadline
        self.reader = reader
        self.context = context


async def _stream(server: CallServer, served: Served, call: _OwnCall) -> None:
    with ServerCall(server.metrics, kind_of_method(served.spec), call.deadline) as counted:
        if served.spec.streams_requests is None:
            counted.received(call.args)
        failure = server.busy(served, call.header.id)
        if failure is None:
            failure = await _run_stream(server, served, call)
        if failure is not None:
            counted.answered(failure)
            await _refuse(call.context, failure)


async def _run_stream(server: CallServer, served: Served, call: _OwnCall) -> wire.Failure | None:
    """Run a method with a stream of requests, of results, or both; how it failed, of which its caller must be told."""
    header = call.header
    served.running += 1
    server.dispatcher.running += 1
    running_call.set(CurrentCall(call.peer, header.method, call.deadline, header.context))
    try:
        with ServedSpan(server.tracing) as span:
            failure = await _stream_results(server, served, call)
            if failure is not None:
                span.answered(failure)
            return failure
    finally:
        served.running -= 1
        server.dispatcher.running -= 1


async def _stream_results(server: CallServer, served: Served, call: _OwnCall) -> wire.Failure | None:
    header, context, spec = call.header, call.context, served.spec
    try:
        values = spec.args.decode(call.args.body, call.args.buffers)
        args, kwargs = served.bound(values, _items(served, call))
        if not spec.streams_results:
            await _send(context, server.sent(spec.result.encode_small(await served.run(args, kwargs))))
            return None
        async for result in served.iterate(args, kwargs):
            await _send(context, spec.result.encode_small(result))
    except RemoteProtocolError:
        raise
    except DecodeError as error:
        return bad_call(header.id, error)
    except CodecError as error:
        return bad_result(header.id, error)
    except Exception as error:  # noqa: BLE001 - the caller gets it
        return failure_of(header.id, error, with_traceback=bool(header.flags & wire.TRACEBACK))
    return None


async def _items(served: Served, call: _OwnCall) -> AsyncIterator[Any]:
    codec = served.spec.items
    if codec is None:
        return
    while (item := await _value(call.reader, call.context, b"")) is not None:
        yield codec.decode(item.body, item.buffers)


async def _value(reader: ValueReader, context: Any, first: bytes | memoryview) -> Encoded | None:
    """The caller's next value; ``None`` if it sends no more."""
    message = first
    while True:
        if len(message):
            value = reader.feed(message)
            if isinstance(value, Encoded):
                return value
            if value is not None:
                raise RemoteProtocolError("a failure from a caller")
        message = await context.read()
        if message is grpc.aio.EOF:
            if not reader.is_between:
                raise RemoteProtocolError("a call that ends within a value")
            return None


async def _send(context: Any, answer: Answer) -> None:
    if isinstance(answer, wire.Failure):
        await context.write(failure_message(answer))
        return
    for message in value_messages(answer):
        await context.write(message)


async def _refuse(context: Any, failure: wire.Failure) -> None:
    """Fail a call whose caller may still be sending.

    If the call ended now, gRPC would throw the failure away at a caller whose next message it cannot send; so the
    caller ends it, when it has read the failure.
    """
    await _send(context, failure)
    while await context.read() is not grpc.aio.EOF:
        continue


def _remembered(server: CallServer, peer: PeerId, header: CallHeader) -> Answer:
    memory, _ = server.memory_of(peer, header.instance)
    entry = memory.entries.get(header.id)
    if entry is None or entry.answer is None:
        return forgotten(header.id)
    return entry.answer
