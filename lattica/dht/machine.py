"""One DHT node as a pure machine: what it knows, what it answers, and what it should do next.

No I/O, no clock: requests, outcomes and `now` come in; answers, lookups and peers to check go out. One is driven over
a network by `lattica.dht.service`, thousands in one process by `lattica.dht.simulation`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from lattica.dht.backoff import Backoff
from lattica.dht.diversity import IpDiversity
from lattica.dht.keyspace import is_multihash, key_of, preimage_sharing_prefix
from lattica.dht.limits import MAX_TABLE_FAILURES, REFRESH_INTERVAL, K
from lattica.dht.lookup import Lookup
from lattica.dht.messages import Message, MessageType, bounded_addresses
from lattica.dht.peer_info import PeerInfo
from lattica.dht.providers import ProviderStore
from lattica.dht.publications import Publications
from lattica.dht.routing import RoutingTable
from lattica.errors import AddressError, RemoteProtocolError, StreamError
from lattica.identity import PeerId


def no_addresses(_: PeerId) -> Sequence[bytes]:
    """The default for `addresses_of`: no peer's addresses are known from elsewhere."""
    return ()


class KadMachine:
    """The routing table, provider records and publications of one node, and the rules that tie them together.

    Args:
        local: Our own peer ID.
        rng: Where randomness comes from: refresh targets and the jitter of republishing.
        local_addresses: Our own addresses, asked for whenever they are handed out.
        addresses_of: Addresses of peers that we are connected to, in the table or not; with it, others find clients
            and peers behind relays through us.
        diversity: Limits per network block; ``None`` in networks where many peers share one.
    """

    def __init__(
        self,
        local: PeerId,
        *,
        rng: random.Random,
        local_addresses: Callable[[], Sequence[bytes]],
        addresses_of: Callable[[PeerId], Sequence[bytes]] = no_addresses,
        diversity: IpDiversity | None = None,
    ) -> None:
        self.local = local
        self.table = RoutingTable(local, diversity=diversity)
        self.providers = ProviderStore(local)
        self.publications = Publications(rng)
        self.backoff = Backoff()
        self._rng = rng
        self._local_addresses = local_addresses
        self._addresses_of = addresses_of

    # What happens to us.

    def peer_seen(self, peer: PeerInfo, now: float) -> PeerInfo | None:
        """Note a server: it told us so, or it answered; returns a contact to check, if the table is in two minds."""
        if not self.backoff.succeeded(peer.peer_id, now):
            return None
        before = len(self.table)
        check = self.table.seen(peer, now)
        if len(self.table) > before:
            self.publications.peers_known(len(self.table), now)
        return check

    def peer_lost(self, peer_id: PeerId) -> None:
        """Note that a peer does not serve the DHT any longer."""
        self.table.remove(peer_id)

    def request_failed(self, peer_id: PeerId, now: float) -> None:
        """Note that a peer could not be reached or did not answer in time."""
        failures = self.backoff.failed(peer_id, now)
        self.table.failed(peer_id, hopeless=failures >= MAX_TABLE_FAILURES)

    def peer_misbehaved(self, peer_id: PeerId, now: float) -> None:
        """Note that a peer broke the protocol: out of the table, and not back for `BACKOFF_MAX`."""
        self.backoff.misbehaved(peer_id, now)
        self.table.remove(peer_id)

    def answer(self, sender: PeerId, request: Message, now: float) -> Message | None:
        """What to reply to a request; ``None`` for one that has no response.

        Raises:
            RemoteProtocolError: The request is not acceptable from this sender.
            StreamError: We do not serve this kind of request; no fault of the sender.
        """
        self.table.touch(sender, now)
        match request.type:
            case MessageType.FIND_NODE:
                return self._answer_find_node(sender, request, now)
            case MessageType.GET_PROVIDERS:
                return self._answer_get_providers(sender, request, now)
            case MessageType.ADD_PROVIDER:
                self._take_provider(sender, request, now)
                return None
            case MessageType.GET_VALUE:
                return Message(type=request.type, key=request.key, closer_peers=self._closer(sender, request.key))
            case MessageType.PING:
                return Message(type=MessageType.PING)
            case MessageType.PUT_VALUE:
                raise StreamError("PUT_VALUE refused: this node stores provider records only")

    # What we want.

    def lookup(self, target: bytes, now: float, *, beta: int = K) -> Lookup:
        """A search for the peers nearest to a peer ID's bytes or a multihash."""
        key = key_of(target)
        self.table.looked_up(key, now)
        return Lookup(
            key,
            self.table.closest(key, 2 * K),  # nearest first, so the farther half matters only if many nearer ones fail
            local=self.local,
            beta=beta,
            is_paused=lambda peer_id: self.backoff.is_paused(peer_id, now),
        )

    def addresses_of_connected(self, peer_id: PeerId) -> tuple[bytes, ...]:
        """Addresses of a peer that we are connected to; none if we are not."""
        return bounded_addresses(self._addresses_of(peer_id))

    def known_addresses(self, peer_id: PeerId, now: float) -> tuple[bytes, ...]:
        """All addresses known of a peer: as a contact, from its connection, as a provider."""
        contact = self.table.get(peer_id)
        return bounded_addresses(
            (
                *(contact.addresses if contact else ()),
                *self._addresses_of(peer_id),
                *self.providers.addresses_of(peer_id, now),
            )
        )

    def local_info(self) -> PeerInfo:
        """Ourselves, as others are to know us."""
        return PeerInfo(self.local, bounded_addresses(self._local_addresses()))

    def refresh_targets(self, now: float) -> list[bytes]:
        """What to look up to keep the table full: always ourselves, and a key in each bucket that was not used."""
        stale = self.table.stale_prefixes(now - REFRESH_INTERVAL)
        targets = [preimage_sharing_prefix(self.table.local_key, length, self._rng) for length in stale]
        return [self.local.raw, *targets]

    def due_checks(self, now: float) -> list[PeerInfo]:
        """Contacts that were not heard from for a refresh interval."""
        return self.table.unseen_since(now - REFRESH_INTERVAL)

    def _answer_find_node(self, sender: PeerId, request: Message, now: float) -> Message:
        closer = self._closer(sender, request.key)
        named = self._named_peer(request.key, now)
        if named is not None:
            closer = (named, *(peer for peer in closer if peer.peer_id != named.peer_id))
        return Message(type=request.type, key=request.key, closer_peers=closer)

    def _answer_get_providers(self, sender: PeerId, request: Message, now: float) -> Message:
        providers = self.providers.get(request.key, now)
        if request.key in self.publications:
            providers.insert(0, self.local_info())
        return Message(
            type=request.type,
            key=request.key,
            closer_peers=self._closer(sender, request.key),
            provider_peers=tuple(providers),
        )

    def _take_provider(self, sender: PeerId, request: Message, now: float) -> None:
        if not is_multihash(request.key):
            raise RemoteProtocolError("ADD_PROVIDER for a key that is not a multihash", sender)
        own = [peer for peer in request.provider_peers if peer.peer_id == sender]
        if not own:
            raise RemoteProtocolError("ADD_PROVIDER that does not name its sender", sender)
        self.providers.add(request.key, own[0], now)

    def _closer(self, sender: PeerId, key: bytes) -> tuple[PeerInfo, ...]:
        """The nearest contacts that we would ask ourselves."""

        def is_unfit(peer_id: PeerId) -> bool:
            return peer_id == sender or self.backoff.is_suspect(peer_id)

        return tuple(self.table.closest(key_of(key), K, skip=is_unfit))

    def _named_peer(self, key: bytes, now: float) -> PeerInfo | None:
        """The very peer whose ID was asked for, if we know where it is; it need not be a server."""
        if key == self.local.raw:
            return self.local_info()
        try:
            peer_id = PeerId(key)
        except AddressError:
            return None  # a multihash that is no peer ID; the spec allows any key
        addresses = self.known_addresses(peer_id, now)
        return PeerInfo(peer_id, addresses) if addresses else None
