"""A program around a node, for tests that need more than the `lattica` command: long streams, calls with a deadline of
the test's, and a count of the tasks.

``fault_node.py HOME PORT [BOOTSTRAP]...`` prints who it is as a line of JSON. Each line on its standard input is a
request, ``{"id": 1, "do": "call", ...}``; the answer is a line with the same ``id``. They run side by side.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from yagrc.reflector import GrpcReflectionClient, list_services

import lattica
from lattica import rpc
from lattica.background import Background, background_tasks
from lattica.config import NodeConfig
from lattica.errors import NetworkError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.paths import PathKind
from lattica.mesh.pipes import OpenPipe
from lattica.mesh.relay_client import dial_through

CALL_S = 15.0
"""Seconds for one call of the standard services, finding the peer included."""
METHOD = "/lattica.tests.Ticks/Watch"
"""A server stream: for a request ``"<count> <seconds between>"`` the numbers from 0, as text."""


@rpc.service("who")
class Who:
    """A service that says who serves it."""

    def __init__(self, me: str) -> None:
        self._me = me

    @rpc.method(idempotent=True)
    async def am_i(self) -> str:
        return self._me


class Ticks(grpc.GenericRpcHandler):
    """Serves `METHOD`."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return grpc.unary_stream_rpc_method_handler(_ticks) if details.method == METHOD else None


async def _ticks(request: bytes, _: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
    count, pause = request.split()
    for number in range(int(count)):
        yield str(number).encode()
        await asyncio.sleep(float(pause))


class FaultNode:
    """Carries out requests; each returns what the answer says."""

    def __init__(self, node: lattica.Node) -> None:
        self._node = node

    async def do(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        match request["do"]:
            case "call":
                return await self._call(PeerId.parse(request["peer"]), request["deadline"])
            case "stream":
                return await self._stream(PeerId.parse(request["peer"]), request["count"], request["pause"])
            case "offer":
                self._node.rpc.serve(Who(str(self._node.peer_id)), announce=True)
                return {"offered": True}
            case "by_name":
                return await self._by_name(request["calls"])
            case "standard":
                return await self._standard(PeerId.parse(request["peer"]))
            case "hang_up":
                await self._node.rpc.channel(PeerId.parse(request["peer"])).close()
                return {"closed": True}
            case "pipes":
                return await self._pipes(PeerId.parse(request["peer"]), request["count"])
            case "forge":
                return await self._forge(PeerAddress.parse(request["relay"]), bytes.fromhex(request["token"]))
            case "tasks":
                return {"tasks": len(asyncio.all_tasks())}
        raise ValueError(request["do"])

    async def _call(self, peer: PeerId, deadline: float) -> Mapping[str, Any]:
        """One tick, within a deadline."""
        return await self._watch(peer, b"1 0", deadline)

    async def _by_name(self, calls: int) -> Mapping[str, Any]:
        """Call whoever offers `Who`, one call after the other; how many each has answered, and by which path."""
        who = self._node.rpc.service("who", Who, timeout=CALL_S)
        answered = Counter([await who.am_i() for _ in range(calls)])
        paths = {peer: self._node.mesh.path_to(PeerId.parse(peer)) for peer in answered}
        return {"answered": answered, "paths": {peer: path.kind.value if path else "" for peer, path in paths.items()}}

    async def _standard(self, peer: PeerId) -> Mapping[str, Any]:
        """Ask a peer by the standard health service, and call it by a client that knows only reflection."""
        health = health_pb2_grpc.HealthStub(self._node.rpc.channel(peer))
        checked = await health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        watching = health.Watch(health_pb2.HealthCheckRequest(service="lattica.v1.Peer"), timeout=CALL_S)
        watched = await watching.read()
        watching.cancel()
        async with self._node.rpc.local_target(peer) as target:
            services, echoed = await asyncio.to_thread(_by_reflection, target)
        path = self._node.mesh.path_to(peer)
        return {
            "checked": checked.status,
            "watched": watched.status,
            "services": services,
            "echoed": echoed,
            "path": path.kind.value if path else "",
        }

    async def _pipes(self, peer: PeerId, count: int) -> Mapping[str, Any]:
        """Hold up to so many relayed pipes at one time, until none can be opened any more."""
        pipes: list[OpenPipe] = []
        error = ""
        try:
            while len(pipes) < count and not error:
                try:
                    pipe = await self._node.mesh.open_pipe(peer, timeout=30.0)
                except NetworkError as failure:
                    error = str(failure)
                else:
                    if pipe.path.kind is PathKind.RELAYED:
                        pipes.append(pipe)
                    else:  # on a busy machine another way may be faster
                        pipe.sock.close()
        finally:
            for pipe in pipes:
                pipe.sock.close()
        return {"pipes": len(pipes), "error": error}

    async def _forge(self, relay: PeerAddress, token: bytes) -> Mapping[str, Any]:
        """Dial through a relay with a token that no lease's holder has minted; the relay's answer."""
        try:
            with await dial_through(relay, token):
                return {"error": ""}
        except NetworkError as error:
            return {"error": str(error)}

    async def _stream(self, peer: PeerId, count: int, pause: float) -> Mapping[str, Any]:
        return await self._watch(peer, f"{count} {pause}".encode(), count * pause + 60)

    async def _watch(self, peer: PeerId, request: bytes, deadline: float) -> Mapping[str, Any]:
        started, received, error = time.monotonic(), 0, ""
        method = self._node.rpc.channel(peer).unary_stream(METHOD)
        try:
            async for tick in method(request, timeout=deadline):
                assert int(tick) == received
                received += 1
        except grpc.aio.AioRpcError as failure:
            error = f"{failure.code().name}: {failure.details()}"
        return {"received": received, "error": error, "seconds": time.monotonic() - started}


def _by_reflection(target: str) -> tuple[list[str], str]:
    """What yagrc, which is synchronous and has no code of ours, finds at a target, and the answer to a call of it."""
    with grpc.insecure_channel(target) as channel:
        client = GrpcReflectionClient()
        client.load_protocols(channel)
        stub = client.service_stub_class("lattica.v1.Peer")(channel)
        request = client.message_class("lattica.v1.EchoRequest")(payload=b"no code")
        return list_services(channel), stub.Echo(request, timeout=CALL_S).payload.decode()


def encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _answer(message: Mapping[str, object]) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


async def _serve(node: lattica.Node, tasks: Background) -> None:
    program = FaultNode(node)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )

    async def do(request: Mapping[str, Any]) -> None:
        _answer({"id": request["id"], **await program.do(request)})

    try:
        while line := await reader.readline():
            tasks.start(do(json.loads(line)), name="request")
    finally:
        transport.close()


async def main(home: Path, port: int, *bootstrap: str) -> None:
    """Run until SIGTERM, or until the standard input ends."""
    config = NodeConfig.load(home=home, port=port, bootstrap=bootstrap, reflection=True)
    async with lattica.open_node(config) as node, background_tasks() as tasks:
        node.rpc.add_servicer(lambda ticks, server: server.add_generic_rpc_handlers((ticks,)), Ticks())
        _answer({"peer_id": str(node.peer_id), "addresses": [str(address) for address in node.addresses]})
        serving = tasks.start(_serve(node, tasks))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        await asyncio.wait([serving])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
