"""Puts a node's mesh together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from lattica.background import background_tasks
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh.dialback import FIRST_BYTE as DIALBACK_BYTE
from lattica.mesh.inbound import Inbound
from lattica.mesh.link_table import LinkTable
from lattica.mesh.links import Links
from lattica.mesh.listener import Route, open_listener
from lattica.mesh.live_pipes import PipeTable
from lattica.mesh.mesh import Mesh
from lattica.mesh.path_watch import PathWatch
from lattica.mesh.preface import MAGIC as PIPE_MAGIC
from lattica.mesh.punching import Punching
from lattica.mesh.reach import Reach
from lattica.mesh.relay_acceptor import Acceptor
from lattica.mesh.relay_role import RelayRole, RelaySettings
from lattica.mesh.relay_wire import RELAY_MAGIC
from lattica.mesh.stun_second import SecondStunPort
from lattica.mesh.stun_server import answer_stun
from lattica.mesh.stun_udp import open_udp_responder
from lattica.mesh.ways import PIPE_PROTOCOL, Ways
from lattica.swarm import Swarm

LIBP2P_FIRST_BYTE = 0x13
"""Length of the multistream header line, which opens every libp2p connection."""
STUN_FIRST_BYTE = 0x00
"""A STUN request's (RFC 8489, section 5)."""


@contextlib.asynccontextmanager
async def open_mesh(
    key: IdentityKey,
    swarm: Swarm,
    *,
    host: str,
    port: int,
    runtime: Path,
    announce: Sequence[PeerAddress] = (),
    relays: Mapping[PeerId, Sequence[PeerAddress]] | None = None,
    relay: RelaySettings | None = None,
    stun_port: int = 0,
    splice: bool | None = None,
) -> AsyncIterator[Mesh]:
    """The mesh of one node, bound to its one port; `Mesh.start` opens it.

    Args:
        key: Our identity.
        swarm: Our control plane.
        host: IP address to bind: ``0.0.0.0``, ``::`` (both families) or one of the machine's.
        port: TCP port; 0 for any free one.
        runtime: A private folder with a short path, for unix sockets.
        announce: Further addresses at which we can be reached, as the operator knows.
        relays: Relays to be reached through if we cannot be dialled, beside those that we meet.
        relay: Whether, and within what limits, we are a relay for others.
        stun_port: Second TCP port for STUN, which is open while others can dial us; 0 for any free one.
        splice: False to move bytes through Python; for tests and systems without `os.splice`.

    Raises:
        PortInUseError: Another program listens there.
        ConfigError: The address is not this machine's.
    """
    table = PipeTable(asyncio.get_running_loop(), splice=splice)
    routes: dict[int, Route] = {}
    try:
        async with background_tasks() as tasks, open_listener(host, port, routes) as listener:
            reach = Reach(swarm, listener.host, listener.port, announce, tasks)
            for peer, addresses in (relays or {}).items():
                reach.keeper.add(peer, addresses, named=True)
            links = Links(key, swarm, reach)
            link_table = LinkTable(links, swarm, reach.candidates)
            inbound = Inbound(links.office, table)
            role = RelayRole(key, swarm, table, relay or RelaySettings(), tasks)
            punching = Punching(swarm, link_table, reach, inbound.accept)
            ways = Ways(swarm, link_table, punching, reach.public_hosts)
            mesh = Mesh(swarm, links, link_table, ways, reach, role, inbound, listener, table, runtime, tasks)
            second = SecondStunPort(listener.host, stun_port, listener.unproven, tasks)
            routes.update(_routes(swarm, reach, inbound, role, second))
            links.serve()
            punching.serve()
            swarm.serve_sockets(PIPE_PROTOCOL, partial(_accept_circuit, inbound))
            Acceptor(swarm, reach.keeper.lease_at, partial(_accept_relayed, inbound), tasks).serve()
            await role.start(reach.state)
            second.changed(reach.state)
            reach.subscribe(changed=role.changed)
            reach.subscribe(changed=second.changed)
            await reach.start()
            watch = PathWatch(table, stalled=mesh.pipe_stalled, recovered=mesh.pipe_recovered)
            tasks.start(watch.run(), name="lattica-path-watch")
            async with open_udp_responder(listener.host, listener.port):
                try:
                    yield mesh
                finally:
                    mesh.close()
                    role.close()
    finally:
        table.close()


def _routes(swarm: Swarm, reach: Reach, inbound: Inbound, role: RelayRole, second: SecondStunPort) -> dict[int, Route]:
    """Who takes an inbound connection, by its first byte."""

    async def libp2p(sock: socket.socket, remote: PeerAddress) -> None:
        reach.accepted(sock, remote)
        await swarm.adopt(socket.socket(fileno=sock.detach()), remote)

    async def pipe(sock: socket.socket, remote: PeerAddress) -> None:
        reach.accepted(sock, remote)
        await inbound.accept(sock, remote)

    async def stun(sock: socket.socket, remote: PeerAddress) -> None:
        await answer_stun(sock, remote, second.number)

    return {
        LIBP2P_FIRST_BYTE: libp2p,
        PIPE_MAGIC[0]: pipe,
        RELAY_MAGIC[0]: role.accept,
        DIALBACK_BYTE[0]: reach.dialback.accept,
        STUN_FIRST_BYTE: stun,
    }


async def _accept_relayed(inbound: Inbound, sock: socket.socket, remote: PeerAddress, relay: PeerId) -> None:
    """A pipe that a relay of ours brings."""
    del relay
    await inbound.accept(sock, remote)


async def _accept_circuit(inbound: Inbound, peer: PeerId, sock: socket.socket) -> None:
    """A pipe on a stream of a control connection."""
    await inbound.accept(sock, PeerAddress.tcp("0.0.0.0", 0, peer))
