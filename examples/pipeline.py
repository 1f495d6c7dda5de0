"""A model in two stages, each served by two nodes: requests go to whoever is well, and stay where their cache is.

Usage: python examples/pipeline.py

Everything runs in this one process, on 127.0.0.1: a bootstrap node, two replicas of each stage, and a client that knows
only the names of the stages. A request carries its session's key, so that all of its steps meet the same replica of
each stage, which keeps what it has computed for it. In the middle of a session one replica is shut down; the session
goes on at the other, which computes its cache anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

import lattica
from lattica import rpc

WIDTH = 64
STAGES = ("toy/layers-0-3", "toy/layers-4-7")


@rpc.service()
class Layers:
    """Some layers of a toy model, with a cache for each session."""

    def __init__(self, node: str, seed: int) -> None:
        self.node = node
        self.weights = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
        self.cache: dict[str, list[np.ndarray]] = defaultdict(list)

    @rpc.method(idempotent=True)
    def forward(self, session: str, step: int, hidden: np.ndarray) -> tuple[np.ndarray, str, int]:
        """The layers' output, who computed it, and how many earlier steps were in its cache."""
        known = self.cache[session]
        del known[step:]  # a step that is sent again
        known.append(hidden)
        return np.tanh(np.mean(known, axis=0) @ self.weights), self.node, len(known) - 1


async def main() -> None:
    """Run the nodes and one session."""
    with tempfile.TemporaryDirectory(prefix="lattica-pipeline-") as home:
        async with contextlib.AsyncExitStack() as stack:

            def config(name: str, *bootstrap: str) -> lattica.NodeConfig:
                return lattica.NodeConfig(home=Path(home) / name, host="127.0.0.1", bootstrap=bootstrap)

            first = await stack.enter_async_context(lattica.open_node(config("bootstrap")))
            bootstrap = str(first.addresses[0])
            running: dict[str, contextlib.AsyncExitStack] = {}
            for seed, stage in enumerate(STAGES):
                for letter in "ab":
                    name = f"{stage.rpartition('/')[2]}-{letter}"
                    running[name] = await stack.enter_async_context(contextlib.AsyncExitStack())
                    node = await running[name].enter_async_context(lattica.open_node(config(name, bootstrap)))
                    node.rpc.serve(Layers(name, seed), name=stage, announce=True)

            client = await stack.enter_async_context(lattica.open_node(config("client", bootstrap)))
            for stage in STAGES:  # a session is served by one replica until one comes or goes: all are to be there
                await client.rpc.replicas.replica_set(stage).wait_healthy(2, timeout=30.0)
            session = "session-7"
            stages = [client.rpc.service(stage, Layers, key=session, timeout=10.0) for stage in STAGES]
            hidden = np.ones(WIDTH, dtype=np.float32)
            for step in range(6):
                served = []
                for layers in stages:
                    hidden, node_name, cached = await layers.forward(session, step, hidden)
                    served.append(f"{node_name} ({cached} steps cached)")
                print(f"step {step}: {' -> '.join(served)}; norm {np.linalg.norm(hidden):.4f}")
                if step == 2:
                    gone = served[0].partition(" ")[0]
                    await running[gone].aclose()
                    print(f"        {gone} is gone")


if __name__ == "__main__":
    asyncio.run(main())
