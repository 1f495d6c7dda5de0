"""A Lattica relay on 127.0.0.1 with its one port, targets that hold a lease there, and sockets through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from descriptors import descriptors, wait_closed_since

from lattica.background import background_tasks
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh.listener import open_listener
from lattica.mesh.live_pipes import PipeTable
from lattica.mesh.relay_acceptor import Acceptor
from lattica.mesh.relay_client import RelayLease, dial_through, request_lease
from lattica.mesh.relay_limits import SpliceLimits
from lattica.mesh.relay_metrics import RelayMetrics
from lattica.mesh.relay_server import RelayServer
from lattica.mesh.relay_wire import RELAY_MAGIC, RelayRefusedError, RelayStatus
from lattica.swarm import Swarm, open_swarm

LIBP2P_FIRST_BYTE = 0x13
CLIENT = IdentityKey.from_seed(b"client".ljust(32)).peer_id
OTHER = IdentityKey.from_seed(b"other client".ljust(32)).peer_id


@dataclass
class Relay:
    """A running relay."""

    swarm: Swarm
    server: RelayServer
    address: PeerAddress

    @property
    def peer_id(self) -> PeerId:
        return self.swarm.key.peer_id


@dataclass
class Target:
    """A peer that is reached through a relay.

    Attributes:
        pipes: What the acceptor has handed over; closed at the end.
        origins: For each, the address and relay that it was handed over with.
        failures: What to raise instead of keeping the next ones; their sockets are closed.
    """

    swarm: Swarm
    acceptor: Acceptor
    leases: dict[PeerId, RelayLease]
    pipes: asyncio.Queue[socket.socket] = field(default_factory=asyncio.Queue)
    origins: list[tuple[PeerAddress, PeerId]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    @property
    def peer_id(self) -> PeerId:
        return self.swarm.key.peer_id

    @property
    def lease(self) -> RelayLease:
        [lease] = self.leases.values()
        return lease

    def token(self, client: PeerId = CLIENT, *, valid_s: float = 60.0) -> bytes:
        return self.lease.mint(client, time.monotonic(), valid_s=valid_s)

    async def open_pipe(self, client: PeerId = CLIENT) -> tuple[socket.socket, socket.socket]:
        """The client's end and this peer's; the caller closes the first."""
        near = await dial_through(self.lease.addresses[0], self.token(client))
        async with asyncio.timeout(10):
            return near, await self.pipes.get()


@contextlib.asynccontextmanager
async def open_relay(
    limits: SpliceLimits | None = None, *, key: IdentityKey | None = None, metrics: RelayMetrics | None = None
) -> AsyncIterator[Relay]:
    """A relay that listens; at the end its pipes are closed."""
    key = key or IdentityKey.generate()
    table = PipeTable(asyncio.get_running_loop())
    try:
        async with open_swarm(key) as swarm, background_tasks() as tasks:

            async def adopt(sock: socket.socket, remote: PeerAddress) -> None:
                await swarm.adopt(socket.socket(fileno=sock.detach()), remote)

            server = RelayServer(key, swarm, table, tasks, limits=limits, metrics=metrics)
            routes = {LIBP2P_FIRST_BYTE: adopt, RELAY_MAGIC[0]: server.accept}
            async with open_listener("127.0.0.1", 0, routes) as listener:
                address = PeerAddress.tcp("127.0.0.1", listener.port, key.peer_id)
                await swarm.advertise([address])
                server.serve()
                listener.start()
                try:
                    yield Relay(swarm, server, address)
                finally:
                    server.close()
    finally:
        table.close()


@contextlib.asynccontextmanager
async def open_target(
    relay: Relay, *, acceptor: bool = True, until: asyncio.Event | None = None
) -> AsyncIterator[Target]:
    """A peer with a lease at ``relay``; without its acceptor it does not come when called.

    Its pipes' clients have proven who they are at once, or when ``until`` is set.
    """
    async with open_swarm(IdentityKey.generate()) as swarm, background_tasks() as tasks:

        async def take(sock: socket.socket, remote: PeerAddress, relay: PeerId) -> None:
            target.origins.append((remote, relay))
            target.pipes.put_nowait(sock)
            sockets.append(sock)
            if target.failures:
                sock.close()
                raise target.failures.pop(0)
            if until is not None:
                await until.wait()

        sockets: list[socket.socket] = []
        leases: dict[PeerId, RelayLease] = {}
        target = Target(swarm, Acceptor(swarm, leases.get, take, tasks), leases)
        if acceptor:
            target.acceptor.serve()
        await swarm.connect(relay.peer_id, [relay.address])
        leases[relay.peer_id] = await request_lease(swarm, relay.peer_id)
        try:
            yield target
        finally:
            for sock in sockets:
                sock.close()


async def send_all(sock: socket.socket, data: bytes, *, then_end: bool = True) -> None:
    """Send, and say that this was all."""
    await asyncio.get_running_loop().sock_sendall(sock, data)
    if then_end:
        sock.shutdown(socket.SHUT_WR)


async def receive_all(sock: socket.socket) -> bytes:
    """Everything to the end; a reset is an end, too."""
    loop, parts = asyncio.get_running_loop(), []
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            while part := await loop.sock_recv(sock, 256 * 1024):
                parts.append(part)
    return b"".join(parts)


async def receive_some(sock: socket.socket) -> bytes:
    """What comes next."""
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(sock, 256 * 1024)


async def refusal(address: PeerAddress, token: bytes) -> RelayStatus:
    """Why the relay does not join a client with this token."""
    with pytest.raises(RelayRefusedError) as caught:
        (await dial_through(address, token)).close()
    assert str(caught.value)
    return caught.value.status


@contextlib.asynccontextmanager
async def leaving_no_descriptors() -> AsyncIterator[None]:
    """Fails if what happens meanwhile leaves any."""
    async with open_relay():  # what the first of a process leaves for the next
        pass
    before = descriptors()
    yield
    await wait_closed_since(before)
