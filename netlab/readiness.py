"""Waiting until packets pass a new link."""

import socket
import time
from ipaddress import IPv4Address, IPv6Address

from netlab.errors import LabError

DISCARD_PORT = 9  # nobody listens
READY_TIMEOUT = 20.0  # seconds; a busy machine takes some for what the kernel leaves to its workers
RETRY = 0.005  # seconds


def wait_until_reachable(address: IPv4Address | IPv6Address) -> None:
    """Return when a neighbour answers; run it in the namespace that is to reach it.

    A device that is up may still drop everything: the kernel notices that the other half of a veth pair, or a port of
    a bridge, has come up in a worker of its own, later.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    deadline = time.monotonic() + READY_TIMEOUT
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), DISCARD_PORT))
        probe.settimeout(RETRY)
        while time.monotonic() < deadline:
            try:
                probe.send(b"")
                probe.recv(1)
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                return
    raise LabError(f"{address} did not answer within {READY_TIMEOUT} s over a new link")
