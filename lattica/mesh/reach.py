"""How others reach us: our addresses, whether they can be dialled, and the relays for when they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Sequence

from lattica.background import Background
from lattica.errors import NetworkError, StreamError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.dialback import DIALBACK_PROTOCOL, Dialback
from lattica.mesh.links import RelayOffer
from lattica.mesh.paths import Candidate, CandidateKind, host_candidates, is_global, is_local
from lattica.mesh.reachability import Reachability, ReachabilityMachine
from lattica.mesh.relay_keeper import RelayKeeper
from lattica.mesh.stun_book import StunBook
from lattica.swarm import HOP, ConnectionInfo, Direction, PeerInfo, Swarm

logger = logging.getLogger(__name__)

INTERFACES_S = 3.0
"""Seconds between two looks at this machine's addresses."""
CHECK_TIMEOUT_S = 3.0
"""Seconds that a control connection has to answer when our addresses have changed."""


class Reach:
    """What we tell others of ourselves; implements `lattica.mesh.links.LinkTerms`.

    Args:
        swarm: Our control connections.
        host: The address that our port is bound to.
        port: The port.
        announce: Further addresses at which we can be reached, as the operator knows.
        tasks: Run what goes on in the background.

    Attributes:
        candidate_list: Addresses at which our port may be reached.
        keeper: Our relays.
        dialback: Dials peers that ask.
        native_port: TCP port of our gRPC server itself; 0 if there is none.
    """

    def __init__(self, swarm: Swarm, host: str, port: int, announce: Sequence[PeerAddress], tasks: Background) -> None:
        self._hosts = host_candidates(host, port)
        self.candidate_list = list(self._hosts)
        self.candidate_list += [Candidate(a.host, a.port, CandidateKind.PUBLIC) for a in announce if a.is_tcp]
        self.keeper = RelayKeeper(swarm, self._changed)
        self.dialback = Dialback(swarm)
        self.native_port = 0
        self._swarm = swarm
        self._host, self._port = host, port
        self._tasks = tasks
        self._stun_book = StunBook(tasks)
        self._machine = ReachabilityMachine(
            announced=any(is_global(a.host) or a.text.startswith("/dns") for a in announce)
        )
        self._state = self._machine.state
        self._listeners: list[Callable[[Reachability], None]] = []
        self._moved: list[Callable[[], None]] = []
        self._news = asyncio.Event()

    # LinkTerms

    def candidates(self) -> Sequence[Candidate]:
        """Where we listen."""
        return self.candidate_list

    def relays(self, client: PeerId) -> Sequence[RelayOffer]:
        """Relays at which ``client`` can reach us."""
        return self.keeper.offers(client)

    def public_hosts(self) -> Collection[str]:
        """From where others see us come."""
        return self._machine.public_hosts

    # State

    @property
    def state(self) -> Reachability:
        """Whether others can dial us."""
        return self._state

    @property
    def addresses(self) -> list[PeerAddress]:
        """Multiaddrs at which we listen, and those through our relays, with our peer ID."""
        own = self._swarm.key.peer_id
        listening = [candidate.address for candidate in self.candidate_list]
        return [address.with_peer(own) for address in (*listening, *self.keeper.addresses)]

    @property
    def relay_ids(self) -> list[PeerId]:
        """Relays through which we can be reached, nearest first."""
        return self.keeper.plan.held()

    def subscribe(
        self, *, changed: Callable[[Reachability], None] | None = None, moved: Callable[[], None] | None = None
    ) -> None:
        """Have functions called when the state changes, and when our addresses do."""
        if changed is not None:
            self._listeners.append(changed)
        if moved is not None:
            self._moved.append(moved)

    async def wait_settled(self) -> None:
        """Return when we know whether we can be dialled, and hold relays if not, or have found that there are none."""
        while self._state is Reachability.UNKNOWN or not self.keeper.is_idle:
            self._news.clear()
            await self._news.wait()

    @property
    def bound_host(self) -> str:
        """The address that our port is bound to; sockets for peers are bound to the same."""
        return self._host

    def stun_servers(self) -> list[PeerAddress]:
        """Nodes that tell us how a NAT maps a port of ours: those that we have dialled ourselves, our relays first.

        If they are few, their second ports follow, as far as we know them. A node that has dialled nobody is its own:
        it asks at its public address.
        """
        servers = self._dialled_nodes()
        if servers:
            self._learn_second_ports(servers)
            return self._stun_book.completed(servers)
        own = [candidate.address for candidate in self._hosts]
        own.sort(key=lambda address: not is_global(address.host))
        return own

    def _dialled_nodes(self) -> list[PeerAddress]:
        held = self.keeper.plan.held()
        connections = [
            one
            for one in self._swarm.connections()
            if one.direction is Direction.OUTBOUND and one.remote.is_tcp and self._is_lattica(one.peer_id)
        ]
        connections.sort(key=lambda one: held.index(one.peer_id) if one.peer_id in held else len(held))
        return [one.remote for one in connections]

    def _learn_second_ports(self, servers: Sequence[PeerAddress]) -> None:
        """Where others can dial us there is no NAT to learn about."""
        if self._state is not Reachability.PUBLIC:
            self._stun_book.learn(servers, self._host)

    def _is_lattica(self, peer: PeerId) -> bool:
        info = self._swarm.peer_info(peer)
        return info is not None and DIALBACK_PROTOCOL in info.protocols

    async def start(self) -> None:
        """Tell peers where we are, and begin to learn how we can be reached."""
        self.dialback.serve()
        self._swarm.subscribe(
            identified=self._identified, disconnected=lambda one: self._stun_book.forget(one.remote.text)
        )
        self._tasks.start(self.keeper.run(), name="lattica-relays")
        self._tasks.start(self._watch_interfaces(), name="lattica-interfaces")
        await self._swarm.advertise(self.addresses)

    def accepted(self, sock: socket.socket, remote: PeerAddress) -> None:
        """A connection has come to our port."""
        try:
            local = PeerAddress.tcp(*sock.getsockname()[:2]).host
        except OSError:
            return
        if local != remote.host and not is_local(remote.host):
            self._machine.dialled_by_stranger(local)
            self._settle()

    def _identified(self, info: PeerInfo) -> None:
        outbound = [
            one for one in self._swarm.connections()
            if one.peer_id == info.peer_id and one.direction is Direction.OUTBOUND and one.relay is None
        ]  # fmt: skip
        if not outbound:
            return
        self._learn_relay(info, outbound[-1])
        if info.observed is None or not info.observed.host:
            return
        own = {candidate.host for candidate in host_candidates(self._host, self._port)}
        ask = self._machine.observed(info.peer_id, info.observed.host, own)
        if ask and DIALBACK_PROTOCOL in info.protocols:
            self._tasks.start_unless_ending(self._ask_dialback(info.peer_id))
        self._settle()
        self._learn_second_ports(self._dialled_nodes())

    def _learn_relay(self, info: PeerInfo, connection: ConnectionInfo) -> None:
        if HOP not in info.protocols:
            self.keeper.plan.remove(info.peer_id)
        elif is_global(connection.remote.host):
            self.keeper.add(info.peer_id, [connection.remote])

    async def _ask_dialback(self, peer: PeerId) -> None:
        success = await self.dialback.ask(peer, self._port)
        if success is not None:
            logger.debug("dialled back peer=%s success=%s", peer, success)
            self._machine.dialled_back(peer, success=success)
            self._settle()

    def _settle(self) -> None:
        state = self._machine.state
        if state is self._state:
            return
        logger.info("reachability changed from=%s to=%s", self._state.value, state.value)
        self._state = state
        self.keeper.set_wanted(state is Reachability.PRIVATE)
        self._news.set()
        for listener in self._listeners:
            listener(state)

    async def _watch_interfaces(self) -> None:
        """Notice when this machine gets other addresses: what was learnt in the old network does not hold any more."""
        while True:
            await asyncio.sleep(INTERFACES_S)
            fresh = host_candidates(self._host, self._port)
            if fresh == self._hosts:
                continue
            logger.info("our addresses changed addresses=%s", [candidate.host for candidate in fresh])
            self.candidate_list = [*fresh, *(c for c in self.candidate_list if c not in self._hosts)]
            self._hosts = fresh
            self._machine.network_changed()
            self.keeper.plan.retry_now()
            self._settle()
            self._changed()
            await self._drop_dead()

    async def _drop_dead(self) -> None:
        """Close control connections that do not answer, so that they are dialled anew: they belong to old addresses."""

        async def check(peer: PeerId) -> None:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await self._swarm.ping(peer)
            except (NetworkError, TimeoutError):
                with contextlib.suppress(StreamError):  # the swarm is closing
                    await self._swarm.disconnect(peer)

        async with asyncio.TaskGroup() as tasks:
            for peer in {info.peer_id for info in self._swarm.connections()}:
                tasks.create_task(check(peer))

    def _changed(self) -> None:
        self._news.set()
        self._tasks.start_unless_ending(self._advertise())
        for listener in self._moved:
            listener()

    async def _advertise(self) -> None:
        try:
            await self._swarm.advertise(self.addresses)
        except StreamError:
            logger.debug("the swarm is closing: nobody is told of new addresses")
