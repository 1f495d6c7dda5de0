"""The caller's side of plain Python services: an object with the service's methods that calls a peer's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, cast

from lattica.errors import LatticaError, RemoteProtocolError, UsageError
from lattica.rpc.batch_calls import Lane
from lattica.rpc.batch_client import BatchClient
from lattica.rpc.batch_wire import MAX_SMALL, MAX_TIMEOUT_S, ONCE, TRACEBACK, Failure
from lattica.rpc.call_context import running_call
from lattica.rpc.channel import PeerChannel
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import BATCHED, ClientCall, kind_of_method, value_size
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.own_client import OwnCall, sending
from lattica.rpc.own_unary import OwnUnary
from lattica.rpc.own_wire import CallHeader
from lattica.rpc.remote_errors import error_of
from lattica.rpc.retry import ATTEMPTS, RetryPolicy, final
from lattica.rpc.service import MethodSpec, ServiceSpec

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How a stub calls.

    Attributes:
        timeout: Seconds for each call, retries included; ``None`` for no deadline. A handler's own deadline bounds the
            calls that it makes, too.
        attempts: Attempts of one call at most; only what may run twice, or was not begun, is tried again.
        hedge_after: Seconds after which an idempotent unary call that is not answered is made a second time, the first
            answer counting; ``None`` for never.
        traceback: Whether a `RemoteError` should say where the peer's method raised.
        key: For calls by name: those with the same key go to the same replica, for as long as it is well.
    """

    timeout: float | None = None
    attempts: int = ATTEMPTS
    hedge_after: float | None = None
    traceback: bool = False
    key: str | bytes | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout <= MAX_TIMEOUT_S:
            raise UsageError(
                f"a timeout of {self.timeout} s: more than 0 and at most {MAX_TIMEOUT_S}, or None for no deadline"
            )
        if self.attempts < 1:
            raise UsageError(f"{self.attempts} attempts: at least 1")
        if self.hedge_after is not None and not 0 <= self.hedge_after <= MAX_TIMEOUT_S:
            raise UsageError(f"hedge_after of {self.hedge_after} s: 0 to {MAX_TIMEOUT_S}, or None for never")


class PeerCaller:
    """Calls one peer.

    Attributes:
        channel: For calls with a gRPC call of their own.
        batch: For small ones.
        large: For unary ones that are not small.
    """

    def __init__(self, channel: PeerChannel, metrics: RpcMetrics) -> None:
        self.channel = channel
        self.batch = BatchClient(channel, metrics)
        self.large = OwnUnary(channel, self.batch)

    def __str__(self) -> str:
        return str(self.channel.peer_id)

    def method(self, spec: MethodSpec, opts: CallOptions, lane: Lane) -> Callable[..., Any]:
        """What a stub has for a method."""
        if spec.is_unary:
            return _Unary(self, spec, opts, lane)
        return _ResultStream(self, spec, opts) if spec.streams_results else _RequestStream(self, spec, opts)

    async def unary(
        self,
        spec: MethodSpec,
        args: bytes | Encoded,
        lane: Lane,
        deadline: float | None,
        flags: int,
        *,
        can_move: bool = False,
    ) -> Any:
        """Make one attempt at a unary call; the decoded result. ``can_move``: see `BatchClient.call`."""
        context = _tracing()
        if isinstance(args, bytes) and len(args) <= MAX_SMALL:
            number, value = await self.batch.call(
                spec, args, lane=lane, deadline=deadline, flags=flags, context=context, can_move=can_move
            )
            if value is not None:
                return spec.result.decode(memoryview(value))
            with ClientCall(self.channel, BATCHED, timed=False) as counted:
                answer = await self.large.fetch(spec.path, number, deadline, flags, can_move=can_move)
                counted.answered(answer)
        else:
            header = CallHeader(spec.path, self.batch.instance, self.batch.new_id(), flags, context)
            with ClientCall(self.channel, "unary_unary") as counted:
                counted.sent(args)
                answer = await self.large.call(header, args, deadline, can_move=can_move)
                counted.answered(answer)
        if isinstance(answer, Failure):
            raise error_of(spec.path, answer, spec.options.raises)
        return spec.result.decode(answer.body, answer.buffers)

    @contextlib.contextmanager
    def streaming(self, spec: MethodSpec, deadline: float | None, flags: int) -> Iterator[OwnCall]:
        """Begin a call that streams; it has ended with the block."""
        header = CallHeader(spec.path, self.batch.instance, self.batch.new_id(), flags, _tracing())
        with ClientCall(self.channel, kind_of_method(spec)):
            yield OwnCall(self.channel, header, _left(deadline))


class Caller(Protocol):
    """Makes calls: to one peer, or to the replicas of a name."""

    def method(self, spec: MethodSpec, opts: CallOptions, lane: Lane) -> Callable[..., Any]:
        """What a stub has for a method."""


class Stub:
    """What `Rpc.stub` and `Rpc.service` make: has the service's methods as attributes."""

    def __init__(self, caller: Caller, spec: ServiceSpec, options: CallOptions) -> None:
        self._lattica = (caller, spec, options)
        lane = Lane()
        for attribute, method in spec.methods.items():
            setattr(self, attribute, caller.method(method, options, lane))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service {self._lattica[1].name} has no method {name}")

    def __repr__(self) -> str:
        caller, spec, _ = self._lattica
        return f"<stub of {spec.name} at {caller}>"


def make_stub(caller: Caller, cls: type[S], spec: ServiceSpec, options: CallOptions) -> S:
    """A stub, typed as the service."""
    return cast(S, Stub(caller, spec, options))


def options(stub: S, **changes: Any) -> S:
    """The same stub with other call options, see `CallOptions`: ``rpc.options(stub, timeout=1.0).add(1, 2)``.

    Raises:
        UsageError: It is no stub, or an option is unknown or wrong.
    """
    if not isinstance(stub, Stub):
        raise UsageError(f"{stub!r} is no stub; node.rpc.stub(Service, peer) makes one")
    caller, spec, old = stub._lattica
    return cast(S, Stub(caller, spec, changed(old, changes)))


def changed(old: CallOptions, changes: dict[str, Any]) -> CallOptions:
    """Options with some replaced; raises `UsageError`."""
    try:
        return replace(old, **changes)
    except TypeError as error:
        known = ", ".join(CallOptions.__slots__)
        raise UsageError(f"unknown call option: {error}; there are {known}") from error


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


class _Unary(StubMethod):
    def __init__(self, caller: PeerCaller, spec: MethodSpec, opts: CallOptions, lane: Lane) -> None:
        super().__init__(spec, opts)
        self._caller = caller
        self._lane = lane
        self._policy = RetryPolicy(opts.attempts)
        self._hedged = self._hedge_after

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        spec = self._spec
        encoded = spec.args.encode_small(spec.args.bind(args, kwargs))
        deadline = self._deadline()
        try:
            if self._hedged is not None:
                attempt = partial(self._caller.unary, spec, encoded, self._lane, deadline, self._flags)
                return await first_answer(attempt, self._hedged)
            return await self._caller.unary(spec, encoded, self._lane, deadline, self._flags)
        except Exception as error:  # noqa: BLE001 - decided by the policy
            return await self._again(encoded, deadline, error)

    async def _again(self, encoded: bytes | Encoded, deadline: float | None, error: Exception) -> Any:
        """Further attempts, if the first one's error allows any."""
        spec, failed = self._spec, 1
        idempotent = spec.options.idempotent
        while True:
            draw = random.random()  # noqa: S311 - spreads callers, hides nothing
            pause = self._policy.pause(failed, error, idempotent=idempotent, remaining=_left(deadline), draw=draw)
            if pause is None:
                raise final(error, spec.path, once=not idempotent) from error.__cause__
            await asyncio.sleep(pause)
            try:
                return await self._caller.unary(spec, encoded, self._lane, deadline, self._flags)
            except Exception as again:  # noqa: BLE001 - as above
                failed, error = failed + 1, again


async def first_answer(attempt: Callable[[], Coroutine[Any, Any, T]], after: float) -> T:
    """The first answer of two attempts, the second made ``after`` seconds; the other is cancelled.

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


class _PeerStreaming(StreamingMethod):
    def __init__(self, caller: PeerCaller, spec: MethodSpec, opts: CallOptions) -> None:
        super().__init__(spec, opts)
        self._caller = caller

    @contextlib.asynccontextmanager
    async def _begun(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[OwnCall]:
        encoded, stream = self._arguments(args, kwargs)
        try:
            async with self._called(self._caller, encoded, stream, self._deadline()) as call:
                yield call
        except LostCallError as error:
            raise self._lost(error) from error.__cause__


class _RequestStream(_PeerStreaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        async with self._begun(args, kwargs) as call:
            return await self._only_result(call, self._caller)


class _ResultStream(_PeerStreaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with self._begun(args, kwargs) as call:
            while (answer := await call.receive()) is not None:
                yield self._result(answer)


def _count_bytes(caller: PeerCaller, direction: Literal["sent", "received"], value: bytes | Encoded) -> None:
    caller.channel.metrics.bytes("client", direction, value_size(value))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())


def _tracing() -> dict[str, str] | None:
    """The current trace context, if the program uses OpenTelemetry with us."""
    otel = sys.modules.get("lattica.rpc.otel")
    return dict(otel.inject_context()) or None if otel is not None else None
