"""Plain `grpc.aio` for `benchmarks.rpc`: bytes in and out, mutual TLS, TCP, uvloop.

Usage: python -m benchmarks.rpc_grpc serve HOST
       python -m benchmarks.rpc_grpc call HOST SERVER'S_LINE_OF_JSON
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator

import grpc
import uvloop

from benchmarks.rpc_cases import MIB
from benchmarks.rpc_load import CALL_LIMIT_S, measures, say, wait_for_end_of_input, work
from lattica.config import DEFAULT_GC_THRESHOLD
from lattica.identity import IdentityKey, LinkKey, NodeAuthority, TlsIdentity
from lattica.node.allocator import keep_freed_memory

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "bench"


class Handlers:
    """What the server does."""

    async def echo(self, request: bytes, _context: object) -> bytes:
        return request

    async def nap(self, request: bytes, _context: object) -> bytes:
        await asyncio.sleep(float(request))
        return b""

    async def upload(self, requests: AsyncIterator[bytes], _context: object) -> bytes:
        size = 0
        async for item in requests:
            size += len(item)
        return b"%d" % size

    async def download(self, request: bytes, _context: object) -> AsyncIterator[bytes]:
        block = bytes(MIB)
        for _ in range(int(request)):
            yield block


class GrpcClient:
    """The calls; see `benchmarks.rpc_load.Client`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/echo")
        self._nap: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/nap")
        self._upload: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{SERVICE}/upload")
        self._download: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/download")

    async def echo(self, data: bytes) -> bytes:
        return await self._echo(data, timeout=CALL_LIMIT_S)

    async def nap(self, seconds: float) -> None:
        await self._nap(b"%f" % seconds, timeout=CALL_LIMIT_S)

    async def upload(self, items: AsyncIterator[bytes]) -> int:
        return int(await self._upload(items))

    async def download(self, items: int) -> AsyncIterator[bytes]:
        async for item in self._download(b"%d" % items):
            yield item


async def serve(host: str) -> None:
    """Serve; prints what a client needs."""
    authority, client = NodeAuthority(IdentityKey.generate()), LinkKey()
    handlers = Handlers()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "echo": grpc.unary_unary_rpc_method_handler(handlers.echo),
        "nap": grpc.unary_unary_rpc_method_handler(handlers.nap),
        "upload": grpc.stream_unary_rpc_method_handler(handlers.upload),
        "download": grpc.unary_stream_rpc_method_handler(handlers.download),
    }
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    tls = authority.server
    port = server.add_secure_port(
        f"{host}:0",
        grpc.ssl_server_credentials([(tls.private_key, tls.certificate)], tls.authority, require_client_auth=True),
    )
    await server.start()
    certificate = authority.issue_link_certificate(client.public_der, authority.peer_id)
    mine = client.tls_identity(authority.peer_id, certificate, authority.certificate_der)
    pems = {name: getattr(mine, name).decode() for name in ("private_key", "certificate", "authority")}
    say({"pid": os.getpid(), "address": f"{host}:{port}", "name": authority.peer_id.dns_label, "tls": pems})
    await wait_for_end_of_input()
    await server.stop(None)


async def call(up: dict[str, str], pems: dict[str, str]) -> None:
    """Connect, then do what is asked."""
    tls = TlsIdentity(**{name: pem.encode() for name, pem in pems.items()})
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.private_key, tls.certificate)
    options = [*OPTIONS, ("grpc.ssl_target_name_override", up["name"])]
    async with grpc.aio.secure_channel(up["address"], credentials, options=options) as channel:
        client = GrpcClient(channel)
        await client.echo(b"")
        await work(measures(client))


if __name__ == "__main__":
    gc.set_threshold(DEFAULT_GC_THRESHOLD)  # both as Lattica's nodes have it
    keep_freed_memory()
    if sys.argv[1] == "serve":
        uvloop.run(serve(sys.argv[2]))
    else:
        answer = json.loads(sys.argv[3])
        uvloop.run(call(answer, answer["tls"]))
