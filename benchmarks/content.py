"""How fast a model is fetched over loopback, against `cp` plus hashing and against plain gRPC, in one run.

Usage: python -m benchmarks.content FILE [RUNS]

One provider process serves the file. In this process, per run and interleaved: a fetch by a fresh node whose link to
the provider is up (verified, on disk, exported, synced); a copy plus BLAKE3 plus fsync of the same file; the same bytes
through a `grpc.aio` stream with mutual TLS from a process of its own, into nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import blake3
import grpc
import uvloop

import lattica
from benchmarks.report import Row, report
from lattica.identity import IdentityKey, LinkKey, NodeAuthority, TlsIdentity

MESSAGE = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def fetch_once(cid: str, bootstrap: str, scratch: Path) -> float:
    """Seconds from the call of fetch to its return, the link being up."""
    config = lattica.NodeConfig(home=scratch / "home", host="127.0.0.1", bootstrap=(bootstrap,))
    async with lattica.open_node(config) as node:
        provider = node.resolve(bootstrap)
        await node.ping(provider)
        started = time.perf_counter()
        await node.content.fetch(cid, scratch / "copy")
        return time.perf_counter() - started


def copy_and_hash(source: Path, scratch: Path) -> float:
    """Seconds to copy a file, sync it and hash the copy."""
    started = time.perf_counter()
    shutil.copyfile(source, scratch / "copy")
    with (scratch / "copy").open("r+b") as file:
        os.fsync(file.fileno())
    blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(scratch / "copy").digest()
    return time.perf_counter() - started


async def stream_once(channel: grpc.aio.Channel) -> float:
    """Seconds to receive the file over plain gRPC."""
    started = time.perf_counter()
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/bench/file")
    async for _ in method(b""):
        pass
    return time.perf_counter() - started


async def serve_plain(source: Path) -> None:
    """Serve the file over plain gRPC with mutual TLS; prints what a client needs."""
    authority, client = NodeAuthority(IdentityKey.generate()), LinkKey()
    blocks = source.read_bytes()

    async def file(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        for start in range(0, len(blocks), MESSAGE):
            yield blocks[start : start + MESSAGE]

    handler = grpc.method_handlers_generic_handler("bench", {"file": grpc.unary_stream_rpc_method_handler(file)})
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handler,))
    tls = authority.server
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(tls.private_key, tls.certificate)], tls.authority, require_client_auth=True),
    )
    await server.start()
    certificate = authority.issue_link_certificate(client.public_der, authority.peer_id)
    mine = client.tls_identity(authority.peer_id, certificate, authority.certificate_der)
    fields = {name: getattr(mine, name).decode() for name in ("private_key", "certificate", "authority")}
    print(json.dumps({"port": port, "name": authority.peer_id.dns_label, **fields}), flush=True)
    await server.wait_for_termination()


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[dict[str, str]]:
    """A process that prints a line of JSON and serves; killed at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert child.stdout is not None
        yield json.loads(await child.stdout.readline())
    finally:
        child.kill()
        await child.wait()


def plain_channel(up: dict[str, str]) -> grpc.aio.Channel:
    """A channel to `serve_plain`."""
    tls = TlsIdentity(
        private_key=up["private_key"].encode(),
        certificate=up["certificate"].encode(),
        authority=up["authority"].encode(),
    )
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.private_key, tls.certificate)
    options = [*OPTIONS, ("grpc.ssl_target_name_override", up["name"])]
    return grpc.aio.secure_channel(f"127.0.0.1:{up['port']}", credentials, options=options)


async def main(source: Path, runs: int) -> None:
    """Measure and report."""
    size = source.stat().st_size / 1e6
    times: dict[str, list[float]] = {"lattica": [], "cp + hash + fsync": [], "grpc, to memory": []}
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder:
        publish = ["-m", "lattica", "--json", "--home", f"{folder}/provider", "publish", str(source)]
        plain_server = ["-m", "benchmarks.content", "--serve-plain", str(source)]
        async with process(*plain_server) as plain, plain_channel(plain) as channel:
            for run in range(runs):
                scratch = Path(folder) / f"run-{run}"
                scratch.mkdir()
                # A new process each time: the one before remembers the last run's fetcher as a provider.
                async with process(*publish, "--host", "127.0.0.1", "--port", "0") as up:
                    times["lattica"].append(await fetch_once(up["cid"], up["addresses"][0], scratch))
                shutil.rmtree(scratch)
                scratch.mkdir()
                times["cp + hash + fsync"].append(copy_and_hash(source, scratch))
                times["grpc, to memory"].append(await stream_once(channel))
    case = f"fetch {size:.1f} MB from one provider"
    seconds = [Row.of(f"{case}, seconds", system, "s", values) for system, values in times.items()]
    rates = [Row.of(case, system, "MB/s", [size / value for value in values]) for system, values in times.items()]
    report("content", [*rates, *seconds])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve-plain"]:
        uvloop.run(serve_plain(Path(sys.argv[2])))
    else:
        uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 7))
