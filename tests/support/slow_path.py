"""A path with a long round trip, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from lattica.background import Background, background_tasks
from lattica.identity import PeerAddress
from lattica.mesh.accepting import accept


async def _carry(source: socket.socket, target: socket.socket, delay: float) -> None:
    """What is taken now is given ``delay`` seconds later, whatever comes in between."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def give() -> None:
        data = b"-"
        while data:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            with contextlib.suppress(OSError):  # it is gone: the other direction ends by itself
                await loop.sock_sendall(target, data)
                if not data:
                    target.shutdown(socket.SHUT_WR)

    async with background_tasks() as tasks:
        giving = tasks.start(give())
        data = b"-"
        while data:
            try:
                data = await loop.sock_recv(source, 65536)
            except ConnectionResetError:
                data = b""
            waiting.put_nowait((loop.time() + delay, data))
        await giving


async def _join(near: socket.socket, target: PeerAddress, delay: float) -> None:
    with near, socket.socket() as far:
        far.setblocking(False)
        await asyncio.get_running_loop().sock_connect(far, (target.host, target.port))
        async with asyncio.TaskGroup() as both:
            both.create_task(_carry(near, far, delay))
            both.create_task(_carry(far, near, delay))


async def _accept(server: socket.socket, target: PeerAddress, delay: float, tasks: Background) -> None:
    while True:
        near, _ = await accept(server)
        tasks.start(_join(near, target, delay))


@contextlib.asynccontextmanager
async def slow_path(target: PeerAddress, delay: float) -> AsyncIterator[PeerAddress]:
    """An address that leads to ``target``, with ``delay`` seconds for each byte each way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        async with background_tasks() as tasks:
            tasks.start(_accept(server, target, delay, tasks))
            yield PeerAddress.tcp(*server.getsockname())
