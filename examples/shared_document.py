"""Two nodes write one document at the same time, apart and together, and end with the same.

Usage: python examples/shared_document.py                 both nodes in this process, on 127.0.0.1
       python examples/shared_document.py create          in one shell: makes a document, says how to join, and watches
       python examples/shared_document.py join ADDRESS NAMESPACE     in another: opens it, writes, and watches

What they share is what a training run might: settings, a list of results, a counter of steps that everybody adds to,
and notes. Each transaction becomes one signed entry; whoever has seen the same entries has the same document.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

import lattica
from lattica.store import Document, Policy


async def write(document: Document, name: str, rounds: int) -> None:
    """Some rounds of a worker's work, one entry each."""
    for number in range(rounds):
        async with document.transaction():
            document.counter("steps").add(10)
            document.list("results").append({"worker": name, "round": number, "loss": 1 / (number + 1)})
            document.map("settings")[f"{name}/rate"] = 0.1 / (number + 1)
            document.text("notes").append(f"{name} has done round {number}.\n")


async def wait_same(one: Document, other: Document) -> None:
    """Wait until two replicas hold the same."""
    async with asyncio.timeout(30):
        while one.frontier().digest() != other.frontier().digest():
            await asyncio.sleep(0.01)


async def in_one_process(home: Path) -> None:
    """The whole story, with a node for each of two workers."""
    async with lattica.open_node(lattica.NodeConfig(home=home / "ann", host="127.0.0.1")) as ann:
        bootstrap = str(ann.addresses[0])
        config = lattica.NodeConfig(home=home / "ben", host="127.0.0.1", bootstrap=(bootstrap,))
        async with lattica.open_node(config) as ben:
            ours = await ann.store.create("a training run")
            await ours.grant(ben.peer_id)
            theirs = await ben.store.open(ours.namespace)
            await wait_same(ours, theirs)  # so ben has the grant

            await asyncio.gather(write(ours, "ann", 3), write(theirs, "ben", 3))
            await wait_same(ours, theirs)

            for name, document in (("ann", ours), ("ben", theirs)):
                workers = [result["worker"] for result in document.list("results") if isinstance(result, dict)]
                print(f"{name}: {document.counter('steps').value} steps, results of {' '.join(map(str, workers))}")
            print("the same notes:", str(ours.text("notes")) == str(theirs.text("notes")))

            await ours.revoke(ben.peer_id)
            await wait_same(ours, theirs)
            try:
                await write(theirs, "ben", 1)
            except lattica.LatticaError as error:
                print("ben is told:", error)


async def in_two_shells(arguments: list[str]) -> None:
    """One of two nodes that run until they are interrupted."""
    name = arguments[0]
    with tempfile.TemporaryDirectory(prefix="lattica-document-") as home:
        config = lattica.NodeConfig(home=Path(home), bootstrap=tuple(arguments[1:2]))
        async with lattica.open_node(config) as node:
            if name == "create":
                document = await node.store.create("a training run", policy=Policy.OPEN)
                print(f"python examples/shared_document.py join {node.addresses[0]} {document.namespace}")
            else:
                document = await node.store.open(arguments[2])
            await write(document, f"{name}-{str(node.peer_id)[-6:]}", 3)
            async for change in document.changes():
                print(change.author, "->", document.counter("steps").value, "steps")


def main() -> int:
    """Run it; the exit status."""
    arguments = sys.argv[1:]
    if not arguments:
        with tempfile.TemporaryDirectory(prefix="lattica-document-") as home:
            asyncio.run(in_one_process(Path(home)))
    elif arguments == ["create"] or (arguments[0] == "join" and len(arguments) == 3):
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(in_two_shells(arguments))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
