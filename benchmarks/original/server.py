"""The original Lattica (PyPI `lattica` 1.0.21), serving for `benchmarks.rpc`; run by the Python that has it.

Usage: python -I server.py HOST FOLDER

Prints a line of JSON with what a client needs; ends with its input. Imports nothing of this repository.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from lattica import ConnectionHandler, Lattica, rpc_method, rpc_stream, rpc_stream_iter

MIB = 1 << 20


class Bench(ConnectionHandler):  # type: ignore[misc]
    """What the server does."""

    @rpc_method  # type: ignore[untyped-decorator]
    def echo(self, data: bytes) -> bytes:
        return data

    @rpc_stream  # type: ignore[untyped-decorator]
    def upload(self, data: bytes) -> int:
        return len(data)

    @rpc_stream_iter  # type: ignore[untyped-decorator]
    def download(self, items: int) -> Iterator[bytes]:
        block = bytes(MIB)
        for _ in range(items):
            yield block


def main() -> None:
    """Serve."""
    host, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its core logs to standard output
    with socket.create_server((host, 0)) as probe:
        listen = f"/ip4/{host}/tcp/{probe.getsockname()[1]}"
    node = (
        Lattica.builder()
        .with_mdns(False)
        .with_upnp(False)
        .with_listen_addrs([listen])
        .with_key_path(str(folder / "server-key"))
        .with_storage_path(str(folder / "server-blocks"))
        .with_dht_db_path(str(folder / "server-dht"))
        .build()
    )
    Bench(node)
    print(json.dumps({"pid": os.getpid(), "address": f"{listen}/p2p/{node.peer_id()}"}), file=answers, flush=True)
    for _ in sys.stdin:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
