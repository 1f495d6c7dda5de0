"""Accept connections so that a cancelled wait loses none.

`loop.sock_accept` has one in hand for a moment in which its caller may be cancelled; nobody closes that then.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any


async def accept(sock: socket.socket) -> tuple[socket.socket, Any]:
    """The next connection to a listening, non-blocking socket, non-blocking itself, and where it comes from.

    Raises:
        OSError: From the system, as `socket.accept`.
    """
    while True:
        await wait_readable(sock)
        try:
            connection, name = sock.accept()
        except BlockingIOError:  # it has gone away again
            continue
        connection.setblocking(False)
        return connection, name


async def wait_readable(sock: socket.socket) -> None:
    """Return when ``sock`` has something to read, or a connection to accept."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await readable
    finally:
        loop.remove_reader(sock)
