"""A program for the NAT matrix that is not lattica: a node that echoes over TCP, and a probe that calls it.

It knows no relay, so that only public nodes can be called: ``tiny_mesh.py node PORT`` and ``tiny_mesh.py probe PEER``.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import sys
import time

SIOCGIFADDR = 0x8915


def own_address() -> str:
    """The IPv4 address of eth0."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        answer = fcntl.ioctl(handle, SIOCGIFADDR, struct.pack("256s", b"eth0"))
    return socket.inet_ntoa(answer[20:24])


def node(port: int) -> None:
    """Echo to whoever connects, one after the other."""
    with socket.create_server(("", port)) as listener:
        me = f"{own_address()}:{port}"
        print("a line that is not JSON")
        print(json.dumps({"peer_id": me, "addresses": [f"127.0.0.1:{port}", me]}), flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(100))


def probe(peer: str) -> None:
    """Call three times; a failure ends in one sentence."""
    started = time.monotonic()
    address, _, port = peer.partition(":")
    for _ in range(3):
        try:
            with socket.create_connection((address, int(port)), timeout=8) as connection:
                connection.sendall(b"hello")
                assert connection.recv(100) == b"hello"
        except OSError as error:
            sys.exit(f"tiny: {peer} does not answer: {error}")
        print(json.dumps({"path": "direct", "elapsed_s": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "node":
        node(int(sys.argv[2]))
    else:
        probe(sys.argv[2])
