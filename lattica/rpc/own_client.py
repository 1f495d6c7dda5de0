"""Makes calls that have a gRPC call of their own: streams, large arguments, large results."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

import grpc
from grpc.aio import AioRpcError

from lattica.errors import (
    DeadlineExceededError,
    PeerUnreachableError,
    RemoteProtocolError,
    RpcError,
)
from lattica.rpc.batch_wire import CALL_METHOD, Failure
from lattica.rpc.channel import PeerChannel
from lattica.rpc.codec import Encoded
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.own_wire import (
    END_MESSAGE,
    FETCH,
    CallHeader,
    ValueReader,
    header_message,
    value_messages,
)


class OwnCall:
    """One such call.

    Raises (all methods):
        LostCallError: The connection was lost.
        DeadlineExceededError: The deadline has passed.
        RemoteProtocolError: The peer's messages are malformed.
    """

    def __init__(self, channel: PeerChannel, header: CallHeader, timeout: float | None) -> None:
        self._channel = channel
        self._header = header
        self._call = channel.stream_stream(CALL_METHOD)(timeout=timeout)
        self._reader = ValueReader()

    async def send(self, value: bytes | Encoded | None, *, first: bool = False) -> bool:
        """Send the arguments (``first``) or an item; false if the call has ended, of which receiving tells more."""
        before = header_message(self._header) if first else b""
        return await self._write([before] if value is None else value_messages(value, before))

    async def end_items(self) -> bool:
        """Say that the stream of items is whole; false as of `send`."""
        return await self._write([END_MESSAGE])

    async def _write(self, messages: Iterable[bytes]) -> bool:
        try:
            for message in messages:
                await self._call.write(message)
        except PeerUnreachableError as error:
            raise LostCallError(error, was_sent=self._call.has_started) from error
        except (asyncio.InvalidStateError, AioRpcError):
            return False
        return True

    async def done_sending(self) -> None:
        """Say that no more messages come."""
        try:
            await self._call.done_writing()
        except (asyncio.InvalidStateError, AioRpcError, grpc.aio.InternalError):
            return  # as above

    async def receive(self) -> Encoded | Failure | None:
        """The next result, or the failure; ``None`` at the end."""
        while True:
            try:
                message = await self._call.read()
                if message is grpc.aio.EOF:
                    await self._check_end()
                    return None
            except AioRpcError as error:
                raise self._explained(error) from error
            value = self._reader.feed(message)
            if value is not None:
                return value

    async def _check_end(self) -> None:
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            raise self._explained(
                AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), await self._call.details())
            )
        if not self._reader.is_between:
            raise RemoteProtocolError("a call that ended within a value", self._channel.peer_id)

    def cancel(self) -> None:
        """Give it up."""
        self._call.cancel()

    def _explained(self, error: AioRpcError) -> Exception:
        return explained(error, self._channel, self._header.method, was_sent=self._call.has_started)


def explained(error: AioRpcError, channel: PeerChannel, method: str, *, was_sent: bool) -> Exception:
    """What gRPC's error means for the call."""
    if isinstance(error, PeerUnreachableError):
        return LostCallError(error, was_sent=was_sent)
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(method)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return RpcError(f"{channel.peer_id} did not understand the call: {error.details()}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RpcError(f"{channel.peer_id} serves no plain Python services: it runs an older Lattica")
    lost = RpcError(f"the connection to {channel.peer_id} was lost: {code.name}: {error.details()}")
    return LostCallError(lost, was_sent=True)


async def call_alone(
    channel: PeerChannel, header: CallHeader, args: bytes | Encoded, timeout: float | None
) -> Encoded | Failure:
    """Make one unary call; errors as of `OwnCall`. Cancelling it cancels it at the server."""
    call = OwnCall(channel, header, timeout)
    async with sending(call, args, None):
        return await _only(call, channel)


async def fetch_result(channel: PeerChannel, instance: bytes, number: int, timeout: float | None) -> Encoded | Failure:
    """The large result of a batched call; errors as of `OwnCall`."""
    call = OwnCall(channel, CallHeader("", instance, number, FETCH), timeout)
    async with sending(call, None, None):
        return await _only(call, channel)


async def _only(call: OwnCall, channel: PeerChannel) -> Encoded | Failure:
    answer = await call.receive()
    if answer is None:
        raise RemoteProtocolError("a call that ended without an answer", channel.peer_id)
    return answer


@contextlib.asynccontextmanager
async def sending(
    call: OwnCall, args: bytes | Encoded | None, items: AsyncIterator[bytes | Encoded] | None
) -> AsyncIterator[None]:
    """Send arguments and items while the block receives; at its end the call is over.

    The peer may answer before it has everything, so that receiving must not wait for sending. What ``items`` raises
    ends the call and comes out of the block.
    """

    async def send() -> None:
        if not await call.send(args, first=True):
            return
        if items is not None:
            async for item in items:
                if not await call.send(item):
                    return
            await call.end_items()
        await call.done_sending()

    task = asyncio.get_running_loop().create_task(_contained(call, send()))
    try:
        yield
        if task.done() and (failure := task.result()) is not None:
            raise failure
    except (asyncio.CancelledError, LostCallError):
        current = asyncio.current_task()
        failure = task.result() if task.done() else None
        if failure is not None and current is not None and not current.cancelling():
            raise failure from None
        raise
    finally:
        call.cancel()
        task.cancel()
        await asyncio.wait([task])


async def _contained(call: OwnCall, sends: Coroutine[Any, Any, None]) -> Exception | None:
    """What the caller's own iterator raised, which ends the call; that the call was lost is told by receiving."""
    try:
        await sends
    except LostCallError:
        return None
    except Exception as error:  # noqa: BLE001 - raised where the call is received
        call.cancel()
        return error
    return None
