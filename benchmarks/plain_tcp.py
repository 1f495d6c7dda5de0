"""One plain TCP connection, in two programs: the yardstick of what is moved between machines of a lab.

Usage: python -m benchmarks.plain_tcp serve HOST PORT FILE
       python -m benchmarks.plain_tcp fetch HOST PORT

`serve` sends the file to everyone who connects, with `sendfile`. `fetch` reads it all, again and again into
one buffer, and prints a line of JSON with bytes, and seconds from before it connected to the last byte.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

BLOCK = 1 << 20
TIMEOUT_S = 120.0


def serve(host: str, port: int, file: Path) -> None:
    """Send the file again and again."""
    with socket.create_server((host, port)) as server:
        print(json.dumps({"port": port}), flush=True)
        while True:
            with server.accept()[0] as sock, file.open("rb") as source:
                sock.settimeout(TIMEOUT_S)
                sock.sendfile(source)


def fetch(host: str, port: int) -> tuple[int, float]:
    """Bytes received, and seconds."""
    buffer, total = memoryview(bytearray(BLOCK)), 0
    started = time.perf_counter()
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as sock:
        while count := sock.recv_into(buffer):
            total += count
    return total, time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        received, seconds = fetch(sys.argv[2], int(sys.argv[3]))
        print(json.dumps({"bytes": received, "seconds": seconds}))
