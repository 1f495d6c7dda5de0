"""A running node: all rooms, wired."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc

from lattica._proto import peer_pb2, peer_pb2_grpc
from lattica.background import background_tasks
from lattica.config import NodeConfig
from lattica.content import BlockStore, ContentServicer, add_content_servicer
from lattica.dht import Dht, DhtMode, open_dht
from lattica.errors import AddressError, BootstrapError, NetworkError
from lattica.identity import PeerAddress, PeerId, load_or_create_key
from lattica.mesh import Mesh, Reachability, RelaySettings, open_mesh
from lattica.node.allocator import keep_freed_memory
from lattica.node.bootstrap import Bootstrapper, parse_peer_addresses
from lattica.node.content import NodeContent
from lattica.node.control import open_control
from lattica.node.dht_transport import DhtPeerFinder, SwarmDhtTransport
from lattica.node.garbage import COLLECTOR
from lattica.node.home import DOCUMENTS_FILE, KEY_FILE, STORE_FOLDER, hold_home, runtime_folder
from lattica.node.peer_service import PeerServicer
from lattica.node.permanent import keep_open
from lattica.node.providers import DhtRouting, DhtServiceRouting, MeshChannels
from lattica.rpc import NativeAddress, Rpc, caller_id, open_replicas, open_rpc
from lattica.store import GrpcPeers, NamespaceId, ReplicatedStore, StoreServicer, add_store_servicer, open_store
from lattica.swarm import PeerInfo, Swarm, open_swarm

logger = logging.getLogger(__name__)

SETTLE_TIMEOUT_S = 3.0
"""Seconds that a node waits at most, once it has joined, to learn whether it can be dialled, and for its relays."""
REANNOUNCE_PAUSE_S = 2.0
"""Seconds between a change of our addresses and the announcements that carry it; changes come in bursts."""
PING_TIMEOUT_S = 15.0
"""Seconds for one ping, finding the peer included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """One answered ping.

    Attributes:
        rtt: Seconds of one gRPC call over the data path.
        path: Kind of the path that it took.
    """

    rtt: float
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A connected peer.

    Attributes:
        peer_id: Who.
        addresses: Where its control connections lead.
        direction: ``inbound`` or ``outbound``, of the newest.
        path: Kind of the path of the newest pipe to it; empty without one.
        agent: Program and version that it claims.
    """

    peer_id: PeerId
    addresses: tuple[PeerAddress, ...]
    direction: str
    path: str
    agent: str


class Node:
    """A running node; made by `open_node`.

    Attributes:
        config: Its settings.
        mesh: Reaches peers by ID.
        rpc: gRPC channels to peer IDs, and the server for your services.
        dht: Finds peers and providers.
        content: Publishes and fetches.
        store: Documents that are replicated.
    """

    def __init__(
        self,
        config: NodeConfig,
        swarm: Swarm,
        mesh: Mesh,
        rpc: Rpc,
        dht: Dht,
        content: NodeContent,
        store: ReplicatedStore,
    ) -> None:
        self.config = config
        self.mesh = mesh
        self.rpc = rpc
        self.dht = dht
        self.content = content
        self.store = store
        self._swarm = swarm

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        return self.mesh.peer_id

    @property
    def addresses(self) -> list[PeerAddress]:
        """Multiaddrs at which we listen, with our peer ID: bootstrap addresses for others."""
        return self.mesh.addresses

    def resolve(self, text: str) -> PeerId:
        """The peer of a peer ID or a multiaddr ending in one; a multiaddr's address is remembered.

        Raises:
            AddressError: It is neither.
        """
        if not text.startswith("/"):
            return PeerId.parse(text)
        address = PeerAddress.parse(text)
        if address.peer_id is None:
            raise AddressError(text, "it names no peer; it has to end in /p2p/<peer ID>")
        if address.is_tcp or address.is_circuit:
            self.mesh.add_addresses(address.peer_id, [address])
        return address.peer_id

    async def ping(self, peer: PeerId) -> Pong:
        """One round trip to a peer over the data path; raises `PeerUnreachableError`."""
        stub: peer_pb2_grpc.PeerAsyncStub = peer_pb2_grpc.PeerStub(self.rpc.channel(peer))
        started = time.monotonic()
        try:
            await stub.Echo(peer_pb2.EchoRequest(payload=b"ping"), timeout=PING_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if isinstance(error, NetworkError):
                raise
            raise NetworkError(f"{peer} did not answer a ping: {error.details()}") from error
        path = self.mesh.path_to(peer)
        return Pong(rtt=time.monotonic() - started, path=path.kind.value if path else "")

    def peers(self) -> list[PeerStatus]:
        """The peers with a control connection."""
        by_peer: dict[PeerId, list[PeerAddress]] = {}
        directions = {}
        for connection in self._swarm.connections():
            by_peer.setdefault(connection.peer_id, []).append(connection.remote)
            directions[connection.peer_id] = connection.direction.value
        return [
            PeerStatus(
                peer_id=peer,
                addresses=tuple(addresses),
                direction=directions[peer],
                path=self._path_kind(peer),
                agent=info.agent if (info := self._swarm.peer_info(peer)) else "",
            )
            for peer, addresses in by_peer.items()
        ]

    def _path_kind(self, peer: PeerId) -> str:
        path = self.mesh.path_to(peer)
        return path.kind.value if path else ""


@contextlib.asynccontextmanager
async def open_node(config: NodeConfig | None = None) -> AsyncIterator[Node]:
    """A running node, joined to its network, until the block ends.

    Nothing is left then: no task, thread, socket or lock.

    Args:
        config: Its settings; by default those of the environment and the home's ``config.toml``.

    Raises:
        ConfigError, AddressError, NamespaceError: A setting is wrong.
        KeyFileError: The identity key cannot be used.
        NodeRunningError: Another node runs with this home.
        PortInUseError: The port is taken.
        StoreError: The block store cannot be used.
        ReplicaStoreError: The documents' file cannot be used.
        BootstrapError: No bootstrap peer answers, and ``config.require_bootstrap`` is set.
    """
    config = config or NodeConfig.load()
    bootstrap = parse_peer_addresses(config.bootstrap, "bootstrap")
    announce = _parse_announce(config.announce)
    replicate = [NamespaceId.parse(text) for text in config.replicate]
    relays = {**bootstrap, **parse_peer_addresses(config.relays, "relay")}
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(hold_home(config.home))
        stack.enter_context(COLLECTOR.rarer(config.gc_threshold))
        if config.keep_freed_memory:
            keep_freed_memory()
        key = load_or_create_key(config.home / KEY_FILE)
        store = stack.enter_context(BlockStore.open(config.home / STORE_FOLDER))
        runtime = stack.enter_context(runtime_folder())
        swarm = await stack.enter_async_context(open_swarm(key))
        mesh = await stack.enter_async_context(
            open_mesh(
                key, swarm, host=config.host, port=config.port, runtime=runtime, announce=announce, relays=relays,
                relay=RelaySettings.of(config.relay, config.relay_rate), stun_port=config.stun_port,
            )
        )  # fmt: skip
        server = runtime / "rpc"
        native = None if config.native_port is None else NativeAddress(config.host, config.native_port)
        rpc = await stack.enter_async_context(
            open_rpc(mesh.links.authority.server, server, mesh, native=native, reflection=config.reflection)
        )
        transport = SwarmDhtTransport(swarm, mesh, config.dht_protocol)
        dht = await stack.enter_async_context(
            open_dht(transport, mode=_dht_mode(config, mesh.reach.state), addresses_of=transport.addresses_of)
        )
        mesh.reach.subscribe(changed=lambda state: dht.set_mode(_dht_mode(config, state)))
        mesh.finder = DhtPeerFinder(dht)
        _feed_routing_table(swarm, dht, config.dht_protocol)
        swarm.subscribe(connected=lambda connection: rpc.heard_of(connection.peer_id))
        content = NodeContent(store, MeshChannels(rpc, mesh), DhtRouting(dht, mesh))
        rpc.add_servicer(add_content_servicer, ContentServicer(store, caller_of=caller_id))
        rpc.add_servicer(peer_pb2_grpc.add_PeerServicer_to_server, PeerServicer())
        routing = DhtServiceRouting(dht, mesh)
        rpc.use_replicas(
            await stack.enter_async_context(open_replicas(key, rpc, routing, metrics=rpc.metrics.services))
        )
        documents = await stack.enter_async_context(
            open_store(key, config.home / DOCUMENTS_FILE, GrpcPeers(rpc.channel), routing)
        )
        rpc.add_servicer(
            add_store_servicer, StoreServicer(documents.genesis_of, documents.replicator_of, caller_of=caller_id)
        )
        node = Node(config, swarm, mesh, rpc, dht, content, documents)
        mesh.start(server, native_port=rpc.native_port)
        tasks = await stack.enter_async_context(background_tasks())
        bootstrapper = Bootstrapper(swarm, dht, bootstrap)
        await _join(bootstrapper, required=config.require_bootstrap)
        await _settle(mesh, joined=bool(swarm.connections()))
        tasks.start(bootstrapper.keep_joined(), name="lattica-bootstrap")
        tasks.start(_keep_announced(content, mesh), name="lattica-announce")
        for namespace in replicate:
            tasks.start(keep_open(documents, namespace), name="lattica-replicate")
        await stack.enter_async_context(open_control(node, config.home, runtime))
        logger.info("node up peer=%s addresses=%s", node.peer_id, [address.text for address in node.addresses])
        yield node


async def _join(bootstrapper: Bootstrapper, *, required: bool) -> None:
    try:
        await bootstrapper.join()
    except BootstrapError as error:
        if required:
            raise
        logger.warning("bootstrap failed, trying on reason=%s", error)


async def _settle(mesh: Mesh, *, joined: bool) -> None:
    """Have our relays, if we need any, before others are told where we are; for as long as that usually takes."""
    if not joined:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            await mesh.reach.wait_settled()


async def _keep_announced(content: NodeContent, mesh: Mesh) -> None:
    """Announce what we provide, and again when our addresses change: the announcements carry them."""
    moved = asyncio.Event()
    mesh.reach.subscribe(moved=moved.set)
    while True:
        await content.announce_all()
        moved.clear()
        await moved.wait()
        await asyncio.sleep(REANNOUNCE_PAUSE_S)


def _dht_mode(config: NodeConfig, state: Reachability) -> DhtMode:
    if config.dht == "auto":
        return DhtMode.CLIENT if state is Reachability.PRIVATE else DhtMode.SERVER
    return DhtMode(config.dht)


def _feed_routing_table(swarm: Swarm, dht: Dht, protocol: str) -> None:
    def identified(info: PeerInfo) -> None:
        if protocol in info.protocols:
            dht.peer_seen(info.peer_id, [address.to_bytes() for address in info.addresses])
        else:
            dht.peer_lost(info.peer_id)

    swarm.subscribe(identified=identified)


def _parse_announce(texts: Sequence[str]) -> list[PeerAddress]:
    addresses = [PeerAddress.parse(text) for text in texts]
    for address in addresses:
        if not address.is_tcp:
            raise AddressError(str(address), "only TCP addresses can be announced: /ip4/192.0.2.1/tcp/4737")
    return addresses
