"""Rooms of one node (swarm, mesh, rpc) on 127.0.0.1, in this process; what tests of calls need."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lattica.errors import PeerUnreachableError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.mesh import Mesh, open_mesh
from lattica.rpc import NativeAddress, PeerChannel, Rpc, RpcMetrics, open_rpc
from lattica.swarm import Swarm, open_swarm


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The rooms of one running node.

    Attributes:
        server: The unix socket of its gRPC server.
    """

    swarm: Swarm
    mesh: Mesh
    rpc: Rpc
    server: Path

    @property
    def peer_id(self) -> PeerId:
        return self.mesh.peer_id

    @property
    def address(self) -> PeerAddress:
        return self.mesh.addresses[0]

    def knows(self, other: Rooms) -> PeerChannel:
        """Tell this node where the other listens; the channel to it."""
        self.mesh.add_addresses(other.peer_id, [other.address])
        return self.rpc.channel(other.peer_id)


@contextlib.asynccontextmanager
async def open_rooms(
    *,
    key: IdentityKey | None = None,
    port: int = 0,
    splice: bool | None = None,
    native_port: int | None = 0,
    reflection: bool = False,
    metrics: RpcMetrics | None = None,
) -> AsyncIterator[Rooms]:
    """A node's rooms, without a native port if that is ``None``; afterwards nothing is left in its runtime folder."""
    key = key or IdentityKey.generate()
    with tempfile.TemporaryDirectory(prefix="lat") as folder:
        runtime = Path(folder)
        server = runtime / "s"
        async with (
            open_swarm(key) as swarm,
            open_mesh(key, swarm, host="127.0.0.1", port=port, runtime=runtime, splice=splice) as mesh,
            open_rpc(
                mesh.links.authority.server,
                server,
                mesh,
                native=None if native_port is None else NativeAddress("127.0.0.1", native_port),
                reflection=reflection,
                metrics=metrics or RpcMetrics(),
            ) as rpc,
        ):
            mesh.start(server, native_port=rpc.native_port)
            yield Rooms(swarm=swarm, mesh=mesh, rpc=rpc, server=server)
        left = [path.name for path in runtime.iterdir()]
        assert not left, f"files left in the runtime folder: {left}"


@dataclass
class StaticFinder:
    """A `PeerFinder` that knows what it is told."""

    known: dict[PeerId, Sequence[PeerAddress]] = field(default_factory=dict)
    asked: list[PeerId] = field(default_factory=list)

    async def find_peer(self, peer: PeerId, *, thorough: bool = True) -> Sequence[PeerAddress]:
        self.asked.append(peer)
        if peer not in self.known:
            raise PeerUnreachableError(peer, {"lookup": "nobody knows it"})
        return self.known[peer]
