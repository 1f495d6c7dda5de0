"""What the methods of stubs have in common, whomever they call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lattica.errors import LatticaError, RemoteProtocolError, ServerBusyError, UsageError
from lattica.rpc.batch_wire import MAX_TIMEOUT_S, ONCE, TRACEBACK, Failure
from lattica.rpc.call_context import running_call
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import value_size
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.own_client import OwnCall, sending
from lattica.rpc.remote_errors import error_of
from lattica.rpc.service import MethodSpec
from lattica.rpc.stub import CallOptions

if TYPE_CHECKING:
    from lattica.rpc.peer_caller import PeerCaller

T = TypeVar("T")


class StubMethod:
    """A method on a stub."""

    def __init__(self, spec: MethodSpec, opts: CallOptions) -> None:
        self._spec = spec
        self._timeout = opts.timeout
        self._flags = (0 if spec.options.idempotent else ONCE) | (TRACEBACK if opts.traceback else 0)
        self._options = opts

    def _deadline(self) -> float | None:
        own = None if self._timeout is None else time.monotonic() + self._timeout
        outer = running_call.get()
        if outer is None or outer.deadline is None:
            return own
        longest = time.monotonic() + MAX_TIMEOUT_S  # the outer call's own may be longer, if its caller so wished
        return min(outer.deadline, longest if own is None else own)

    @property
    def _hedge_after(self) -> float | None:
        """Only what may run twice is hedged: the service has such methods for which it was asked."""
        return self._options.hedge_after if self._spec.options.idempotent else None


class StreamingMethod(StubMethod):
    """Adds: arguments and the stream of requests, taken apart."""

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes | Encoded, Any]:
        spec = self._spec
        if spec.streams_requests is None:
            return spec.args.encode_small(spec.args.bind(args, kwargs)), None
        try:
            bound = spec.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{spec.path}() {error}") from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        stream = values.pop(spec.streams_requests)
        return spec.args.encode_small(tuple(values[name] for name in spec.names)), stream

    async def _items(self, stream: Any) -> AsyncIterator[bytes | Encoded]:
        codec = self._spec.items
        if codec is None:
            raise UsageError(f"{self._spec.path} takes no stream")
        if hasattr(stream, "__aiter__"):
            async for item in stream:
                yield codec.encode_small(item)
        else:
            for item in stream:
                yield codec.encode_small(item)

    def _result(self, answer: Encoded | Failure) -> Any:
        if isinstance(answer, Failure):
            raise error_of(self._spec.path, answer, self._spec.options.raises)
        return self._spec.result.decode(answer.body, answer.buffers)

    @contextlib.asynccontextmanager
    async def _called(
        self, caller: PeerCaller, encoded: bytes | Encoded, stream: Any, deadline: float | None
    ) -> AsyncIterator[OwnCall]:
        """A call that is under way and whose requests are being sent; what went wrong with those is raised."""
        items = None if stream is None else self._items(stream)
        with caller.streaming(self._spec, deadline, self._flags) as call:
            if items is None:
                _count_bytes(caller, "sent", encoded)
            async with sending(call, encoded, items):
                yield call

    async def _only_result(self, call: OwnCall, caller: PeerCaller) -> Any:
        answer = await call.receive()
        if answer is None:
            raise RemoteProtocolError("a call that ended without an answer", caller.channel.peer_id)
        if isinstance(answer, Encoded):
            _count_bytes(caller, "received", answer)
        return self._result(answer)

    def _lost(self, error: LostCallError) -> LatticaError:
        return error.outcome(self._spec.path, once=not self._spec.options.idempotent)


async def first_answer(attempt: Callable[[], Coroutine[Any, Any, T]], after: float) -> T:
    """The first answer of two attempts, the second made ``after`` seconds later; the other is cancelled.

    If both fail, the error of the first.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(attempt())]
    try:
        done, _ = await asyncio.wait(tasks, timeout=after)
        if not done:
            tasks.append(loop.create_task(attempt()))
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            good = [task for task in done if task.exception() is None]
            if good:
                return good[0].result()
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_repeatable(error: Exception, stream: object) -> bool:
    """Whether a call was refused whose requests can be had again, if there are any: a list's, not a generator's."""
    return isinstance(error, ServerBusyError) and (stream is None or isinstance(stream, Collection))


def _count_bytes(caller: PeerCaller, direction: Literal["sent", "received"], value: bytes | Encoded) -> None:
    caller.channel.metrics.bytes("client", direction, value_size(value))


def left(deadline: float | None) -> float | None:
    """Seconds until a deadline, a little at least: the call ends by itself then."""
    return None if deadline is None else max(0.001, deadline - time.monotonic())
