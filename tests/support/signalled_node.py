"""A node to which a signal comes while one of its methods runs: ``python signalled_node.py SIGTERM``.

It exits with 42 if SIGTERM's handler, which exits so, was let do it, with 130 if SIGINT interrupted, with 1 if the
method's caller was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from mesh_rooms import open_rooms

from lattica import rpc


@rpc.service("signalled")
class Signalled:
    @rpc.method
    async def signalled(self, number: int) -> None:
        for _ in range(2):  # the first SIGINT cancels the main task, the second interrupts
            signal.raise_signal(number)


async def _main(number: int) -> None:
    async with open_rooms() as alice, open_rooms() as bob:
        alice.knows(bob)
        bob.rpc.serve(Signalled())
        calling = asyncio.create_task(alice.rpc.stub(Signalled, bob.peer_id).signalled(number))
        while not calling.done():
            with contextlib.suppress(asyncio.CancelledError):  # by the first SIGINT
                await asyncio.wait([calling])
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
    with asyncio.Runner() as runner:
        try:
            runner.run(_main(signal.Signals[sys.argv[1]]))
        except SystemExit as ended:
            # Without clearing away: gRPC does not always survive that when its loop was broken off.
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except KeyboardInterrupt:
            os._exit(130)
