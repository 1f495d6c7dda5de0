"""A document that one node has and another one gets, and one that is opened again: processes of their own.

Usage: python -m benchmarks.store_sync {serve HOME | open FILE | compact FILE | plain FILE} NAMESPACE
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from pycrdt import Doc

import lattica
from benchmarks.memory import PeakMemory
from benchmarks.store_cases import Alone
from lattica.identity import IdentityKey, PeerAddress
from lattica.store import Frontier, Genesis, NamespaceId, open_store
from lattica.store.disk import open_store_disk

SYNC_LIMIT_S = 120.0
WRITE_PAUSE_S = 0.02
MORE_EDITS = 5
OWNER = IdentityKey.from_seed(bytes(32))
"""Who opens documents here; owns those that are compacted."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening a document took.

    Attributes:
        seconds: From the call of `open` until it can be read.
        memory: Bytes that the process has more then; at the peak.
        held: The same once it is open: what is beyond a node without documents.
    """

    seconds: float
    memory: int
    held: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """What compacting a document took.

    Attributes:
        seconds: In all.
        held: Of these, how long somebody who wanted to write had to wait at most.
        state: Bytes of what stands for its entries.
    """

    seconds: float
    held: float
    state: int


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
    async with open_store(OWNER, path, Alone(), Alone()) as store:
        with _printed():
            await store.open(namespace)


def plain_file(path: Path) -> Path:
    """Where plain pycrdt has the document of a store's file."""
    return path.with_suffix(".yjs")


async def open_plain(path: Path, _: str) -> None:
    """Have plain pycrdt open its document of the same writes; prints the same."""
    update = plain_file(path).read_bytes()
    doc: Doc[Any] = Doc(client_id=1)
    with _printed():
        doc.apply_update(update)


@contextlib.contextmanager
def _printed() -> Iterator[None]:
    """Print what the block has taken."""
    memory = PeakMemory("self")
    started = time.perf_counter()
    yield
    opened = Opened(time.perf_counter() - started, memory.extra(), memory.held())
    print(json.dumps(asdict(opened)), flush=True)


async def compact_here(path: Path, namespace: str) -> None:
    """Compact a document of ours, while somebody writes to it now and then; prints what that took."""
    async with open_store(OWNER, path, Alone(), Alone()) as store:
        document = await store.open(namespace)
        started = time.perf_counter()
        compacting = asyncio.create_task(document.compact())
        held = 0.0
        while not compacting.done():
            asked = time.perf_counter()
            async with document.transaction():
                held = max(held, time.perf_counter() - asked)
            await asyncio.wait([compacting], timeout=WRITE_PAUSE_S)
        await compacting  # it may have found that the node does so by itself, and waited for that
        seconds = time.perf_counter() - started
    async with open_store_disk(path) as disk:
        raw, _ = await disk.base(NamespaceId.parse(namespace).raw) or (b"", 0)
    assert raw
    print(json.dumps(asdict(Compacted(seconds, held, len(raw)))), flush=True)


async def edit_once(path: Path, genesis: Genesis, count: int) -> None:
    """Write a little more into the list and the text of a document of ours, in which ``count`` entries count."""
    async with open_store(OWNER, path, Alone(), Alone()) as store:
        document = await store.open(genesis.namespace)
        assert entries_in(document.frontier()) >= count
        for number in range(MORE_EDITS):
            async with document.transaction():
                document.list("log").append(number)
                document.text("notes").append(f"more{number} ")


async def compact_once(path: Path, genesis: Genesis) -> Compacted:
    """Compact the document in a process of its own, which ends then as programs do."""
    async with process("compact", str(path), str(genesis.namespace), kill=False) as said:
        return Compacted(**said)


async def open_once(path: Path, genesis: Genesis, how: str = "open") -> Opened:
    """Open the document in a process of its own, which ends then as programs do; or ``plain``, by pycrdt alone."""
    async with process(how, str(path), str(genesis.namespace), kill=False) as said:
        return Opened(**said)


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
    run = {"serve": serve, "open": open_here, "compact": compact_here, "plain": open_plain}[command]
    uvloop.run(run(Path(where), document_id))
