"""A node whose service appends lines to a file, in a process of its own that can be killed.

``python append_log.py <seed, hexadecimal> <port> <file>`` prints its multiaddr and serves until its input ends. It also
offers its service by the name ``log``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from mesh_rooms import open_rooms
from rooms_process import RoomsProcess, running

from lattica import rpc
from lattica.identity import IdentityKey, PeerId
from lattica.rpc import open_replicas


@rpc.service("log")
class Log:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    @rpc.method
    async def append(self, line: int, padding: bytes = b"") -> int:
        os.write(self._file, f"{line}\n".encode())
        return line

    @rpc.method(idempotent=True)
    async def read(self, line: int, padding: bytes = b"") -> int:
        return line


class NoRouting:
    """A `ServiceRouting` without a DHT."""

    async def find(self, _: bytes) -> AsyncIterator[PeerId]:
        return
        yield

    async def announce(self, _: bytes) -> None:
        """Nobody hears it."""

    def withdraw(self, _: bytes) -> None:
        """Nobody has heard it."""


@contextlib.asynccontextmanager
async def log_process(key: IdentityKey, path: Path, port: int = 0) -> AsyncIterator[RoomsProcess]:
    """Such a node on 127.0.0.1; it is killed at the end."""
    async with running(str(Path(__file__)), key.seed.hex(), str(port), str(path)) as rooms:
        yield rooms


async def _serve(key: IdentityKey, port: int, path: Path) -> None:
    async with open_rooms(key=key, port=port) as rooms, open_replicas(key, rooms.rpc, NoRouting()) as replicas:
        rooms.rpc.use_replicas(replicas)
        rooms.rpc.serve(Log(path), announce=True)
        print(rooms.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve(IdentityKey.from_seed(bytes.fromhex(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])))
