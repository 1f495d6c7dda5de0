"""How fast bytes pass a Lattica relay, against one plain TCP connection between the same processes, in one run.

Usage: python -m benchmarks.relay_splice [MEGABYTES] [RUNS]

Three processes on loopback: the relay, the target, and this one as the client. Per run and interleaved: the client
sends so many bytes to the target and waits for the word that they have all arrived, over a relay without rate limits,
over one with the default limits, and over a TCP connection of its own. Sockets block in threads: no event loop is
measured. Then the time to open a pipe: the target is called and comes, and the two sockets are joined.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import uvloop

from benchmarks.report import Row, report
from lattica.background import background_tasks
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh.assembly import LIBP2P_FIRST_BYTE
from lattica.mesh.listener import open_listener
from lattica.mesh.live_pipes import PipeTable
from lattica.mesh.relay_acceptor import Acceptor
from lattica.mesh.relay_client import RelayLease, dial_through, request_lease
from lattica.mesh.relay_limits import SpliceLimits
from lattica.mesh.relay_server import RelayServer
from lattica.mesh.relay_wire import RELAY_MAGIC
from lattica.swarm import Swarm, open_swarm

MB = 1_000_000
BLOCK = 1 << 20
TOKEN_S = 3000.0
PIPES_OPENED = 20


async def serve_relay(limited: bool) -> None:
    """Be the relay; prints where it listens."""
    key, table = IdentityKey.generate(), PipeTable(asyncio.get_running_loop())
    limits = SpliceLimits() if limited else SpliceLimits(target_bytes_s=None, bytes_s=None)
    async with open_swarm(key) as swarm, background_tasks() as tasks:
        server = RelayServer(key, swarm, table, tasks, limits=limits)

        async def adopt(sock: socket.socket, remote: PeerAddress) -> None:
            await swarm.adopt(socket.socket(fileno=sock.detach()), remote)

        routes = {LIBP2P_FIRST_BYTE: adopt, RELAY_MAGIC[0]: server.accept}
        async with open_listener("127.0.0.1", 0, routes) as listener:
            server.serve()
            listener.start()
            print(json.dumps({"address": str(PeerAddress.tcp("127.0.0.1", listener.port, key.peer_id))}), flush=True)
            await asyncio.Event().wait()


def sink(sock: socket.socket) -> None:
    """Receive to the end, then say so."""
    buffer = bytearray(BLOCK)
    with sock:
        sock.setblocking(True)
        with contextlib.suppress(ConnectionError):  # of a client that has seen enough
            while sock.recv_into(buffer):
                pass
            sock.sendall(b"!")


def serve_tcp(server: socket.socket) -> None:
    """Receive over plain TCP, one connection after the other."""
    while True:
        sink(server.accept()[0])


async def serve_target(*relays: str) -> None:
    """Be the target at each relay; prints the tokens, and where plain TCP is served."""

    async def take(sock: socket.socket, _: PeerAddress, __: PeerId) -> None:
        threading.Thread(target=sink, args=(sock,), daemon=True).start()

    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_tcp, args=(server,), daemon=True).start()
    async with open_swarm(IdentityKey.generate()) as swarm, background_tasks() as tasks:
        leases: dict[PeerId, RelayLease] = {}
        Acceptor(swarm, leases.get, take, tasks).serve()
        tokens = [await token_at(swarm, PeerAddress.parse(relay), leases) for relay in relays]
        print(json.dumps({"port": server.getsockname()[1], "tokens": tokens}), flush=True)
        await asyncio.Event().wait()


async def token_at(swarm: Swarm, relay: PeerAddress, leases: dict[PeerId, RelayLease]) -> str:
    """A token for whoever this benchmark's client is."""
    assert relay.peer_id is not None
    await swarm.connect(relay.peer_id, [relay])
    leases[relay.peer_id] = lease = await request_lease(swarm, relay.peer_id)
    return lease.mint(swarm.key.peer_id, time.monotonic(), valid_s=TOKEN_S).hex()


def send(sock: socket.socket, size: int) -> float:
    """Seconds until all bytes have arrived."""
    block = bytes(BLOCK)
    with sock:
        sock.setblocking(True)
        started = time.perf_counter()
        for start in range(0, size, BLOCK):
            sock.sendall(block[: size - start])
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"!"
        return time.perf_counter() - started


async def connect(port: int) -> socket.socket:
    """A plain TCP connection, as the pipes have them."""
    return await asyncio.to_thread(partial(socket.create_connection, ("127.0.0.1", port)))


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[dict[str, str]]:
    """A process that prints a line of JSON and serves; killed at the end."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.relay_splice", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield json.loads(await child.stdout.readline())
    finally:
        child.kill()
        await child.wait()


async def main(megabytes: int, runs: int) -> None:
    """Measure and report."""
    size = megabytes * MB
    free_rates: list[float] = []
    tcp_rates: list[float] = []
    limited_rates: list[float] = []
    opening: list[float] = []
    async with process("--relay") as free, process("--relay", "limited") as limited:
        relays = [PeerAddress.parse(one["address"]) for one in (free, limited)]
        async with process("--target", *map(str, relays)) as target:
            tokens = [bytes.fromhex(token) for token in target["tokens"]]
            for run in range(runs + 1):
                for rates, sock in (
                    (free_rates, await dial_through(relays[0], tokens[0])),
                    (tcp_rates, await connect(int(target["port"]))),
                    (limited_rates, await dial_through(relays[1], tokens[1])),
                ):
                    seconds = await asyncio.to_thread(send, sock, size)
                    if run:  # the first warms up
                        rates.append(megabytes / seconds)
            for _ in range(PIPES_OPENED):
                started = time.perf_counter()
                (await dial_through(relays[0], tokens[0])).close()
                opening.append(1000 * (time.perf_counter() - started))
    case, limit = f"send {megabytes} MB", (SpliceLimits().target_bytes_s or 0) // MB
    rows = [
        Row.of(f"{case} through a relay", "lattica", "MB/s", free_rates),
        Row.of(f"{case} through a relay", "tcp", "MB/s", tcp_rates),
        Row.of(f"{case}, limited to {limit} MB/s", "lattica", "MB/s", limited_rates),
        Row.of("open a pipe through a relay", "lattica", "ms", opening),
    ]
    report("relay_splice", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--relay"]:
        uvloop.run(serve_relay(limited=sys.argv[2:] == ["limited"]))
    elif sys.argv[1:2] == ["--target"]:
        uvloop.run(serve_target(*sys.argv[2:]))
    else:
        uvloop.run(main(*(int(value) for value in (sys.argv[1:] + ["1000", "7"][len(sys.argv[1:]) :]))))
