"""Lattica for `benchmarks.rpc`: two nodes, a plain Python service, mutual TLS to the native port, uvloop.

Usage: python -m benchmarks.rpc_lattica serve HOST
       python -m benchmarks.rpc_lattica call HOST SERVER'S_LINE_OF_JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

import lattica
from benchmarks.memory import PeakMemory
from benchmarks.rpc_cases import MIB, Task
from benchmarks.rpc_load import CALL_LIMIT_S, Value, measures, say, wait_for_end_of_input, work
from lattica import rpc


@rpc.service("bench")
class Bench:
    """What the server does."""

    @rpc.method
    async def echo(self, data: bytes) -> bytes:
        return data

    @rpc.method
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @rpc.method
    async def upload(self, items: AsyncIterator[bytes]) -> int:
        size = 0
        async for item in items:
            size += len(item)
        return size

    @rpc.method
    async def download(self, items: int) -> AsyncIterator[bytes]:
        block = bytes(MIB)
        for _ in range(items):
            yield block

    @rpc.method
    async def take(self, tensor: Any) -> tuple[int, float]:
        return tensor.numel() * tensor.element_size(), float(tensor[-1])


async def serve(host: str) -> None:
    """Serve; prints what a client needs."""
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as home:
        async with lattica.open_node(lattica.NodeConfig(home=Path(home), host=host)) as node:
            node.rpc.serve(Bench(), announce=True)
            say({"pid": os.getpid(), "address": str(node.addresses[0])})
            await wait_for_end_of_input()


async def call(host: str, up: dict[str, str]) -> None:
    """Connect, then do what is asked."""
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as home:
        config = lattica.NodeConfig(home=Path(home), host=host, bootstrap=(up["address"],))
        async with lattica.open_node(config) as node:
            peer = node.resolve(up["address"])
            client = node.rpc.stub(Bench, peer, timeout=CALL_LIMIT_S)
            await client.echo(b"")

            async def tensor(task: Task) -> list[Value]:
                return await take_tensor(client, task.size, int(up["pid"]))

            named = measures(node.rpc.service("bench", Bench, timeout=CALL_LIMIT_S))["rate"]
            await work({**measures(client), "named": named, "tensor": tensor})


async def take_tensor(client: Bench, size: int, server: int) -> list[Value]:
    """Send a tensor; the memory that it takes beside the tensor itself at the client, and all of it at the server."""
    import torch

    await client.take(torch.ones(1024))  # imports torch at the server
    argument = torch.full((size // 4,), 0.5)
    here, there = PeakMemory(os.getpid()), PeakMemory(server)
    started = time.perf_counter()
    taken = await client.take(argument)
    seconds = time.perf_counter() - started
    if tuple(taken) != (size, 0.5):
        raise RuntimeError(f"the server got {taken}")
    return [
        Value(unit="MB/s", value=size / 1e6 / seconds),
        Value(name=", extra memory at the caller", unit="MiB", value=here.extra() / MIB),
        Value(name=", extra memory at the server", unit="MiB", value=there.extra() / MIB),
    ]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serve(sys.argv[2]))
    else:
        uvloop.run(call(sys.argv[2], json.loads(sys.argv[3])))
