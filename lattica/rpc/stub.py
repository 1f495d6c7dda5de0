"""The caller's side of plain Python services: an object with the service's methods that calls a peer's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

from lattica.errors import RemoteProtocolError, UsageError
from lattica.rpc.batch_calls import Lane
from lattica.rpc.batch_client import BatchClient
from lattica.rpc.batch_wire import MAX_SMALL, ONCE, TRACEBACK, Failure
from lattica.rpc.call_context import running_call
from lattica.rpc.channel import PeerChannel
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import BATCHED, ClientCall, kind_of_method, value_size
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.own_client import LostCallError, OwnCall, call_alone, call_unary, fetch_result, sending
from lattica.rpc.own_wire import MAX_UNARY, CallHeader
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
    """

    timeout: float | None = None
    attempts: int = ATTEMPTS
    hedge_after: float | None = None
    traceback: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and self.timeout <= 0:
            raise UsageError(f"a timeout of {self.timeout} s: it has to be more than 0, or None for no deadline")
        if self.attempts < 1:
            raise UsageError(f"{self.attempts} attempts: at least 1")
        if self.hedge_after is not None and self.hedge_after < 0:
            raise UsageError(f"hedge_after of {self.hedge_after} s: at least 0")


class PeerCaller:
    """Calls one peer.

    Attributes:
        channel: For calls with a gRPC call of their own.
        batch: For small ones.
    """

    def __init__(self, channel: PeerChannel, metrics: RpcMetrics) -> None:
        self.channel = channel
        self.batch = BatchClient(channel, metrics)

    async def unary(
        self, spec: MethodSpec, args: bytes | Encoded, lane: Lane, deadline: float | None, flags: int
    ) -> Any:
        """Make one attempt at a unary call; the decoded result."""
        context = _tracing()
        if isinstance(args, bytes) and len(args) <= MAX_SMALL:
            number, value = await self.batch.call(
                spec, args, lane=lane, deadline=deadline, flags=flags, context=context
            )
            if value is not None:
                return spec.result.decode(memoryview(value))
            with ClientCall(self.channel, BATCHED, timed=False) as counted:
                answer = await self._fetched(number, deadline)
                counted.answered(answer)
        else:
            header = CallHeader(spec.path, self.batch.instance, self.batch.new_id(), flags, context)
            with ClientCall(self.channel, "unary_unary") as counted:
                counted.sent(args)
                answer = await self._alone(header, args, deadline)
                counted.answered(answer)
        if isinstance(answer, Failure):
            raise error_of(spec.path, answer, spec.options.raises)
        return spec.result.decode(answer.body, answer.buffers)

    async def _alone(self, header: CallHeader, args: bytes | Encoded, deadline: float | None) -> Encoded | Failure:
        size = len(args) if isinstance(args, bytes) else args.size
        if size > MAX_UNARY:
            return await call_alone(self.channel, header, args, _left(deadline))
        answer = await call_unary(self.channel, header, args, _left(deadline))
        return answer if answer is not None else await self._fetched(header.id, deadline)

    async def _fetched(self, number: int, deadline: float | None) -> Encoded | Failure:
        answer = await fetch_result(self.channel, self.batch.instance, number, _left(deadline))
        self.batch.received(number)
        return answer

    @contextlib.contextmanager
    def streaming(self, spec: MethodSpec, deadline: float | None, flags: int) -> Iterator[OwnCall]:
        """Begin a call that streams; it has ended with the block."""
        header = CallHeader(spec.path, self.batch.instance, self.batch.new_id(), flags, _tracing())
        with ClientCall(self.channel, kind_of_method(spec)):
            yield OwnCall(self.channel, header, _left(deadline))


class Stub:
    """What `Rpc.stub` makes: has the service's methods as attributes."""

    def __init__(self, caller: PeerCaller, spec: ServiceSpec, options: CallOptions) -> None:
        self._lattica = (caller, spec, options)
        lane = Lane()
        for attribute, method in spec.methods.items():
            setattr(self, attribute, _callable(caller, method, options, lane))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service {self._lattica[1].name} has no method {name}")

    def __repr__(self) -> str:
        caller, spec, _ = self._lattica
        return f"<stub of {spec.name} at {caller.channel.peer_id}>"


def make_stub(caller: PeerCaller, cls: type[S], spec: ServiceSpec, options: CallOptions) -> S:
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


def _callable(caller: PeerCaller, spec: MethodSpec, opts: CallOptions, lane: Lane) -> Callable[..., Any]:
    if spec.is_unary:
        return _Unary(caller, spec, opts, lane)
    if spec.streams_results:
        return _ResultStream(caller, spec, opts)
    return _RequestStream(caller, spec, opts)


class _Method:
    def __init__(self, caller: PeerCaller, spec: MethodSpec, opts: CallOptions) -> None:
        self._caller = caller
        self._spec = spec
        self._timeout = opts.timeout
        self._flags = (0 if spec.options.idempotent else ONCE) | (TRACEBACK if opts.traceback else 0)
        self._policy = RetryPolicy(opts.attempts)
        self._options = opts

    def _deadline(self) -> float | None:
        own = None if self._timeout is None else time.monotonic() + self._timeout
        outer = running_call.get()
        if outer is None or outer.deadline is None:
            return own
        return outer.deadline if own is None else min(own, outer.deadline)


class _Unary(_Method):
    def __init__(self, caller: PeerCaller, spec: MethodSpec, opts: CallOptions, lane: Lane) -> None:
        super().__init__(caller, spec, opts)
        self._lane = lane
        self._hedged = opts.hedge_after is not None
        if self._hedged and not spec.options.idempotent:
            self._hedged = False  # the service has others for which it was asked

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        spec = self._spec
        encoded = spec.args.encode_small(spec.args.bind(args, kwargs))
        deadline = self._deadline()
        try:
            if self._hedged:
                return await self._hedge(encoded, deadline)
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

    async def _hedge(self, encoded: bytes | Encoded, deadline: float | None) -> Any:
        """The first answer of two attempts; the other is cancelled."""
        loop = asyncio.get_running_loop()

        def attempt() -> asyncio.Task[Any]:
            return loop.create_task(self._caller.unary(self._spec, encoded, self._lane, deadline, self._flags))

        tasks = [attempt()]
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._options.hedge_after)
            if not done:
                tasks.append(attempt())
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
            await asyncio.wait(tasks)


class _Streaming(_Method):
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
    async def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[OwnCall]:
        """A call that is under way and whose requests are being sent; what went wrong with those is raised."""
        spec = self._spec
        encoded, stream = self._arguments(args, kwargs)
        with self._caller.streaming(spec, self._deadline(), self._flags) as call:
            if stream is None:
                self._count_bytes("sent", encoded)
            try:
                async with sending(call, encoded, None if stream is None else self._items(stream)):
                    yield call
            except LostCallError as error:
                raise error.outcome(spec.path, once=not spec.options.idempotent) from error.__cause__

    def _count_bytes(self, direction: Literal["sent", "received"], value: bytes | Encoded) -> None:
        self._caller.channel.metrics.bytes("client", direction, value_size(value))


class _RequestStream(_Streaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        async with self._called(args, kwargs) as call:
            answer = await call.receive()
            if answer is None:
                raise RemoteProtocolError("a call that ended without an answer", self._caller.channel.peer_id)
            if isinstance(answer, Encoded):
                self._count_bytes("received", answer)
            return self._result(answer)


class _ResultStream(_Streaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with self._called(args, kwargs) as call:
            while (answer := await call.receive()) is not None:
                yield self._result(answer)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())


def _tracing() -> dict[str, str] | None:
    """The current trace context, if the program uses OpenTelemetry with us."""
    otel = sys.modules.get("lattica.rpc.otel")
    return dict(otel.inject_context()) or None if otel is not None else None
