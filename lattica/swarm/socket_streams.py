"""A stream as a kernel socket: what gRPC's gateway can splice, carried over a control connection as the last resort."""

from __future__ import annotations

import logging
import select
import socket

import trio

from lattica.errors import StreamError
from lattica.swarm.mux import MAX_FRAME, MuxStream

logger = logging.getLogger(__name__)

LINGER_S = 30.0
"""Seconds that the peer has to end its side after our socket was closed altogether; TCP's FIN_WAIT_2 is similar."""
HANG_UP_CHECK_S = 1.0
"""Seconds between looks at whether a socket that sends no more was closed; no event tells the two apart."""
_READ_SIZE = MAX_FRAME


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that do not block."""
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


async def join(stream: MuxStream, sock: socket.socket) -> None:
    """Carry bytes between ``stream`` and ``sock`` until both directions have ended; both are given back, always.

    A side whose reader stalls makes the other side's writer wait, for as long as it likes. The end of one direction is
    passed on. When the stream is lost, the socket is closed; when the socket is, the stream is reset.
    """
    stream.carry_bulk()
    ours = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    ends = 0
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope

            async def outward() -> None:
                nonlocal ends
                try:
                    while data := await ours.receive_some(_READ_SIZE):
                        await stream.write(data)
                    await stream.close()
                except (StreamError, trio.BrokenResourceError, trio.ClosedResourceError):
                    scope.cancel()
                    return
                ends += 1
                while ends < 2 and not _hung_up(sock):
                    await trio.sleep(HANG_UP_CHECK_S)
                scope.deadline = min(scope.deadline, trio.current_time() + LINGER_S)

            async def inward() -> None:
                nonlocal ends
                try:
                    while data := await stream.read_some(_READ_SIZE):
                        await ours.send_all(data)
                    await ours.send_eof()
                except (StreamError, trio.BrokenResourceError, trio.ClosedResourceError):
                    scope.cancel()
                    return
                ends += 1

            nursery.start_soon(outward)
            nursery.start_soon(inward)
    finally:
        ours.socket.close()
        if ends == 2:
            await stream.finish()
        else:
            await stream.reset()


async def run_join(stream: MuxStream, sock: socket.socket) -> None:
    """As `join`, in a nursery that nobody's mistake may end."""
    try:
        await join(stream, sock)
    except Exception:  # ours, and no reason to lose anything else
        logger.exception("joining a stream and a socket failed peer=%s", stream.peer)


def _hung_up(sock: socket.socket) -> bool:
    """Whether the other end of a socket pair is closed, not only for sending."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))
