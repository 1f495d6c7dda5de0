"""A program around a node with documents, for tests in the lab: what it is told to, it opens and writes, and it notes
when it came to know what.

``store_node.py HOME PORT [BOOTSTRAP]...`` prints who it is as a line of JSON. Each line on its standard input is a
request, ``{"id": 1, "do": "write", ...}``; the answer is a line with the same ``id``. They run side by side. In
``HOME/trace`` each line is a moment, in seconds of the machine's monotonic clock, and what was known then of each
author; in ``HOME/acknowledged`` each is the number of a write that had become durable.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

import lattica
from lattica.background import Background, background_tasks
from lattica.config import NodeConfig
from lattica.identity import PeerId
from lattica.store import Document, Policy

TRACE, ACKNOWLEDGED = "trace", "acknowledged"
TRACE_S = 0.05
WRITES, COUNTER = "writes", "written"


class StoreNode:
    """Carries out requests; each returns what the answer says."""

    def __init__(self, node: lattica.Node, home: Path, tasks: Background) -> None:
        self._node = node
        self._home = home
        self._tasks = tasks

    async def do(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        match request["do"]:
            case "create":
                document = await self._node.store.create("lab", policy=Policy.OPEN)
                self._tasks.start(self._trace(document))
                return {"namespace": str(document.namespace)}
            case "open":
                begun = time.monotonic()
                document = await self._node.store.open(request["namespace"])
                self._tasks.start(self._trace(document))
                return {"seconds": time.monotonic() - begun}
        document = await self._node.store.open(request["namespace"])
        match request["do"]:
            case "write":
                return await self._write(document, request["first"], request["last"], request["pause"])
            case "touch":
                begun = time.monotonic()
                async with document.transaction():
                    document.map("touched")[request["key"]] = begun
                return {"begun": begun, "durable": time.monotonic()}
            case "seen":
                return await self._seen(document, request["key"])
            case "state":
                return self._state(document)
        raise ValueError(request["do"])

    async def _write(self, document: Document, first: int, last: int, pause: float) -> Mapping[str, Any]:
        """Write numbers, with a pause after each; note each one when it is durable."""
        with (self._home / ACKNOWLEDGED).open("ab", buffering=0) as log:
            for number in range(first, last + 1):
                async with document.transaction():
                    document.map(WRITES)[f"{document.author}/{number}"] = number
                    document.counter(COUNTER).add(1)
                log.write(b"%d\n" % number)
                await asyncio.sleep(pause)
        return {"written": last + 1 - first}

    async def _seen(self, document: Document, key: str) -> Mapping[str, Any]:
        """When somebody's write of a key could be read here; it is durable then, too."""
        changes = document.changes()
        if key not in document.map("touched"):
            async for _ in changes:
                if key in document.map("touched"):
                    break
        return {"seen": time.monotonic()}

    def _state(self, document: Document) -> Mapping[str, Any]:
        """All that can be compared."""
        replicator = self._node.store.replicator_of(document.namespace)
        return {
            "frontier": document.frontier().digest().hex(),
            "writes": sorted(document.map(WRITES)),
            "counted": document.counter(COUNTER).by_author(),
            "peers": [str(peer) for peer in replicator.peers] if replicator else [],
        }

    async def _trace(self, document: Document) -> None:
        known = None
        with (self._home / TRACE).open("ab", buffering=0) as log:
            while True:
                frontier = document.frontier()
                if frontier is not known:
                    known = frontier
                    heads = {str(PeerId(chain.author)): head.seq for chain, head in frontier.heads.items()}
                    log.write(encode({"at": time.monotonic(), "heads": heads}))
                await asyncio.sleep(TRACE_S)


def encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _answer(message: Mapping[str, object]) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


async def _serve(program: StoreNode, tasks: Background) -> None:
    reader = asyncio.StreamReader(limit=1 << 20)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )

    async def do(request: Mapping[str, Any]) -> None:
        _answer({"id": request["id"], **await program.do(request)})

    try:
        while line := await reader.readline():
            tasks.start(do(json.loads(line)), name="request")
    finally:
        transport.close()


async def main(home: Path, port: int, *bootstrap: str) -> None:
    """Run until SIGTERM, or until the standard input ends."""
    config = NodeConfig.load(home=home, port=port, bootstrap=bootstrap)
    async with lattica.open_node(config) as node, background_tasks() as tasks:
        _answer({"peer_id": str(node.peer_id), "addresses": [str(address) for address in node.addresses]})
        serving = tasks.start(_serve(StoreNode(node, home, tasks), tasks))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        await asyncio.wait([serving])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("lattica.store").setLevel(logging.DEBUG)
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
