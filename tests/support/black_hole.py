"""An address that takes no connection and refuses none: its queue is full."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

from lattica.identity import PeerAddress

DEADLINE_S = 30.0
UNANSWERED = 2
"""Dials in a row after which its queue is full, and not just slow."""


@contextlib.contextmanager
def black_hole(port: int = 0) -> Iterator[PeerAddress]:
    """Its address: a dial gets no answer, as from a machine that is gone or a firewall that drops."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(0)
        deadline, unanswered = time.monotonic() + DEADLINE_S, 0
        while unanswered < UNANSWERED:
            assert time.monotonic() < deadline, "all dials are answered"
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.1)
            try:
                sock.connect(server.getsockname())
                unanswered = 0
            except TimeoutError:
                unanswered += 1
        yield PeerAddress.tcp(*server.getsockname())


@contextlib.contextmanager
def refusing_address() -> Iterator[PeerAddress]:
    """An address at which nobody listens, nor can begin to meanwhile: a dial is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield PeerAddress.tcp(*sock.getsockname())
