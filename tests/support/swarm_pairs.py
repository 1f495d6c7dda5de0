"""Real swarms on 127.0.0.1: a listener as `lattica.mesh` will have one, pairs of peers, and a wire that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from functools import partial

from lattica.background import Background, background_tasks
from lattica.identity import IdentityKey, PeerAddress
from lattica.mesh.accepting import accept
from lattica.swarm import Swarm, open_swarm


async def _accept(server: socket.socket, swarm: Swarm, tasks: Background) -> None:
    while True:
        sock, (host, port) = await accept(server)
        _hand_over(sock, PeerAddress.tcp(host, port), swarm, tasks)


def _hand_over(sock: socket.socket, remote: PeerAddress, swarm: Swarm, tasks: Background) -> None:
    """A task that is cancelled before its first step has handed over nothing."""
    begun = False

    async def adopt() -> None:
        nonlocal begun
        begun = True
        await swarm.adopt(sock, remote)

    tasks.start(adopt()).add_done_callback(lambda _: None if begun else sock.close())


@contextlib.asynccontextmanager
async def listening(swarm: Swarm) -> AsyncIterator[PeerAddress]:
    """Accept connections for ``swarm`` on a port of 127.0.0.1, and advertise it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host, port = server.getsockname()
        address = PeerAddress.tcp(host, port, swarm.key.peer_id)
        await swarm.advertise([address])
        async with background_tasks() as tasks:
            tasks.start(_accept(server, swarm, tasks))
            yield address


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Swarm, Swarm, PeerAddress]]:
    """Alice, Bob, and the address at which Bob listens; Alice has dialled Bob."""
    async with (
        open_swarm(IdentityKey.generate()) as alice,
        open_swarm(IdentityKey.generate()) as bob,
        listening(bob) as address,
    ):
        await alice.connect(bob.key.peer_id, [address])
        await alice.ping(bob.key.peer_id)  # she counts it as open a round trip before he does
        yield alice, bob, address


class _Pump(asyncio.Protocol):
    """One end of a carried connection: what comes in goes to the other end."""

    def __init__(self, other: asyncio.WriteTransport | None = None) -> None:
        self.other = other

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Wire:
    """A TCP proxy before a peer's address: what happens to its connections is the test's to decide."""

    def __init__(self, address: PeerAddress) -> None:
        self.address = address
        self._ends: list[asyncio.Transport] = []

    async def carry(self, server: socket.socket, target: PeerAddress) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await accept(server)
            near, pump = await loop.connect_accepted_socket(_Pump, sock)
            assert isinstance(near, asyncio.Transport)
            near.pause_reading()
            far, _ = await loop.create_connection(partial(_Pump, near), target.host, target.port)
            pump.other = far
            near.resume_reading()
            self._ends += [near, far]

    def freeze(self) -> None:
        """Carry nothing from now on, and tell nobody, as a NAT does that has forgotten its mappings."""
        for end in self._ends:
            end.pause_reading()

    def cut(self) -> None:
        """Reset all connections, as a machine does that lost its power and came back."""
        for end in self._ends:
            linger_not_at_all = struct.pack("ii", 1, 0)
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not_at_all)
            end.abort()
        self._ends.clear()


@contextlib.asynccontextmanager
async def wired(target: PeerAddress) -> AsyncIterator[Wire]:
    """A `Wire` to ``target``: whoever dials its ``address`` is carried there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host, port = server.getsockname()
        wire = Wire(PeerAddress.tcp(host, port, target.peer_id))
        async with background_tasks() as tasks:
            tasks.start(wire.carry(server, target))
            try:
                yield wire
            finally:
                wire.cut()
