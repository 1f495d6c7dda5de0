"""Swarms behind a relay on 127.0.0.1: none of them listens but the relay."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from swarm_pairs import listening

from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.swarm import RelayLimits, Reservation, Swarm, open_swarm


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuits:
    """A relay, a target that has reserved there, and a client that knows the target's circuit address.

    Attributes:
        relay: The relay.
        at: Where it listens.
        target: Who is reached through it.
        client: Who wants to.
        reservation: The target's.
    """

    relay: Swarm
    at: PeerAddress
    target: Swarm
    client: Swarm
    reservation: Reservation

    @property
    def address(self) -> PeerAddress:
        return self.reservation.addresses[0]


@contextlib.asynccontextmanager
async def behind_a_relay(limits: RelayLimits | None = None) -> AsyncIterator[Circuits]:
    """A relay with one reservation, of a peer that does not listen."""
    async with (
        open_swarm(IdentityKey.generate()) as relay,
        open_swarm(IdentityKey.generate()) as target,
        open_swarm(IdentityKey.generate()) as client,
        listening(relay) as at,
    ):
        await relay.serve_relay(limits or RelayLimits())
        await target.connect(relay.key.peer_id, [at])
        reservation = await target.reserve(relay.key.peer_id)
        yield Circuits(relay=relay, at=at, target=target, client=client, reservation=reservation)


async def echo(peer: PeerId, message: bytes) -> bytes:
    return message
