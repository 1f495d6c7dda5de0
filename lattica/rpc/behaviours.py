"""What a server runs for a method, with something of ours around it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc

from lattica.rpc.exits import PASSING, contained
from lattica.rpc.settled import status_of

ROUNDING_S = 0.15
"""Seconds before its deadline at which a call may be cancelled because of it: gRPC rounds deadlines of 1 to 100 s up on
their way, by as much as 0.1 s, so that the caller's comes first."""

_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def kind_of(handler: Any) -> str:
    """Which of the four kinds of call a `grpc.RpcMethodHandler` takes."""
    return _KINDS[handler.request_streaming, handler.response_streaming]


def is_plain(handler: Any) -> bool:
    """Whether a `grpc.RpcMethodHandler` has a function that a thread runs."""
    behaviour = getattr(handler, kind_of(handler))
    return not (inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour))


def refusing(handler: Any, reason: str) -> Any:
    """A handler in place of another one's, which refuses the call with ``RESOURCE_EXHAUSTED``."""

    async def refuse(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)

    make = getattr(grpc, f"{kind_of(handler)}_rpc_method_handler")
    return make(refuse, None, None)


def remade(handler: Any, block: Callable[[Any], AbstractContextManager[None]], **coding: Any) -> Any:
    """The same handler with ``block`` of the servicer context around each call.

    Args:
        handler: A `grpc.RpcMethodHandler`.
        block: Sees how the call ends; not called for the messages of a stream.
        coding: ``request_deserializer`` and ``response_serializer``, if they are others than the handler's.
    """
    kind = kind_of(handler)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    deserializer = coding.get("request_deserializer", handler.request_deserializer)
    serializer = coding.get("response_serializer", handler.response_serializer)
    return make(_around(getattr(handler, kind), kind, block), deserializer, serializer)


class _Contained(contextlib.AbstractContextManager[None]):
    """Contains what a behaviour raises that would end the event loop, or leave its caller without an answer."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not isinstance(error, PASSING):
            raise contained(error) from error


_CONTAINED = _Contained()


def _around(
    behaviour: Callable[..., Any], kind: str, block: Callable[[Any], AbstractContextManager[None]]
) -> Callable[..., Any]:
    """A function of the same sort, by which gRPC decides how to run it."""

    async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
        with block(context), _CONTAINED:
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    async def coroutine(request: Any, context: Any) -> Any:
        with block(context), _CONTAINED:
            return await behaviour(request, context)

    def plain_generator(request: Any, context: Any) -> Iterator[Any]:
        with block(context), _CONTAINED:
            yield from behaviour(request, context)

    def plain(request: Any, context: Any) -> Any:
        with block(context), _CONTAINED:
            return behaviour(request, context)

    if inspect.isasyncgenfunction(behaviour):
        return generator
    if inspect.iscoroutinefunction(behaviour):
        return coroutine
    return plain_generator if kind.endswith("_stream") else plain


def ended_with(context: Any, error: BaseException | None) -> grpc.StatusCode | None:
    """The status of a call whose behaviour ended so; ``None`` if a plain function raised: its context keeps it."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        left = context.time_remaining()
        out_of_time = left is not None and left <= ROUNDING_S
        return grpc.StatusCode.DEADLINE_EXCEEDED if out_of_time else grpc.StatusCode.CANCELLED
    if not hasattr(context, "code"):
        return grpc.StatusCode.OK if error is None else None
    code = status_of(context.code())
    return grpc.StatusCode.UNKNOWN if error is not None and code is grpc.StatusCode.OK else code
