"""A node's rooms with `call_services.Services`, in a process of their own that can be killed.

``python rooms_process.py <seed, hexadecimal> <port>`` prints its multiaddr and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from call_services import Services
from mesh_rooms import open_rooms

from lattica.identity import IdentityKey, PeerAddress

START_TIMEOUT_S = 30.0


class RoomsProcess:
    """The running process."""

    def __init__(self, process: asyncio.subprocess.Process, address: PeerAddress) -> None:
        self._process = process
        self.address = address

    async def kill(self) -> None:
        """kill -9: no goodbye, but the kernel closes its sockets."""
        await _killed(self._process)


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


@contextlib.asynccontextmanager
async def running(*argv: str) -> AsyncIterator[RoomsProcess]:
    """A program that prints its multiaddr; it is killed at the end, and what it has left in its folder removed."""
    with tempfile.TemporaryDirectory(prefix="lat") as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
            yield RoomsProcess(process, PeerAddress.parse(line.decode().strip()))
        finally:
            await _killed(process)


@contextlib.asynccontextmanager
async def rooms_process(key: IdentityKey, port: int = 0) -> AsyncIterator[RoomsProcess]:
    """A node of another process on 127.0.0.1; it is killed at the end."""
    async with running(str(Path(__file__)), key.seed.hex(), str(port)) as rooms:
        yield rooms


async def _serve(key: IdentityKey, port: int) -> None:
    async with open_rooms(key=key, port=port) as rooms:
        services = Services(rooms.rpc)
        services.streams.pause = 0.001
        print(rooms.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve(IdentityKey.from_seed(bytes.fromhex(sys.argv[1])), int(sys.argv[2])))
