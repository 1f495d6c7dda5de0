"""A session's stream hears who its server is, and is not taken in by what gRPC makes up when there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from lattica.errors import RemoteProtocolError
from lattica.rpc.batch_wire import INSTANCE_KEY, KNOWN_KEY
from lattica.rpc.caller_stream import CallerStream, StreamOwner


@dataclass
class Call:
    """A call that says so much."""

    metadata: tuple[tuple[str, Any], ...] = ()
    end: Exception | None = None

    async def initial_metadata(self) -> Metadata:
        return Metadata(*self.metadata)

    async def read(self) -> object:
        if self.end is not None:
            raise self.end
        return grpc.aio.EOF


@dataclass
class Channel:
    peer_id: str = "somebody"


@dataclass
class Owner:
    """Notes who was said to be there."""

    channel: Channel = field(default_factory=Channel)
    said: list[tuple[bytes, bool]] = field(default_factory=list)

    def welcomed(self, instance: bytes, *, known: bool) -> None:
        self.said.append((instance, known))


def stream(owner: Owner, call: Call) -> CallerStream:
    return CallerStream(cast(StreamOwner, owner), call, "direct")


async def test_a_server_that_says_who_it_is_is_heard_once() -> None:
    owner = Owner()
    heard = stream(owner, Call(((INSTANCE_KEY, b"name"), (KNOWN_KEY, "1"))))
    await heard.welcome()
    await heard.welcome()
    assert owner.said == [(b"name", True)]
    assert (heard.instance, heard.is_known) == (b"name", True)


async def test_a_call_that_failed_says_nothing_of_a_server() -> None:
    """Its metadata is empty, as gRPC has it, which does not mean that a server has forgotten us."""
    owner = Owner()
    lost = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "the connection was lost")
    with pytest.raises(AioRpcError, match="the connection was lost"):
        await stream(owner, Call(end=lost)).welcome()
    assert not owner.said


async def test_a_server_without_a_name_breaks_the_protocol() -> None:
    owner = Owner()
    with pytest.raises(RemoteProtocolError, match="without a name"):
        await stream(owner, Call()).welcome()
    assert not owner.said
