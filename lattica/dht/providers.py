"""Provider records that others stored here: who says that it holds the content of a key."""

from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush

from lattica.dht.keyspace import Key, distance, key_of
from lattica.dht.limits import (
    MAX_KEYS_PER_PROVIDER,
    MAX_PROVIDER_RECORDS,
    MAX_PROVIDERS_PER_KEY,
    MAX_PROVIDERS_WITH_ADDRESSES,
    PROVIDER_ADDRESS_TTL,
    PROVIDER_RECORD_TTL,
)
from lattica.dht.messages import bounded_addresses
from lattica.dht.peer_info import PeerInfo
from lattica.identity import PeerId


class ProviderStore:
    """Provider records with their expiry, bounded in every direction that a remote peer controls.

    When it is full, the records farthest from the local key go first: others are responsible for those, and to push
    out a near one somebody would have to find many keys that are nearer. Addresses are kept once per provider.
    """

    def __init__(
        self,
        local: PeerId,
        *,
        max_records: int = MAX_PROVIDER_RECORDS,
        max_per_key: int = MAX_PROVIDERS_PER_KEY,
        max_keys_per_provider: int = MAX_KEYS_PER_PROVIDER,
        max_with_addresses: int = MAX_PROVIDERS_WITH_ADDRESSES,
    ) -> None:
        self._local_key: Key = key_of(local.raw)
        self._max_records, self._max_per_key = max_records, max_per_key
        self._max_keys_per_provider, self._max_with_addresses = max_keys_per_provider, max_with_addresses
        # Within a key the providers are in the order of their expiry, soonest first.
        self._expiry: dict[bytes, dict[PeerId, float]] = {}
        self._keys_of: Counter[PeerId] = Counter()
        self._addresses: dict[PeerId, tuple[tuple[bytes, ...], float]] = {}
        self._farthest: list[tuple[int, bytes]] = []  # heap of (-distance, key); each stored key is in it once
        self._records = 0

    def __len__(self) -> int:
        """How many records are held, expired ones included until `expire`."""
        return self._records

    def add(self, key: bytes, provider: PeerInfo, now: float) -> bool:
        """Store or renew a record; returns whether there was room for it."""
        peer_id = provider.peer_id
        holders = self._expiry.get(key, {})
        if holders.pop(peer_id, None) is None:
            if self._keys_of[peer_id] >= self._max_keys_per_provider:
                return False
            if len(holders) >= self._max_per_key:
                self._drop(key, next(iter(holders)))
            self._keys_of[peer_id] += 1
            self._records += 1
        if key not in self._expiry:
            self._expiry[key] = holders
            heappush(self._farthest, (-distance(self._local_key, key_of(key)), key))
        holders[peer_id] = now + PROVIDER_RECORD_TTL
        self._remember_addresses(provider, now)
        self._make_room()
        return peer_id in self._expiry.get(key, {})

    def get(self, key: bytes, now: float) -> list[PeerInfo]:
        """The providers of a key, the most recently stored first, with their addresses while those are fresh."""
        holders = self._expiry.get(key, {})
        return [PeerInfo(p, self.addresses_of(p, now)) for p, expires in reversed(holders.items()) if now < expires]

    def addresses_of(self, peer_id: PeerId, now: float) -> tuple[bytes, ...]:
        """The addresses that a provider gave; none if it gave none lately."""
        addresses, expires = self._addresses.get(peer_id, ((), now))
        return addresses if now < expires else ()

    def expire(self, now: float) -> int:
        """Drop what has expired; returns how many records."""
        before = self._records
        for key, holders in list(self._expiry.items()):
            for peer_id in [peer_id for peer_id, expires in holders.items() if expires <= now]:
                self._drop(key, peer_id)
            if not holders:
                del self._expiry[key]
        for peer_id in [peer_id for peer_id, (_, expires) in self._addresses.items() if expires <= now]:
            del self._addresses[peer_id]
        if before != self._records:
            self._farthest = sorted(entry for entry in self._farthest if entry[1] in self._expiry)
        return before - self._records

    def _drop(self, key: bytes, peer_id: PeerId) -> None:
        del self._expiry[key][peer_id]
        self._records -= 1
        self._keys_of[peer_id] -= 1
        if not self._keys_of[peer_id]:
            del self._keys_of[peer_id]
            self._addresses.pop(peer_id, None)

    def _make_room(self) -> None:
        while self._records > self._max_records:
            _, key = self._farthest[0]
            holders = self._expiry[key]
            self._drop(key, next(iter(holders)))
            if not holders:
                del self._expiry[key]
                heappop(self._farthest)

    def _remember_addresses(self, provider: PeerInfo, now: float) -> None:
        addresses = bounded_addresses(provider.addresses)
        if not addresses:
            return
        self._addresses.pop(provider.peer_id, None)
        self._addresses[provider.peer_id] = (addresses, now + PROVIDER_ADDRESS_TTL)
        if len(self._addresses) > self._max_with_addresses:
            del self._addresses[next(iter(self._addresses))]
