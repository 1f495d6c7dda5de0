"""A document that one node has and another one gets, and one that is opened again: processes of their own.

Usage: python -m benchmarks.store_sync serve HOME NAMESPACE
       python -m benchmarks.store_sync open FILE NAMESPACE
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

import lattica
from benchmarks.memory import PeakMemory
from benchmarks.store_cases import Alone
from lattica.identity import IdentityKey, PeerAddress
from lattica.store import Frontier, Genesis, open_store
from lattica.store.disk import open_store_disk

SYNC_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening a document took.

    Attributes:
        seconds: From the call of `open` until it can be read.
        memory: Bytes that the process has more then; at the peak.
    """

    seconds: float
    memory: int


def entries_in(frontier: Frontier) -> int:
    """How many entries without gaps a frontier stands for."""
    return sum(head.seq for head in frontier.heads.values())


async def serve(home: Path, namespace: str) -> None:
    """Be a node that has the document; prints its address."""
    async with lattica.open_node(lattica.NodeConfig(home=home, host="127.0.0.1", port=0)) as node:
        await node.store.open(namespace)
        print(json.dumps({"address": str(node.addresses[0])}), flush=True)
        await asyncio.Event().wait()


async def sync_once(home: Path, address: str, genesis: Genesis, count: int) -> float:
    """Seconds from the call of `open` by a node that has nothing to having everything, the link being up."""
    config = lattica.NodeConfig(home=home, host="127.0.0.1", port=0, bootstrap=(address,))
    async with lattica.open_node(config) as node:
        peer = PeerAddress.parse(address).peer_id
        assert peer is not None
        await node.ping(peer)
        started = time.perf_counter()
        document = await node.store.open(genesis.namespace)
        async with asyncio.timeout(SYNC_LIMIT_S):
            while entries_in(document.frontier()) < count:
                await asyncio.sleep(0.01)
        return time.perf_counter() - started


async def open_here(path: Path, namespace: str) -> None:
    """Open a document; prints seconds and bytes of memory."""
    async with open_store(IdentityKey.from_seed(bytes(32)), path, Alone(), Alone()) as store:
        memory = PeakMemory("self")
        started = time.perf_counter()
        await store.open(namespace)
        print(json.dumps({"seconds": time.perf_counter() - started, "memory": memory.extra()}), flush=True)


async def open_once(path: Path, genesis: Genesis) -> Opened:
    """Open the document in a process of its own, which ends then as programs do."""
    async with process("open", str(path), str(genesis.namespace), kill=False) as said:
        return Opened(said["seconds"], said["memory"])


async def disk_size(path: Path) -> int:
    """Bytes of the file."""
    async with open_store_disk(path) as disk:
        return disk.size


@contextlib.asynccontextmanager
async def process(*arguments: str, kill: bool = True) -> AsyncIterator[dict[str, Any]]:
    """A process of this module that prints a line of JSON; killed, or waited for, at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.store_sync", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield json.loads(await child.stdout.readline())
    finally:
        if kill:
            child.kill()
        await child.wait()


if __name__ == "__main__":
    command, where, document_id = sys.argv[1:]
    uvloop.run((serve if command == "serve" else open_here)(Path(where), document_id))
