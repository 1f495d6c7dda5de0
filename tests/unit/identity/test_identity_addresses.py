"""Multiaddrs: what a TCP dialler reads from them, round trips, and hostile input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import AddressError
from lattica.identity import IdentityKey, PeerAddress, PeerId
from lattica.identity.addresses import MAX_ADDRESS_BYTES

PEER = IdentityKey.from_seed(bytes(32)).peer_id
RELAY = IdentityKey.from_seed(bytes(31) + b"\1").peer_id


@pytest.mark.parametrize(
    ("text", "host", "port", "raw"),
    [
        # The binary form as in https://github.com/multiformats/multiaddr.
        ("/ip4/127.0.0.1/tcp/4001", "127.0.0.1", 4001, "047f000001060fa1"),
        ("/ip6/2001:db8::1/tcp/1", "2001:db8::1", 1, "2920010db8000000000000000000000001060001"),
        ("/dns4/node.example.com/tcp/443", "node.example.com", 443, "36106e6f64652e6578616d706c652e636f6d0601bb"),
    ],
)
def test_a_tcp_address_says_where_to_dial(text: str, host: str, port: int, raw: str) -> None:
    address = PeerAddress.parse(f"{text}/p2p/{PEER}")
    assert address == PeerAddress(text, host, port, PEER)
    assert address.is_tcp
    assert address.to_bytes().hex() == raw
    assert PeerAddress.from_bytes(bytes.fromhex(raw)).with_peer(PEER) == address
    assert str(address) == f"{text}/p2p/{PEER}"
    assert PeerAddress.tcp(host, port).host == host


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "/ip4/192.0.2.1/tcp/4001/ws",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p-circuit",
        "/dnsaddr/bootstrap.example.com",
        "/unix/tmp/node.sock",
        "/memory/7",
        "/ip4/192.0.2.1/tcp/0",
    ],
)
def test_other_addresses_are_kept_but_not_dialled(text: str) -> None:
    address = PeerAddress.parse(f"{text}/p2p/{PEER}") if "unix" not in text else PeerAddress.parse(text)
    assert address.text == text
    assert not address.is_tcp
    again = PeerAddress.from_bytes(address.to_bytes())
    assert (again.text, again.host, again.port) == (address.text, address.host, address.port)


def test_the_peer_behind_a_relay_is_the_last_one() -> None:
    address = PeerAddress.parse(f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    assert address.peer_id == PEER
    assert address.text.endswith(f"/p2p/{RELAY}/p2p-circuit")


def test_an_address_may_name_a_peer_alone() -> None:
    address = PeerAddress.parse(f"/p2p/{PEER}")
    assert (address.peer_id, address.text, address.is_tcp) == (PEER, "", False)
    assert str(address) == f"/p2p/{PEER}"


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "/ip4/192.0.2.1/tcp/80"),
        ("fe80::1%eth0", "/ip6/fe80::1/tcp/80"),
        ("2001:DB8:0::1", "/ip6/2001:db8::1/tcp/80"),
        ("::ffff:192.0.2.1", "/ip4/192.0.2.1/tcp/80"),
        ("localhost", "/dns/localhost/tcp/80"),
    ],
)
def test_sockets_addresses_become_multiaddrs(host: str, text: str) -> None:
    address = PeerAddress.tcp(host, 80, PEER)
    assert address.text == text
    assert PeerAddress.parse(str(address)) == address


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_and_port_round_trips(ip: object, port: int) -> None:
    """In bytes; a few old IPv6 forms (``::192.0.2.1``) have two spellings."""
    address = PeerAddress.tcp(str(ip), port, PEER)
    for again in (PeerAddress.parse(str(address)), PeerAddress.from_bytes(address.to_bytes())):
        assert (again.to_bytes(), again.port) == (address.to_bytes(), port)
        assert again.is_tcp


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "//",
        "x",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1:4001",
        "/ip4/300.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp",
        "/ip4/127.0.0.1/tcp/1/p2p/Qmnot-a-peer",
        f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}x",
        "/nonsense/1",
        "/dns4//tcp/1",
        "/dns4/a\nb/tcp/1",
        "/dns4/\x00/tcp/1",
        "/dns4/" + "a" * 64 + "/tcp/1",
        "/ip4/127.0.0.1/tcp/1" * 1000,
        "\ud800",
    ],
)
def test_a_malformed_address_is_refused_in_one_short_sentence(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        PeerAddress.parse(text)
    assert len(str(caught.value)) < 400


def test_an_oversized_binary_address_is_refused() -> None:
    with pytest.raises(AddressError, match="too long"):
        PeerAddress.from_bytes(bytes(MAX_ADDRESS_BYTES + 1))


def check_round_trip(address: PeerAddress) -> None:
    """What a peer told us goes out again, to others, in both forms; the IPv6 text may be written in another way."""
    again = PeerAddress.from_bytes(address.to_bytes())
    assert again.to_bytes() == address.to_bytes()
    assert "\n" not in str(address)
    if address.text:
        assert PeerAddress.parse(str(address)).to_bytes() == address.to_bytes()


PROTOCOLS = "ip4 ip6 tcp udp dns dns4 p2p p2p-circuit unix quic-v1 ws ip6zone onion3 http-path certhash memory sni"
VALUES = ("/", "127.0.0.1", "::1", "1", "99999", "a.b", str(PEER), "%2f", "..", "é", "\n", "")
pieces = st.sampled_from((*PROTOCOLS.split(), *VALUES))


@given(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=10).map("/".join).map("/".__add__)))
def test_arbitrary_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = PeerAddress.parse(text)
    except AddressError:
        return
    if address.text:
        check_round_trip(address)


# Codes of protocols with values of every kind: fixed, varint length, none, IDs, paths, names.
codes = st.sampled_from([4, 41, 42, 6, 273, 53, 54, 55, 56, 421, 290, 400, 445, 449, 460, 461, 466, 480, 481, 777])


@st.composite
def hostile_addresses(draw: st.DrawFn) -> bytes:
    """Multiaddr codes followed by bytes that seldom fit them."""
    raw = b""
    for _ in range(draw(st.integers(1, 4))):
        code = draw(codes)
        raw += bytes([code]) if code < 128 else bytes([code & 0x7F | 0x80, code >> 7])
        raw += draw(
            st.one_of(
                st.binary(max_size=20),
                st.binary(max_size=20).map(lambda value: bytes([len(value)]) + value),
                st.just(bytes([len(PEER.raw)]) + PEER.raw),
            )
        )
    return raw


@given(st.one_of(st.binary(max_size=60), hostile_addresses()))
def test_arbitrary_bytes_are_an_address_or_an_address_error(raw: bytes) -> None:
    """Including unix paths and IPv6 zones, which the multiaddr package writes in a way it does not read back."""
    try:
        address = PeerAddress.from_bytes(raw)
    except AddressError:
        return
    if address.text:
        check_round_trip(address)


def test_an_address_whose_text_cannot_be_read_back_is_refused() -> None:
    """It would travel as far as the next signed record and fail there, in a place that expects no error."""
    with pytest.raises(AddressError, match="no text form"):
        PeerAddress.from_bytes(b"\x90\x03\x04/a/b")


def test_with_peer_changes_nothing_but_the_peer() -> None:
    address = PeerAddress.parse("/ip4/192.0.2.1/tcp/1")
    other: PeerId = RELAY
    assert address.with_peer(other) == PeerAddress.parse(f"/ip4/192.0.2.1/tcp/1/p2p/{other}")


@pytest.mark.parametrize(
    "way", [f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}", f"/dns4/relay.example.com/tcp/443/ws/p2p/{RELAY}"]
)
@pytest.mark.parametrize("target", ["", f"/p2p/{PEER}"])
def test_a_circuit_address_says_which_relay_it_leads_through(way: str, target: str) -> None:
    address = PeerAddress.parse(f"{way}/p2p-circuit{target}")
    relay = PeerAddress.parse(way)
    assert address.is_circuit
    assert not address.is_tcp
    assert address.relay == relay
    assert relay.peer_id == RELAY
    assert address.peer_id == (PEER if target else None)
    assert str(address) == f"{way}/p2p-circuit{target}"
    made = PeerAddress.circuit(relay)
    assert (made if not target else made.with_peer(PEER)) == address
    assert PeerAddress.from_bytes(address.to_bytes()) == made, "the bytes leave the target out, as always"


def test_a_relay_may_be_named_without_its_address() -> None:
    """Then only somebody who is connected to it can use the circuit."""
    address = PeerAddress.parse(f"/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    assert address.relay == PeerAddress("", "", 0, RELAY)
    assert address.peer_id == PEER


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/p2p-circuit/p2p/{RELAY}",
        f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/ip4/192.0.2.2/tcp/2/p2p/{PEER}",
        f"/ip4/192.0.2.1/tcp/1/p2p-circuit/p2p/{PEER}",
        "/p2p-circuit",
    ],
)
def test_a_circuit_through_several_relays_or_an_unnamed_one_is_none(text: str) -> None:
    address = PeerAddress.parse(text)
    assert address.relay is None
    assert not address.is_circuit
    assert not address.is_tcp
    assert str(address) == text


@pytest.mark.parametrize("relay", ["/ip4/192.0.2.1/tcp/1", f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"])
def test_a_circuit_is_not_made_from_what_is_no_relay(relay: str) -> None:
    with pytest.raises(AddressError, match="relay"):
        PeerAddress.circuit(PeerAddress.parse(relay))
