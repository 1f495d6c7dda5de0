"""Replicated documents between real nodes, over gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from waiting import until

import lattica
from lattica._proto import store_pb2
from lattica.errors import NoReplicaError
from lattica.store import Document, NamespaceId, Policy
from lattica.store.sync_wire import FrameWriter, SyncMessage


def config(home: Path, *bootstrap: lattica.Node) -> lattica.NodeConfig:
    addresses = tuple(str(node.addresses[0]) for node in bootstrap)
    return lattica.NodeConfig.load(home=home, host="127.0.0.1", bootstrap=addresses)


async def put(document: Document, key: str, value: int) -> None:
    async with document.transaction():
        document.map("m")[key] = value


async def hold(documents: list[Document], expected: dict[str, int]) -> None:
    """Wait until all hold this."""
    async with asyncio.timeout(30):
        while any(dict(document.map("m")) != expected for document in documents):
            await asyncio.sleep(0.02)


@pytest.mark.timeout(120)
async def test_nodes_share_a_document_of_which_one_goes_and_comes_back(tmp_path: Path) -> None:
    async with (
        lattica.open_node(config(tmp_path / "boot")) as boot,
        lattica.open_node(config(tmp_path / "a", boot)) as a,
    ):
        ours = await a.store.create("shared", policy=Policy.OPEN)
        await put(ours, "first", 1)
        async with lattica.open_node(config(tmp_path / "b", boot)) as b:
            theirs = await b.store.open(str(ours.namespace))
            await hold([theirs], {"first": 1})
            await put(theirs, "second", 2)
            await put(ours, "third", 3)
            await hold([ours, theirs], {"first": 1, "second": 2, "third": 3})
            await until(
                lambda: theirs.frontier().digest() == ours.frontier().digest()
            )  # what is read may not be durable
        await put(ours, "alone", 4)
        async with lattica.open_node(config(tmp_path / "b", boot)) as b:
            again = await b.store.open(ours.namespace)
            assert again.map("m")["third"] == 3
            await put(again, "back", 5)
            await hold([ours, again], {"first": 1, "second": 2, "third": 3, "alone": 4, "back": 5})


async def refused(call: Any, first: bytes | None) -> grpc.StatusCode:
    """How a stream ends that begins so."""
    if first is not None:
        await call.write(first)
    else:
        await call.done_writing()
    async with asyncio.timeout(20):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
        status: grpc.StatusCode = await call.code()
        return status


@pytest.mark.timeout(120)
async def test_greetings_that_are_not_good_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        lattica.open_node(config(tmp_path / "a")) as a,
        lattica.open_node(config(tmp_path / "b", a)) as b,
    ):
        document = await a.store.create()
        channel = b.rpc.channel(a.peer_id)
        sync = channel.stream_stream("/lattica.v1.Store/Sync")
        unknown = FrameWriter().write(SyncMessage(namespace=bytes(32)))
        assert await refused(sync(), unknown) is grpc.StatusCode.NOT_FOUND
        assert await refused(sync(), b"\xff\xff garbage") is grpc.StatusCode.INVALID_ARGUMENT
        assert await refused(sync(), FrameWriter().write(SyncMessage())) is grpc.StatusCode.INVALID_ARGUMENT
        assert await refused(sync(), None) is grpc.StatusCode.OK
        with monkeypatch.context() as patch:
            patch.setattr("lattica.store.service.GREETING_S", 0.3)
            silent = sync()
            async with asyncio.timeout(20):
                assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await a.store.close(document.namespace)
        closed = FrameWriter().write(SyncMessage(namespace=document.namespace.raw))
        assert await refused(sync(), closed) is grpc.StatusCode.NOT_FOUND

        ask = channel.unary_unary("/lattica.v1.Store/GetGenesis")
        for question in (b"\xff", bytes(2000), store_pb2.GenesisRequest(namespace=b"short").SerializeToString()):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await ask(question)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        question = store_pb2.GenesisRequest(namespace=document.namespace.raw).SerializeToString()
        assert store_pb2.GenesisResponse.FromString(await ask(question)).genesis == document.genesis.raw
        question = store_pb2.GenesisRequest(namespace=bytes(32)).SerializeToString()
        assert store_pb2.GenesisResponse.FromString(await ask(question)).genesis == b""


@pytest.mark.timeout(120)
async def test_who_breaks_the_rules_over_grpc_is_shunned_and_the_node_goes_on(tmp_path: Path) -> None:
    async with (
        lattica.open_node(config(tmp_path / "a")) as a,
        lattica.open_node(config(tmp_path / "b", a)) as b,
    ):
        document = await a.store.create()
        await put(document, "a", 1)
        sync = b.rpc.channel(a.peer_id).stream_stream("/lattica.v1.Store/Sync")
        call = sync()
        writer = FrameWriter()
        await call.write(writer.write(SyncMessage(namespace=document.namespace.raw)))
        await call.write(writer.write(SyncMessage(answered=True)))
        async with asyncio.timeout(20):
            while await call.read() is not grpc.aio.EOF:
                pass
        greeting = FrameWriter().write(SyncMessage(namespace=document.namespace.raw))
        assert await refused(sync(), greeting) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await put(document, "b", 2)
        assert dict(document.map("m")) == {"a": 1, "b": 2}


@pytest.mark.timeout(120)
async def test_a_namespace_that_no_node_has_is_not_found(tmp_path: Path) -> None:
    async with (
        lattica.open_node(config(tmp_path / "a")) as a,
        lattica.open_node(config(tmp_path / "b", a)) as b,
    ):
        with pytest.raises(NoReplicaError):
            await b.store.open(NamespaceId(bytes(32)), timeout=1)
