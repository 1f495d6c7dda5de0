"""Links: what is granted to whom, and what a peer's answer may and may not make us believe."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import cast

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import link_pb2
from lattica.errors import NetworkError, RemoteProtocolError
from lattica.identity import IdentityKey, PeerId
from lattica.identity.authority import LINK_CERTIFICATE_S
from lattica.mesh import Candidate, CandidateKind
from lattica.mesh.links import MAX_CANDIDATES, MAX_LINK_MESSAGE, MAX_REFUSAL, RENEW_BEFORE_S, Links, RelayOffer
from lattica.mesh.preface import MAX_TOKEN
from lattica.swarm import Swarm

ALICE, BOB, CAROL = (IdentityKey.from_seed(bytes((number,)) * 32) for number in (1, 2, 3))
HERE = Candidate("192.0.2.7", 4737, CandidateKind.HOST)
PUBLIC = Candidate("2001:db8::7", 4737, CandidateKind.PUBLIC)
HOST = link_pb2.CANDIDATE_KIND_HOST

Grant = Callable[[PeerId, bytes], Awaitable[bytes]]


class Terms:
    """What a node says of itself."""

    def __init__(self, *candidates: Candidate) -> None:
        self._candidates = candidates
        self.offers: list[RelayOffer] = []
        self.hosts: list[str] = []
        self.native = 0

    @property
    def native_port(self) -> int:
        return self.native

    def candidates(self) -> Sequence[Candidate]:
        return self._candidates

    def relays(self, client: PeerId) -> Sequence[RelayOffer]:
        return self.offers

    def public_hosts(self) -> Collection[str]:
        return self.hosts


class Wire:
    """Alice's swarm, connected to Bob's: her requests go to his handler, and the answer may change on the way."""

    def __init__(self) -> None:
        self.grant: Grant
        self.bob_terms: Terms
        self.mangle: Callable[[link_pb2.LinkResponse], None] = lambda response: None
        self.raw: bytes | None = None

    def serve_requests(self, protocol: str, handler: Grant, limit: int) -> None:
        self.grant = handler

    async def request(self, peer: PeerId, protocol: str, message: bytes, limit: int) -> bytes:
        assert len(message) <= limit == MAX_LINK_MESSAGE
        if self.raw is not None:
            return self.raw
        response = link_pb2.LinkResponse.FromString(await self.grant(ALICE.peer_id, message))
        self.mangle(response)
        return response.SerializeToString()


def connected(*candidates: Candidate) -> tuple[Links, Links, Wire]:
    """Alice's side, Bob's, who says that he listens at ``candidates``, and what is between them."""
    wire = Wire()
    swarm = cast(Swarm, wire)
    wire.bob_terms = Terms(*candidates)
    alice, bob = Links(ALICE, swarm, Terms()), Links(BOB, swarm, wire.bob_terms)
    bob.serve()
    return alice, bob, wire


async def test_a_link_names_the_client_pins_the_server_and_opens_pipes() -> None:
    alice, bob, _ = connected(HERE, PUBLIC)
    link = await alice.request(BOB.peer_id)
    certificate = x509.load_pem_x509_certificate(link.tls.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [ALICE.peer_id.dns_label]
    assert link.tls.authority == bob.authority.server.authority
    assert link.candidates == (HERE, PUBLIC)
    assert bob.office.recognise(link.ticket.token, time.time()) == (ALICE.peer_id, link.ticket.secret)
    assert len(link.ticket.token) <= MAX_TOKEN


async def test_a_link_is_fresh_until_it_is_time_for_the_next() -> None:
    alice, _, _ = connected()
    link = await alice.request(BOB.peer_id)
    assert link.is_fresh(link.expires_at - RENEW_BEFORE_S - 1)
    assert not link.is_fresh(link.expires_at - RENEW_BEFORE_S)


async def test_a_ticket_dies_with_its_link() -> None:
    alice, bob, _ = connected()
    link = await alice.request(BOB.peer_id)
    with pytest.raises(NetworkError, match="expired"):
        bob.office.recognise(link.ticket.token, time.time() + LINK_CERTIFICATE_S + 2)


@pytest.mark.parametrize("valid_s", [0, 1, (1 << 32) - 1])
async def test_a_server_cannot_make_a_link_last_longer_than_we_let_it(valid_s: int) -> None:
    alice, _, wire = connected()
    wire.mangle = lambda response: setattr(response, "valid_s", valid_s)
    link = await alice.request(BOB.peer_id)
    assert link.expires_at <= time.monotonic() + min(valid_s, LINK_CERTIFICATE_S)


@pytest.mark.parametrize(("said", "taken"), [(0, 0), (40000, 40000), (1 << 16, 0), ((1 << 32) - 1, 0)])
async def test_a_link_tells_the_native_port_if_it_can_be_one(said: int, taken: int) -> None:
    alice, _, wire = connected()
    wire.bob_terms.native = said
    assert (await alice.request(BOB.peer_id)).native_port == taken


async def test_a_peer_of_before_there_were_native_ports_has_none() -> None:
    alice, _, wire = connected()
    wire.bob_terms.native = 40000
    wire.mangle = lambda response: response.ClearField("native_port")
    assert (await alice.request(BOB.peer_id)).native_port == 0


async def test_no_more_candidates_are_sent_than_are_taken() -> None:
    many = [Candidate("192.0.2.7", port, CandidateKind.HOST) for port in range(1, 200)]
    alice, _, wire = connected(*many)
    received: list[int] = []
    wire.mangle = lambda response: received.append(len(response.candidates))
    link = await alice.request(BOB.peer_id)
    assert received == [MAX_CANDIDATES]
    assert link.candidates == tuple(many[:MAX_CANDIDATES])


async def test_candidates_that_cannot_be_dialled_are_left_out() -> None:
    alice, _, wire = connected(HERE)
    nonsense = [
        link_pb2.Candidate(host="localhost", port=1, kind=HOST),
        link_pb2.Candidate(host="192.0.2.256", port=1, kind=HOST),
        link_pb2.Candidate(host="", port=1, kind=HOST),
        link_pb2.Candidate(host="192.0.2.1", port=0, kind=HOST),
        link_pb2.Candidate(host="192.0.2.1", port=65536, kind=HOST),
        link_pb2.Candidate(host="192.0.2.1", port=1),
    ]
    wire.mangle = lambda response: response.candidates.extend(nonsense)
    assert (await alice.request(BOB.peer_id)).candidates == (HERE,)


async def test_only_so_many_candidates_are_taken() -> None:
    alice, _, wire = connected()
    many = [link_pb2.Candidate(host="192.0.2.1", port=port, kind=HOST) for port in range(1, 200)]
    wire.mangle = lambda response: response.candidates.extend(many)
    assert len((await alice.request(BOB.peer_id)).candidates) == MAX_CANDIDATES


async def test_a_refusal_is_told_without_what_a_terminal_might_obey() -> None:
    alice, _, wire = connected()
    wire.mangle = lambda response: setattr(response, "refusal", "full\x1b[2J\n" + "x" * 10_000)
    with pytest.raises(NetworkError, match="the peer refuses a link: full") as caught:
        await alice.request(BOB.peer_id)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < MAX_REFUSAL + 50


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("certificate", b""),
        ("certificate", b"\x30\x03\x02\x01\x01"),
        ("authority", b""),
        ("pipe_secret", bytes(31)),
        ("pipe_secret", bytes(33)),
        ("pipe_token", b""),
        ("pipe_token", bytes(MAX_TOKEN + 1)),
    ],
)
async def test_an_answer_without_what_a_link_needs_breaks_the_protocol(field: str, value: bytes) -> None:
    alice, _, wire = connected()
    wire.mangle = lambda response: setattr(response, field, value)
    with pytest.raises(RemoteProtocolError) as caught:
        await alice.request(BOB.peer_id)
    assert caught.value.peer_id == str(BOB.peer_id)


async def test_a_certificate_for_somebody_elses_key_breaks_the_protocol() -> None:
    alice, _, wire = connected()
    carol, _, elsewhere = connected()
    theirs: list[bytes] = []
    elsewhere.mangle = lambda response: theirs.append(response.certificate)
    await carol.request(BOB.peer_id)
    wire.mangle = lambda response: setattr(response, "certificate", theirs[0])
    with pytest.raises(RemoteProtocolError):
        await alice.request(BOB.peer_id)


async def test_another_nodes_authority_breaks_the_protocol() -> None:
    alice, _, wire = connected()
    other = Links(CAROL, cast(Swarm, Wire()), Terms()).authority.certificate_der
    wire.mangle = lambda response: setattr(response, "authority", other)
    with pytest.raises(RemoteProtocolError, match="malformed certificates"):
        await alice.request(BOB.peer_id)


@given(st.binary(max_size=400))
async def test_arbitrary_answers_are_no_link(answer: bytes) -> None:
    alice, _, wire = connected()
    wire.raw = answer
    with pytest.raises(NetworkError):
        await alice.request(BOB.peer_id)


@given(st.binary(max_size=400))
async def test_arbitrary_requests_get_no_link(request: bytes) -> None:
    _, _, wire = connected()
    with pytest.raises(RemoteProtocolError) as caught:
        await wire.grant(ALICE.peer_id, request)
    assert caught.value.peer_id == str(ALICE.peer_id)
