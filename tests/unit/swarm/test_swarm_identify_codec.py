"""Identify messages: what is taken from a peer, and what a hostile one gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import identify_pb2
from lattica.errors import RemoteProtocolError
from lattica.identity import IdentityKey, PeerAddress, seal_peer_record
from lattica.swarm.identify import (
    MAX_ADDRESSES,
    MAX_AGENT,
    MAX_IDENTIFY,
    MAX_PROTOCOL_NAME,
    MAX_PROTOCOLS,
    PeerInfo,
    decode_identify,
    encode_identify,
)

ALICE = IdentityKey.from_seed(b"a" * 32)
MALLORY = IdentityKey.from_seed(b"m" * 32)
LISTENS = PeerAddress.parse("/ip4/192.0.2.1/tcp/4001")
SEEN = PeerAddress.parse("/ip4/198.51.100.7/tcp/50000")


def message(**fields: object) -> bytes:
    return identify_pb2.Identify(**fields).SerializeToString()  # type: ignore[arg-type]


def ours() -> bytes:
    return encode_identify(
        ALICE, agent="lattica/1", protocols=["/b/1", "/a/1"], addresses=[LISTENS], observed=SEEN, seq=3
    )


def test_our_own_message_round_trips() -> None:
    assert decode_identify(ALICE.peer_id, ours()) == PeerInfo(
        peer_id=ALICE.peer_id,
        agent="lattica/1",
        protocols=frozenset({"/a/1", "/b/1"}),
        addresses=(LISTENS.with_peer(ALICE.peer_id),),
        observed=SEEN,
    )


def test_signed_addresses_win_over_unsigned_ones() -> None:
    record = seal_peer_record(ALICE, 1, (LISTENS.to_bytes(),))
    info = decode_identify(ALICE.peer_id, message(listen_addrs=[SEEN.to_bytes()], signed_peer_record=record))
    assert [address.text for address in info.addresses] == [LISTENS.text]


def test_a_peer_without_a_signed_record_is_understood() -> None:
    info = decode_identify(ALICE.peer_id, message(listen_addrs=[LISTENS.to_bytes()]))
    assert [address.text for address in info.addresses] == [LISTENS.text]
    assert info.observed is None


def test_another_peers_record_is_refused() -> None:
    record = seal_peer_record(MALLORY, 1, (LISTENS.to_bytes(),))
    with pytest.raises(RemoteProtocolError, match="another peer's record"):
        decode_identify(ALICE.peer_id, message(signed_peer_record=record))


def test_addresses_that_we_do_not_understand_are_left_out() -> None:
    raw = [b"\xff\xff\xff", LISTENS.to_bytes(), b"", b"\x90\x03\x04/a/b"]
    info = decode_identify(ALICE.peer_id, message(listen_addrs=raw, observed_addr=b"\x01garbage"))
    assert [address.text for address in info.addresses] == [LISTENS.text]
    assert info.observed is None


def test_lists_and_texts_are_cut() -> None:
    info = decode_identify(
        ALICE.peer_id,
        message(
            listen_addrs=[LISTENS.to_bytes()] * (MAX_ADDRESSES + 1),
            protocols=[f"/{number}" for number in range(MAX_PROTOCOLS)] + ["/one-too-many"],
            agent_version="x" * (MAX_AGENT + 1),
        ),
    )
    assert len(info.addresses) == MAX_ADDRESSES
    assert len(info.protocols) == MAX_PROTOCOLS
    assert info.agent == "x" * MAX_AGENT


def test_a_protocol_with_an_absurd_name_is_left_out() -> None:
    """Thousands of peers are remembered: what each may occupy is bounded."""
    info = decode_identify(ALICE.peer_id, message(protocols=["/a/1", "/" + "x" * MAX_PROTOCOL_NAME]))
    assert info.protocols == {"/a/1"}


def test_an_agent_cannot_forge_log_lines_or_terminal_colours() -> None:
    info = decode_identify(ALICE.peer_id, message(agent_version="nice\r\nERROR forged \x1b[31m\u202eevil"))
    assert info.agent == "niceERROR forged [31mevil"


@pytest.mark.parametrize("field", [3, 5, 6])
def test_text_that_is_not_utf8_does_no_harm(field: int) -> None:
    """protobuf hands out bytes then. An agent like that once stopped the whole swarm."""
    raw = bytes([field << 3 | 2, 4]) + b"\xff\xfeok"
    info = decode_identify(ALICE.peer_id, raw)
    assert all(isinstance(text, str) for text in (info.agent, *info.protocols))


def test_an_agent_that_is_not_utf8_keeps_its_readable_part() -> None:
    assert decode_identify(ALICE.peer_id, b"\x32\x04\xff\xfeok").agent == "��ok"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_anything_else(raw: bytes) -> None:
    try:
        info = decode_identify(ALICE.peer_id, raw)
    except RemoteProtocolError:
        return
    assert info.peer_id == ALICE.peer_id


@given(st.data())
def test_a_damaged_message_never_raises_anything_else(data: st.DataObject) -> None:
    sound = encode_identify(ALICE, agent="a", protocols=["/a/1"], addresses=[LISTENS], observed=SEEN, seq=3)
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        info = decode_identify(ALICE.peer_id, bytes(damaged))
    except RemoteProtocolError:
        return
    assert str(info)


@given(
    st.lists(st.binary(max_size=30), max_size=4),
    st.lists(st.binary(max_size=10), max_size=4),
    st.binary(max_size=30),
    st.binary(max_size=30),
)
def test_hostile_fields_never_raise_anything_else(
    addresses: list[bytes], protocols: list[bytes], agent: bytes, observed: bytes
) -> None:
    """Well-formed protobuf around arbitrary field values, so that they reach our own code."""
    raw = b"".join(
        bytes([number << 3 | 2, len(value)]) + value
        for number, values in ((2, addresses), (3, protocols), (4, [observed]), (6, [agent]))
        for value in values
    )
    info = decode_identify(ALICE.peer_id, raw)
    assert info.agent.isprintable()
    for address in info.addresses:
        assert address.peer_id == ALICE.peer_id
        assert address.to_bytes()


def test_our_own_message_fits_what_peers_read() -> None:
    addresses = [PeerAddress.tcp("2001:db8::1", port) for port in range(1, MAX_ADDRESSES + 1)]
    protocols = [f"/lattica/some-protocol-{number}/1.0.0" for number in range(50)]
    raw = encode_identify(ALICE, agent="lattica/1", protocols=protocols, addresses=addresses, observed=SEEN, seq=1)
    assert len(raw) < 8192 < MAX_IDENTIFY
