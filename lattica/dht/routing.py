"""The routing table: whom we know, sorted by how much of our own key they share.

Bucket `i` holds contacts whose keys share exactly `i` leading bits with ours; the last one holds all that share more,
and splits when it is full. So a table is unfolded only as far as the network is large. Source: Maymounkov and
Mazières, Kademlia (2002), 2.2, 2.4 and 4.1, and https://github.com/libp2p/specs/blob/master/kad-dht/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lattica.dht.diversity import IpDiversity, ip_groups
from lattica.dht.keyspace import KEY_BITS, Key, common_prefix_length, key_of
from lattica.dht.limits import LIVENESS_GRACE, MAX_REFRESH_DEPTH, K
from lattica.dht.messages import bounded_addresses
from lattica.dht.peer_info import PeerInfo
from lattica.identity import PeerId


@dataclass(slots=True)
class _Contact:
    peer: PeerInfo
    key: Key
    last_seen: float


@dataclass(slots=True)
class _Bucket:
    """Contacts and their possible successors, least recently seen first."""

    contacts: dict[PeerId, _Contact] = field(default_factory=dict)
    replacements: dict[PeerId, _Contact] = field(default_factory=dict)
    refreshed_at: float = float("-inf")


class RoutingTable:
    """Up to `k` contacts for each length of prefix shared with the local key.

    Give it only peers that answer requests: servers, seen by ourselves. A full bucket keeps whom it has, because those
    who stayed long will stay longer; the newcomer waits in the replacement cache, and the oldest contact is to be
    checked.
    """

    def __init__(self, local: PeerId, *, k: int = K, diversity: IpDiversity | None = None) -> None:
        self.local = local
        self.local_key = key_of(local.raw)
        self._k = k
        self._diversity = diversity
        self._buckets = [_Bucket()]

    def __len__(self) -> int:
        return sum(len(bucket.contacts) for bucket in self._buckets)

    def __contains__(self, peer_id: PeerId) -> bool:
        return peer_id in self._bucket(key_of(peer_id.raw)).contacts

    def __iter__(self) -> Iterator[PeerInfo]:
        """All contacts, those that share least first; within a bucket the least recently seen first."""
        return (contact.peer for bucket in self._buckets for contact in bucket.contacts.values())

    @property
    def buckets(self) -> tuple[tuple[PeerInfo, ...], ...]:
        """The contacts bucket by bucket, least recently seen first."""
        return tuple(tuple(contact.peer for contact in bucket.contacts.values()) for bucket in self._buckets)

    def get(self, peer_id: PeerId) -> PeerInfo | None:
        """What is known of a contact; ``None`` if it is none."""
        contact = self._bucket(key_of(peer_id.raw)).contacts.get(peer_id)
        return contact.peer if contact else None

    def seen(self, peer: PeerInfo, now: float) -> PeerInfo | None:
        """Note that a server was heard from, and its addresses.

        Returns:
            The contact that keeps this one out and was not heard from for a while: check it, then report `seen` or
            `failed`. ``None`` if there is nothing to check.
        """
        if peer.peer_id == self.local:
            return None
        key = key_of(peer.peer_id.raw)
        bucket = self._bucket(key)
        while self._is_full_leaf(bucket) and peer.peer_id not in bucket.contacts:
            self._split()
            bucket = self._bucket(key)
        known = bucket.contacts.pop(peer.peer_id, None) or bucket.replacements.get(peer.peer_id)
        addresses = bounded_addresses(peer.addresses) or (known.peer.addresses if known else ())
        contact = _Contact(PeerInfo(peer.peer_id, addresses), key, now)
        if len(bucket.contacts) < self._k:
            bucket.replacements.pop(peer.peer_id, None)
            if self._is_diverse(contact, bucket):
                bucket.contacts[peer.peer_id] = contact
            return None
        return self._await_place(contact, bucket, now)

    def touch(self, peer_id: PeerId, now: float) -> None:
        """Note that a peer was heard from, if it is a contact; others may be clients."""
        contacts = self._bucket(key_of(peer_id.raw)).contacts
        if contact := contacts.pop(peer_id, None):
            contact.last_seen = now
            contacts[peer_id] = contact

    def failed(self, peer_id: PeerId, *, hopeless: bool = False) -> None:
        """Note that a peer did not answer: a waiting newcomer takes its place.

        With nobody waiting it stays, so that an outage of our own does not empty the table, unless it is `hopeless`.
        """
        bucket = self._bucket(key_of(peer_id.raw))
        bucket.replacements.pop(peer_id, None)
        if peer_id in bucket.contacts and (hopeless or bucket.replacements):
            del bucket.contacts[peer_id]
            self._promote(bucket)

    def remove(self, peer_id: PeerId) -> None:
        """Forget a peer that does not serve the DHT any longer."""
        self.failed(peer_id, hopeless=True)

    def closest(self, target: Key, count: int, *, skip: Callable[[PeerId], bool] | None = None) -> list[PeerInfo]:
        """Up to `count` contacts, nearest to `target` first, without those that `skip` rejects."""
        found: list[PeerInfo] = []
        for group in self._groups_by_distance(target):
            contacts = [contact for bucket in group for contact in bucket.contacts.values()]
            contacts.sort(key=lambda contact: contact.key ^ target)
            found.extend(c.peer for c in contacts if skip is None or not skip(c.peer.peer_id))
            if len(found) >= count:
                break
        return found[:count]

    def unseen_since(self, when: float) -> list[PeerInfo]:
        """The contacts not heard from since `when`."""
        return [c.peer for bucket in self._buckets for c in bucket.contacts.values() if c.last_seen < when]

    def looked_up(self, target: Key, now: float) -> None:
        """Note a lookup: it refreshes the bucket that its target falls into."""
        self._bucket(target).refreshed_at = now

    def stale_prefixes(self, when: float) -> list[int]:
        """Lengths of shared prefix for which nothing was looked up since `when`.

        Without the last bucket, which a lookup of ourselves refreshes.
        """
        depth = min(len(self._buckets) - 1, MAX_REFRESH_DEPTH + 1)
        return [length for length in range(depth) if self._buckets[length].refreshed_at < when]

    def _bucket(self, key: Key) -> _Bucket:
        return self._buckets[min(common_prefix_length(self.local_key, key), len(self._buckets) - 1)]

    def _is_full_leaf(self, bucket: _Bucket) -> bool:
        splittable = bucket is self._buckets[-1] and len(self._buckets) < KEY_BITS
        return splittable and len(bucket.contacts) >= self._k

    def _split(self) -> None:
        """Move the contacts that share more than the last bucket's prefix into a bucket of their own."""
        old, length = self._buckets[-1], len(self._buckets) - 1
        new = _Bucket(refreshed_at=old.refreshed_at)
        for peer_id, contact in list(old.contacts.items()):
            if common_prefix_length(self.local_key, contact.key) > length:
                new.contacts[peer_id] = old.contacts.pop(peer_id)
        self._buckets.append(new)

    def _await_place(self, contact: _Contact, bucket: _Bucket, now: float) -> PeerInfo | None:
        bucket.replacements.pop(contact.peer.peer_id, None)
        bucket.replacements[contact.peer.peer_id] = contact
        if len(bucket.replacements) > self._k:
            del bucket.replacements[next(iter(bucket.replacements))]
        oldest = next(iter(bucket.contacts.values()))
        return oldest.peer if oldest.last_seen < now - LIVENESS_GRACE else None

    def _promote(self, bucket: _Bucket) -> None:
        """Give the free place to whoever was seen last among those that wait."""
        while bucket.replacements:
            peer_id, contact = bucket.replacements.popitem()
            if self._is_diverse(contact, bucket):
                bucket.contacts[peer_id] = contact
                _sort_by_last_seen(bucket.contacts)
                return

    def _is_diverse(self, newcomer: _Contact, bucket: _Bucket) -> bool:
        """Whether its network blocks have places left, in the bucket and in the table."""
        if self._diversity is None:
            return True
        groups = ip_groups(newcomer.peer.addresses)
        if not groups:
            return True
        here = sum(not groups.isdisjoint(ip_groups(c.peer.addresses)) for c in bucket.contacts.values())
        everywhere = sum(not groups.isdisjoint(ip_groups(peer.addresses)) for peer in self)
        return here < self._diversity.per_bucket and everywhere < self._diversity.per_table

    def _groups_by_distance(self, target: Key) -> Iterator[list[_Bucket]]:
        """The buckets in groups such that each contact of one is nearer to `target` than all of the next.

        With c bits shared by `target` and our key: contacts of bucket c share more than c bits with `target`, those of
        all later buckets just c, those of an earlier bucket i just i.
        """
        last = len(self._buckets) - 1
        shared = min(common_prefix_length(self.local_key, target), last)
        yield [self._buckets[shared]]
        if shared < last:
            yield self._buckets[shared + 1 :]
        for length in range(shared - 1, -1, -1):
            yield [self._buckets[length]]


def _sort_by_last_seen(contacts: dict[PeerId, _Contact]) -> None:
    ordered = sorted(contacts.items(), key=lambda item: item[1].last_seen)
    contacts.clear()
    contacts.update(ordered)
