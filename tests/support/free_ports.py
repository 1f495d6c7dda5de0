"""Ports for those who need to know theirs before they listen."""

from __future__ import annotations

import contextlib
import random
import socket

OWN = range(20_000, 30_000)
"""Below those that the kernel gives to whoever asks for any, so that nobody gets one of these meanwhile."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port at which nobody listens."""
    for port in random.sample(OWN, 100):
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            return port
    raise AssertionError("a hundred ports are in use")
