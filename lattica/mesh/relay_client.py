"""A relay's two customers: the target that asks for a lease and mints tokens, and the client that dials with one."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from lattica._proto import relay_pb2
from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.paths import is_local
from lattica.mesh.pipes import NoAnswerError, connect_tcp, receive_exactly
from lattica.mesh.relay_server import RELAY_PROTOCOL
from lattica.mesh.relay_session import MAX_RELAY_MESSAGE
from lattica.mesh.relay_wire import (
    ANSWER_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    RelayToken,
    check_status,
    encode_dial,
    mint_token,
)
from lattica.swarm import Direction, Swarm

TOKEN_S = 600.0
"""Seconds that a client may open pipes with one token: enough to find a better path, or to ask for another token."""
JOIN_TIMEOUT_S = 15.0
"""Seconds for the relay's answer; a relay waits 10 s for the target (`SpliceLimits.wait_s`)."""
MAX_LEASE_S = 24 * 3600
"""Seconds that a lease lasts at most; a longer one is no honest relay's."""
RENEW_BEFORE_S = 900.0
"""Seconds before its end at which a lease is made anew: more than the last token minted with it lives. One
that is not twice as long is made anew half-way."""
MAX_RELAY_ADDRESSES = 8
"""Addresses of a relay that are kept."""
MAX_REFUSAL = 200
"""Characters of a relay's reason that are passed on; what a terminal might obey is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLease:
    """What lets clients reach us through a relay. Not for others: whoever has the key can mint.

    Attributes:
        peer_id: Us.
        relay: The relay.
        addresses: TCP addresses at which the relay may be dialled, those that have proven to be its own first.
        key: Mints tokens.
        expires_at: Seconds of `time.monotonic`.
        renew_at: When it should be made anew, by the same clock.
        relay_expires_at: The same moment in seconds since the epoch, by the relay's clock.
        max_pipes: Pipes to us at one time.
        max_pipes_per_client: Of those, from one client.
        bytes_s: Bytes per second over all of them, both directions together; ``None`` if that is not limited.
    """

    peer_id: PeerId
    relay: PeerId
    addresses: tuple[PeerAddress, ...]
    key: bytes = field(repr=False)
    expires_at: float
    renew_at: float
    relay_expires_at: int
    max_pipes: int
    max_pipes_per_client: int
    bytes_s: int | None

    def is_fresh(self, now: float) -> bool:
        """Whether it need not be made anew yet."""
        return now < self.renew_at

    def mint(self, client: PeerId, now: float, *, valid_s: float = TOKEN_S) -> bytes:
        """A token with which ``client`` can open pipes to us through the relay.

        Args:
            client: For whom.
            now: Seconds of `time.monotonic`; our wall clock may be wrong, so the relay's is worked out.
            valid_s: Seconds until it expires; it never outlives the lease.

        Raises:
            NetworkError: The lease has expired.
        """
        left = self.expires_at - now
        if left <= 0:
            raise NetworkError(f"the lease at the relay {self.relay} has expired")
        token = RelayToken(
            target=self.peer_id,
            client=client,
            expires_at=int(self.relay_expires_at - max(0.0, left - valid_s)),
            lease_expires_at=self.relay_expires_at,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        return mint_token(self.key, token)


async def request_lease(swarm: Swarm, relay: PeerId) -> RelayLease:
    """A new lease at a connected relay. The caller sets the deadline.

    Raises:
        StreamError: It is not connected, is no Lattica relay, or was lost.
        RemoteProtocolError: Its answer is malformed.
        NetworkError: It refuses.
    """
    asked_at = time.monotonic()
    request = relay_pb2.LeaseRequest().SerializeToString()
    answer = await swarm.request(relay, RELAY_PROTOCOL, request, MAX_RELAY_MESSAGE)
    try:
        response = relay_pb2.LeaseResponse.FromString(answer)
    except DecodeError as error:
        raise RemoteProtocolError("malformed lease response", relay) from error
    if response.refusal:
        reason = "".join(char for char in response.refusal[:MAX_REFUSAL] if char.isprintable())
        raise NetworkError(f"the relay refuses a lease: {reason}")
    sane = 0 < response.valid_s <= min(MAX_LEASE_S, response.expires_at)
    if len(response.minting_key) != KEY_BYTES or not sane:
        raise RemoteProtocolError("lease response without a lease", relay)
    return RelayLease(
        peer_id=swarm.key.peer_id,
        relay=relay,
        addresses=relay_addresses(swarm, relay),
        key=response.minting_key,
        expires_at=asked_at + response.valid_s,
        renew_at=asked_at + max(response.valid_s - RENEW_BEFORE_S, response.valid_s / 2),
        relay_expires_at=response.expires_at,
        max_pipes=response.max_pipes,
        max_pipes_per_client=response.max_pipes_per_client,
        bytes_s=response.bytes_per_s or None,
    )


def relay_addresses(swarm: Swarm, relay: PeerId) -> tuple[PeerAddress, ...]:
    """Where a connected relay may be dialled: where we dialled it, then what it says of itself.

    What it says must not lead into this machine, unless the relay is known to be on it.
    """
    connections = [info for info in swarm.connections() if info.peer_id == relay]
    proven = [info.remote for info in connections if info.direction is Direction.OUTBOUND]
    same_host = any(is_local(info.remote.host) for info in connections)
    info = swarm.peer_info(relay)
    said = [one for one in (info.addresses if info else ()) if same_host or not is_local(one.host)]
    unique = {(one.host, one.port): one.with_peer(relay) for one in reversed([*proven, *said]) if one.is_tcp}
    return tuple(reversed(unique.values()))[:MAX_RELAY_ADDRESSES]


async def dial_through(address: PeerAddress, token: bytes) -> socket.socket:
    """A socket to the token's target, through the relay at ``address``: what is written on it reaches the peer.

    Connected, configured and non-blocking; the caller's to close. Nothing has proven yet that it is the peer.
    Cancellation leaves no socket.

    Raises:
        RelayRefusedError: The relay does not join us, with its reason.
        NetworkError: No relay answered.
        OSError: From the system.
    """
    sock = await connect_tcp(address)
    try:
        await introduce(sock, encode_dial(token), JOIN_TIMEOUT_S)
    except BaseException:
        sock.close()
        raise
    return sock


async def dial_through_again(address: PeerAddress, token: bytes) -> socket.socket:
    """As `dial_through`; a relay that gives no answer is dialled again for as long as it may take to join us.

    Other relays of the peer have that time, too. Without this one that can be reached again meanwhile, as after a split
    of the network, would not be dialled before all of them have failed.
    """
    give_up_at = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        try:
            return await dial_through(address, token)
        except NoAnswerError:
            if time.monotonic() >= give_up_at:
                raise


async def introduce(sock: socket.socket, preface: bytes, timeout: float) -> None:
    """Send a relay preface and wait until the relay has joined the socket; raises as `dial_through`."""
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_sendall(sock, preface)
            answer = await receive_exactly(sock, ANSWER_BYTES)
    except TimeoutError as error:
        raise NetworkError(f"connected to the relay, but no answer within {timeout:.0f} s") from error
    except RemoteProtocolError as error:
        raise NetworkError("the relay closed the connection without an answer") from error
    check_status(answer)
