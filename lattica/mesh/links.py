"""Links: how two peers come to trust each other's TLS, by ``/lattica/link/1.0.0`` on a control connection."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import DecodeError

from lattica._proto import link_pb2
from lattica.errors import AddressError, NetworkError, RemoteProtocolError
from lattica.identity import IdentityKey, LinkKey, NodeAuthority, PeerAddress, PeerId, TlsIdentity
from lattica.identity.authority import LINK_CERTIFICATE_S
from lattica.mesh.paths import Candidate, CandidateKind, is_global
from lattica.mesh.preface import MAX_TOKEN, PipeTicket, TicketOffice
from lattica.swarm import Swarm

logger = logging.getLogger(__name__)

LINK_PROTOCOL = "/lattica/link/1.0.0"
MAX_LINK_MESSAGE = 64 * 1024
"""Bytes of a link request or response; real ones take about 2 KiB."""
MAX_CANDIDATES = 32
"""Candidates taken from a peer; the rest is ignored."""
MAX_RELAY_OFFERS = 4
"""Relays taken from a peer; who has more reservations names its best."""
MAX_RELAY_TOKEN = 256
"""Bytes of a relay's token."""
MAX_PUBLIC_HOSTS = 8
"""Public addresses taken from a peer; one for each of its networks, twice with IPv6."""
MAX_REFUSAL = 200
"""Characters of a peer's reason that are passed on; what a terminal might obey is left out."""
RENEW_BEFORE_S = 3600.0
"""Seconds before its end at which a link is made anew."""

_KINDS = {
    CandidateKind.HOST: link_pb2.CANDIDATE_KIND_HOST,
    CandidateKind.PUBLIC: link_pb2.CANDIDATE_KIND_PUBLIC,
}


@dataclass(frozen=True, slots=True)
class RelayOffer:
    """A relay that will join our connection with one of the peer's.

    Attributes:
        address: Its port, with its peer ID.
        token: Admits us.
        expires_at: When the token does, in seconds of `time.monotonic`.
    """

    address: PeerAddress
    token: bytes
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The client's side of a link to a peer.

    Attributes:
        peer_id: The server.
        tls: What we show and trust in TLS.
        ticket: Opens pipes.
        candidates: Where the server says it listens.
        relays: Where it can be reached otherwise, best first.
        public_hosts: IP addresses from which others see it come; empty if it does not know.
        native_port: TCP port of its gRPC server itself; 0 if there is none.
        expires_at: Seconds of `time.monotonic`.
    """

    peer_id: PeerId
    tls: TlsIdentity
    ticket: PipeTicket
    candidates: tuple[Candidate, ...]
    relays: tuple[RelayOffer, ...] = ()
    public_hosts: frozenset[str] = frozenset()
    native_port: int = 0
    expires_at: float

    def is_fresh(self, now: float) -> bool:
        """Whether it has at least `RENEW_BEFORE_S` left."""
        return now < self.expires_at - RENEW_BEFORE_S


class LinkTerms(Protocol):
    """What a server says of itself when it grants a link."""

    def candidates(self) -> Sequence[Candidate]:
        """Where it listens."""

    def relays(self, client: PeerId) -> Sequence[RelayOffer]:
        """Relays at which ``client`` can reach it, best first."""

    def public_hosts(self) -> Collection[str]:
        """IP addresses from which others see it come."""

    @property
    def native_port(self) -> int:
        """TCP port of its gRPC server itself; 0 if there is none."""


class Links:
    """Asks for links and grants them."""

    def __init__(self, key: IdentityKey, swarm: Swarm, terms: LinkTerms) -> None:
        self.authority = NodeAuthority(key)
        self.office = TicketOffice(key.seed)
        self._link_key = LinkKey()
        self._swarm = swarm
        self._terms = terms

    def serve(self) -> None:
        """Grant links to peers that ask."""
        self._swarm.serve_requests(LINK_PROTOCOL, self._grant, MAX_LINK_MESSAGE)

    async def request(self, peer: PeerId) -> Link:
        """A new link to a connected peer.

        Raises:
            StreamError: The peer is not connected, serves no links, or was lost.
            RemoteProtocolError: Its answer is malformed.
            NetworkError: It refuses.
        """
        request = link_pb2.LinkRequest(public_key=self._link_key.public_der, candidates=self._encode_candidates())
        answer = await self._swarm.request(peer, LINK_PROTOCOL, request.SerializeToString(), MAX_LINK_MESSAGE)
        response = link_pb2.LinkResponse()
        try:
            response.ParseFromString(answer)
        except DecodeError as error:
            raise RemoteProtocolError("malformed link response", peer) from error
        if response.refusal:
            reason = "".join(char for char in response.refusal[:MAX_REFUSAL] if char.isprintable())
            raise NetworkError(f"the peer refuses a link: {reason}")
        if not 0 < len(response.pipe_token) <= MAX_TOKEN or len(response.pipe_secret) != 32:
            raise RemoteProtocolError("link response without a pipe ticket", peer)
        return Link(
            peer_id=peer,
            tls=self._link_key.tls_identity(peer, response.certificate, response.authority),
            ticket=PipeTicket(response.pipe_token, response.pipe_secret),
            candidates=_decode_candidates(response.candidates),
            relays=_decode_offers(response.relays),
            public_hosts=frozenset(filter(is_global, response.public_hosts[:MAX_PUBLIC_HOSTS])),
            native_port=response.native_port if response.native_port < 1 << 16 else 0,
            expires_at=time.monotonic() + min(response.valid_s, LINK_CERTIFICATE_S),
        )

    async def _grant(self, peer: PeerId, message: bytes) -> bytes:
        request = link_pb2.LinkRequest()
        try:
            request.ParseFromString(message)
        except DecodeError as error:
            raise RemoteProtocolError("malformed link request", peer) from error
        certificate = self.authority.issue_link_certificate(request.public_key, peer)
        ticket = self.office.issue(peer, math.ceil(time.time() + LINK_CERTIFICATE_S))
        logger.debug("link granted peer=%s", peer)
        return link_pb2.LinkResponse(
            certificate=certificate,
            authority=self.authority.certificate_der,
            pipe_secret=ticket.secret,
            pipe_token=ticket.token,
            candidates=self._encode_candidates(),
            relays=_encode_offers(self._terms.relays(peer)),
            public_hosts=list(self._terms.public_hosts())[:MAX_PUBLIC_HOSTS],
            native_port=self._terms.native_port,
            valid_s=int(LINK_CERTIFICATE_S),
        ).SerializeToString()

    def _encode_candidates(self) -> list[link_pb2.Candidate]:
        own = self._terms.candidates()[:MAX_CANDIDATES]
        return [link_pb2.Candidate(host=c.host, port=c.port, kind=_KINDS[c.kind]) for c in own]


def _decode_candidates(messages: Sequence[link_pb2.Candidate]) -> tuple[Candidate, ...]:
    """What a peer says of its addresses, without what cannot be dialled."""
    kinds = {wire: kind for kind, wire in _KINDS.items()}
    candidates = []
    for message in messages[:MAX_CANDIDATES]:
        try:
            host = str(ipaddress.ip_address(message.host))
        except ValueError:
            continue
        if 0 < message.port < 1 << 16 and message.kind in kinds:
            candidates.append(Candidate(host, message.port, kinds[message.kind]))
    return tuple(candidates)


def _encode_offers(offers: Sequence[RelayOffer]) -> list[link_pb2.RelayOffer]:
    now = time.monotonic()
    return [
        link_pb2.RelayOffer(address=str(offer.address), token=offer.token, valid_s=int(offer.expires_at - now))
        for offer in offers[:MAX_RELAY_OFFERS]
        if offer.expires_at > now
    ]


def _decode_offers(messages: Sequence[link_pb2.RelayOffer]) -> tuple[RelayOffer, ...]:
    """A peer's relays, without what cannot be dialled."""
    now, offers = time.monotonic(), []
    for message in messages[:MAX_RELAY_OFFERS]:
        try:
            address = PeerAddress.parse(message.address)
        except AddressError:
            continue
        if address.is_tcp and address.peer_id is not None and 0 < len(message.token) <= MAX_RELAY_TOKEN:
            offers.append(RelayOffer(address, message.token, now + min(message.valid_s, LINK_CERTIFICATE_S)))
    return tuple(offers)
