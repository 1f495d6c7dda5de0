"""What a call of its own says of itself when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey
from lattica.rpc import RpcUnreachableError
from lattica.rpc.calls import StreamStreamPeerCall
from lattica.rpc.channel import PeerChannel
from lattica.rpc.lost_call import LostCallError
from lattica.rpc.own_client import OwnCall
from lattica.rpc.own_wire import CallHeader

PEER = IdentityKey.generate().peer_id
UNREACHABLE = PeerUnreachableError(PEER, {"here": "refused"})
LOST = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details="Socket closed")


class BrokenCall:
    """A gRPC call whose connection breaks while the first message is being written; who knows what has come."""

    async def write(self, _: bytes) -> None:
        raise LOST

    async def read(self) -> bytes:
        raise LOST

    def add_done_callback(self, _: Callable[[Any], None]) -> None: ...


class Starter:
    def __init__(self, call: BrokenCall | None) -> None:
        self._call = call

    def start_nowait(self) -> BrokenCall | None:
        return self._call

    async def start(self) -> Any:
        raise UNREACHABLE

    def explain(self, _: AioRpcError) -> AioRpcError:
        return RpcUnreachableError(UNREACHABLE)

    def abandoned(self) -> AioRpcError:
        return RpcUnreachableError(UNREACHABLE)

    def time_remaining(self) -> None: ...


class Channel:
    """A channel that has this call to give, or finds nobody."""

    peer_id = PEER

    def __init__(self, call: BrokenCall | None) -> None:
        self._call = call

    def stream_stream(self, _: str) -> Any:
        def spawn(function: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
            return asyncio.get_running_loop().create_task(function())

        return lambda timeout: StreamStreamPeerCall[bytes, bytes](Starter(self._call), spawn)


@pytest.mark.parametrize("found", [True, False])
async def test_a_call_that_had_a_session_may_have_come_and_one_that_had_none_has_not(found: bool) -> None:
    channel = cast(PeerChannel, Channel(BrokenCall() if found else None))
    call = OwnCall(channel, CallHeader("s/m", bytes(16), 0, 0), None)
    with pytest.raises(LostCallError) as caught:
        await call.send(b"\xc0", first=True)
    assert caught.value.was_sent is found
    with pytest.raises(LostCallError) as caught:
        await call.receive()
    assert caught.value.was_sent is found
