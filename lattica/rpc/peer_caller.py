"""Calls one peer: each kind of call, on the way that its size and kind need."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from lattica.errors import ServerBusyError
from lattica.rpc.batch_calls import Lane
from lattica.rpc.batch_client import BatchClient
from lattica.rpc.batch_wire import BULK, MAX_BULK, MAX_SMALL, Failure
from lattica.rpc.channel import PeerChannel
from lattica.rpc.codec import Encoded
from lattica.rpc.counted_call import BATCHED, ClientCall, kind_of_method
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.metrics import RpcMetrics
from lattica.rpc.own_client import OwnCall
from lattica.rpc.own_unary import OwnUnary
from lattica.rpc.own_wire import CallHeader
from lattica.rpc.remote_errors import error_of
from lattica.rpc.retry import RetryPolicy, final
from lattica.rpc.service import MethodSpec
from lattica.rpc.stub import CallOptions
from lattica.rpc.stub_methods import StreamingMethod, StubMethod, first_answer, is_repeatable, left


class PeerCaller:
    """Calls one peer.

    Attributes:
        channel: For calls with a gRPC call of their own.
        batch: For those with small arguments.
        bulk: For those with larger ones.
        large: For unary ones that are too large for a batch.
    """

    def __init__(self, channel: PeerChannel, metrics: RpcMetrics) -> None:
        self.channel = channel
        self.batch = BatchClient(channel, metrics)
        self.bulk = BatchClient(channel, metrics, BULK)
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
        size = len(args) if isinstance(args, bytes) else args.size
        if size <= MAX_BULK:
            batch = self.batch if size <= MAX_SMALL else self.bulk
            number, value = await batch.call(
                spec, args, lane=lane, deadline=deadline, flags=flags, context=context, can_move=can_move
            )
            if isinstance(value, Encoded):
                return spec.result.decode(value.body, value.buffers)
            if value is not None:
                return spec.result.decode(memoryview(value))
            fetching = OwnUnary(self.channel, batch)
            with ClientCall(self.channel, BATCHED, timed=False) as counted:
                answer = await fetching.fetch(spec.path, number, deadline, flags, can_move=can_move)
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

    async def close(self, grace: float) -> None:
        """End the sessions; see `BatchClient.close`."""
        await asyncio.gather(self.batch.close(grace), self.bulk.close(grace))

    @contextlib.contextmanager
    def streaming(self, spec: MethodSpec, deadline: float | None, flags: int) -> Iterator[OwnCall]:
        """Begin a call that streams; it has ended with the block."""
        header = CallHeader(spec.path, self.batch.instance, self.batch.new_id(), flags, _tracing())
        with ClientCall(self.channel, kind_of_method(spec)):
            yield OwnCall(self.channel, header, left(deadline))


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
            pause = self._policy.pause(failed, error, idempotent=idempotent, remaining=left(deadline), draw=draw)
            if pause is None:
                raise final(error, spec.path, once=not idempotent) from error.__cause__
            await asyncio.sleep(pause)
            try:
                return await self._caller.unary(spec, encoded, self._lane, deadline, self._flags)
            except Exception as again:  # noqa: BLE001 - as above
                failed, error = failed + 1, again


class _PeerStreaming(StreamingMethod):
    def __init__(self, caller: PeerCaller, spec: MethodSpec, opts: CallOptions) -> None:
        super().__init__(spec, opts)
        self._caller = caller
        self._policy = RetryPolicy(opts.attempts)

    @contextlib.asynccontextmanager
    async def _begun(self, encoded: bytes | Encoded, stream: Any, deadline: float | None) -> AsyncIterator[OwnCall]:
        try:
            async with self._called(self._caller, encoded, stream, deadline) as call:
                yield call
        except LostCallError as error:
            raise self._lost(error) from error.__cause__

    async def _again(self, failed: int, error: ServerBusyError, stream: Any, deadline: float | None) -> None:
        """Return when a call that was refused may be made again; raise the error if it may not."""
        pause = None
        if is_repeatable(error, stream):
            draw = random.random()  # noqa: S311 - as above
            idempotent = self._spec.options.idempotent
            pause = self._policy.pause(failed, error, idempotent=idempotent, remaining=left(deadline), draw=draw)
        if pause is None:
            raise error
        await asyncio.sleep(pause)


class _RequestStream(_PeerStreaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encoded, stream = self._arguments(args, kwargs)
        deadline, failed = self._deadline(), 0
        while True:
            try:
                async with self._begun(encoded, stream, deadline) as call:
                    return await self._only_result(call, self._caller)
            except ServerBusyError as error:
                failed += 1
                await self._again(failed, error, stream, deadline)


class _ResultStream(_PeerStreaming):
    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        encoded, stream = self._arguments(args, kwargs)
        deadline, failed = self._deadline(), 0
        while True:
            answered = False
            try:
                async with self._begun(encoded, stream, deadline) as call:
                    while (answer := await call.receive()) is not None:
                        result = self._result(answer)
                        answered = True
                        yield result
                    return
            except ServerBusyError as error:
                if answered:
                    raise
                failed += 1
                await self._again(failed, error, stream, deadline)


def _tracing() -> dict[str, str] | None:
    """The current trace context, if the program uses OpenTelemetry with us."""
    otel = sys.modules.get("lattica.rpc.otel")
    return dict(otel.inject_context()) or None if otel is not None else None
