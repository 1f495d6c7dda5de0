"""Relay messages: what ours look like on the wire, and what is read from a stranger's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import circuit_pb2
from lattica.errors import RemoteProtocolError
from lattica.identity import IdentityKey, PeerAddress, unseal
from lattica.swarm.relay_wire import (
    MAX_RELAY_ADDRESSES,
    MAX_RELAY_MESSAGE,
    VOUCHER_CODEC,
    VOUCHER_DOMAIN,
    CircuitLimit,
    ConnectRequest,
    RelayStatus,
    ReserveRequest,
    StatusMessage,
    decode_hop,
    decode_stop,
    encode_hop_connect,
    encode_hop_status,
    encode_reservation,
    encode_reserve,
    encode_stop_connect,
    encode_stop_status,
    framed,
)

RELAY = IdentityKey.from_seed(b"r" * 32)
ALICE = IdentityKey.from_seed(b"a" * 32).peer_id
AT = PeerAddress.parse("/ip4/192.0.2.1/tcp/4001")
LIMIT = CircuitLimit(duration=120, data=1 << 17)


def test_requests_look_as_the_specification_says() -> None:
    assert encode_reserve().hex() == "0800"
    assert encode_hop_connect(ALICE) == b"\x08\x01\x12\x28\x0a\x26" + ALICE.raw
    assert encode_hop_status(RelayStatus.OK).hex() == "08022864"
    assert encode_hop_status(RelayStatus.NO_RESERVATION, LIMIT).hex() == "0802220608781080800828cc01"
    assert encode_stop_status(RelayStatus.OK).hex() == "08012064"
    assert encode_stop_connect(ALICE, CircuitLimit()) == b"\x08\x00\x12\x28\x0a\x26" + ALICE.raw
    assert framed(b"\x08\x00") == b"\x02\x08\x00"


def test_messages_round_trip() -> None:
    assert decode_hop(encode_reserve(), ALICE) == ReserveRequest()
    assert decode_hop(encode_hop_connect(ALICE), ALICE) == ConnectRequest(peer=ALICE)
    assert decode_stop(encode_stop_connect(ALICE, LIMIT), ALICE) == ConnectRequest(peer=ALICE, limit=LIMIT)
    for status in RelayStatus:
        assert decode_hop(encode_hop_status(status, LIMIT), ALICE) == StatusMessage(status=status, limit=LIMIT)
        assert decode_stop(encode_stop_status(status), ALICE) == StatusMessage(status=status)
        assert status.words


def test_a_reservation_carries_addresses_and_a_voucher_signed_for_its_owner() -> None:
    raw = encode_reservation(RELAY, ALICE, 1_700_000_000, [AT], LIMIT)
    assert decode_hop(raw, RELAY.peer_id) == StatusMessage(
        status=RelayStatus.OK, limit=LIMIT, expire=1_700_000_000, addresses=(AT.with_peer(RELAY.peer_id),)
    )
    message = circuit_pb2.HopMessage.FromString(raw)
    sealed = unseal(message.reservation.voucher, VOUCHER_DOMAIN)
    assert (sealed.signer, sealed.payload_type) == (RELAY.peer_id, VOUCHER_CODEC)
    voucher = circuit_pb2.ReservationVoucher.FromString(sealed.payload)
    assert (voucher.relay, voucher.peer, voucher.expiration) == (RELAY.peer_id.raw, ALICE.raw, 1_700_000_000)


@pytest.mark.parametrize(("length", "fit"), [(10, MAX_RELAY_ADDRESSES), (60, 12)])
def test_a_reservation_with_many_addresses_fits_into_one_message(length: int, fit: int) -> None:
    name = ".".join(letter * length for letter in "abcd")
    long_names = [PeerAddress.parse(f"/dns4/{name}/tcp/{port}") for port in range(1, 100)]
    raw = encode_reservation(RELAY, ALICE, 1 << 40, long_names, LIMIT)
    assert len(raw) <= MAX_RELAY_MESSAGE
    message = decode_hop(raw, RELAY.peer_id)
    assert isinstance(message, StatusMessage)
    assert len(message.addresses) == fit


def test_of_a_relays_addresses_so_many_are_taken_and_strange_ones_left() -> None:
    reservation = circuit_pb2.RelayReservation(expire=1, addrs=[b"\xff\xff", AT.to_bytes()] + [AT.to_bytes()] * 50)
    raw = circuit_pb2.HopMessage(
        type=circuit_pb2.HopMessage.STATUS, status=circuit_pb2.RELAY_STATUS_OK, reservation=reservation
    ).SerializeToString()
    message = decode_hop(raw, ALICE)
    assert isinstance(message, StatusMessage)
    assert message.addresses == (AT,) * (MAX_RELAY_ADDRESSES - 1)


@pytest.mark.parametrize("decode", [decode_hop, decode_stop])
@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x08\x63", b"\x12\x02\x0a\x00"])
def test_what_is_no_message_breaks_the_protocol(decode: object, raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(raw, ALICE)  # type: ignore[operator]
    assert caught.value.peer_id == str(ALICE)


def test_a_status_that_we_do_not_know_is_none() -> None:
    assert decode_hop(b"\x08\x02\x28\x07", ALICE) == StatusMessage(status=None)
    assert decode_hop(b"\x08\x02", ALICE) == StatusMessage(status=None)
    assert decode_stop(b"\x08\x01\x20\x00", ALICE) == StatusMessage(status=None)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(raw: bytes) -> None:
    for decode in (decode_hop, decode_stop):
        try:
            decode(raw, ALICE)
        except RemoteProtocolError:
            continue
