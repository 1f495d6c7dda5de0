"""Signed envelopes and peer records: what is proven, and what forgers get."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import identity_pb2
from lattica.errors import RemoteProtocolError
from lattica.identity import (
    IdentityKey,
    PeerAddress,
    PeerRecord,
    SealedPayload,
    seal,
    seal_peer_record,
    unseal,
    unseal_peer_record,
)
from lattica.identity.envelope import (
    MAX_ENVELOPE,
    MAX_RECORD_ADDRESSES,
    PEER_RECORD_CODEC,
    PEER_RECORD_DOMAIN,
)
from lattica.identity.varint import encode_varint

ALICE = IdentityKey.from_seed(b"a" * 32)
MALLORY = IdentityKey.from_seed(b"m" * 32)
ADDRESS = PeerAddress.parse("/ip4/192.0.2.1/tcp/4001").to_bytes()


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=200))
def test_an_envelope_gives_back_what_was_sealed_and_by_whom(domain: bytes, kind: bytes, payload: bytes) -> None:
    opened = unseal(seal(ALICE, domain, kind, payload), domain)
    assert opened == SealedPayload(signer=ALICE.peer_id, payload_type=kind, payload=payload)


def test_the_signature_covers_what_rfc_0002_says() -> None:
    """Domain, payload type and payload, each behind its length as a varint; field numbers 1, 2, 3 and 5."""
    message = identity_pb2.SignedEnvelope.FromString(seal(ALICE, b"domain", b"\x03\x01", b"payload" * 30))
    signed = b"\x06domain" + b"\x02\x03\x01" + encode_varint(210) + b"payload" * 30
    ALICE.public_key.verify(message.signature, signed)
    assert [field.number for field, _ in message.ListFields()] == [1, 2, 3, 5]


def test_an_envelope_means_nothing_in_another_domain() -> None:
    with pytest.raises(RemoteProtocolError, match="wrong signature"):
        unseal(seal(ALICE, b"store", b"", b"payload"), b"dht")


def test_bytes_do_not_move_between_the_signed_fields() -> None:
    """Lengths are signed: the same bytes cut in another place are another statement."""
    message = identity_pb2.SignedEnvelope.FromString(seal(ALICE, b"domain", b"ab", b"cd"))
    message.payload_type, message.payload = b"abc", b"d"
    with pytest.raises(RemoteProtocolError, match="wrong signature"):
        unseal(message.SerializeToString(), b"domain")


@given(st.binary(max_size=20), st.data())
def test_a_changed_field_breaks_the_signature(payload: bytes, data: st.DataObject) -> None:
    message = identity_pb2.SignedEnvelope.FromString(seal(ALICE, b"domain", b"kind", payload))
    field = data.draw(st.sampled_from(["payload", "payload_type", "signature"]))
    before = getattr(message, field)
    setattr(message, field, data.draw(st.binary(max_size=80).filter(lambda value: value != before)))
    with pytest.raises(RemoteProtocolError):
        unseal(message.SerializeToString(), b"domain")


def test_another_key_in_the_envelope_is_refused() -> None:
    message = identity_pb2.SignedEnvelope.FromString(seal(ALICE, b"domain", b"", b"payload"))
    message.public_key.data = MALLORY.public_key.public_bytes_raw()
    with pytest.raises(RemoteProtocolError, match="wrong signature"):
        unseal(message.SerializeToString(), b"domain")


@pytest.mark.parametrize(
    ("key_type", "data", "reason"),
    [
        (identity_pb2.KEY_TYPE_RSA, bytes(32), "not Ed25519"),
        (identity_pb2.KEY_TYPE_SECP256K1, bytes(33), "not Ed25519"),
        (identity_pb2.KEY_TYPE_ED25519, bytes(31), "malformed key"),
        (identity_pb2.KEY_TYPE_ED25519, b"", "malformed key"),
    ],
)
def test_an_unusable_key_is_refused(key_type: identity_pb2.KeyType.ValueType, data: bytes, reason: str) -> None:
    message = identity_pb2.SignedEnvelope.FromString(seal(ALICE, b"domain", b"", b"payload"))
    message.public_key.type, message.public_key.data = key_type, data
    with pytest.raises(RemoteProtocolError, match=reason):
        unseal(message.SerializeToString(), b"domain")


def test_an_oversized_envelope_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RemoteProtocolError, match=str(MAX_ENVELOPE)):
        unseal(b"\xff" * (MAX_ENVELOPE + 1), b"domain")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise_anything_else(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unseal_peer_record(raw)


@given(st.data())
def test_a_damaged_record_never_raises_anything_else_and_never_lies(data: st.DataObject) -> None:
    """Cut, extended and flipped anywhere: refused, or, where the damage is outside what is signed, the same record."""
    sound = seal_peer_record(ALICE, 7, (ADDRESS,))
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) + data.draw(st.binary(max_size=10))
    try:
        record = unseal_peer_record(raw)
    except RemoteProtocolError:
        return
    assert record == PeerRecord(peer_id=ALICE.peer_id, seq=7, addresses=(ADDRESS,))


@given(st.integers(0, 2**64 - 1), st.lists(st.binary(max_size=30), max_size=5))
def test_a_peer_record_round_trips(seq: int, addresses: list[bytes]) -> None:
    record = unseal_peer_record(seal_peer_record(ALICE, seq, tuple(addresses)))
    assert record == PeerRecord(peer_id=ALICE.peer_id, seq=seq, addresses=tuple(addresses))


def test_a_record_about_another_peer_is_refused_and_its_signer_named() -> None:
    record = identity_pb2.PeerRecord(peer_id=ALICE.peer_id.raw, seq=1)
    forged = seal(MALLORY, PEER_RECORD_DOMAIN, PEER_RECORD_CODEC, record.SerializeToString())
    with pytest.raises(RemoteProtocolError, match="signed by another peer") as caught:
        unseal_peer_record(forged)
    assert caught.value.peer_id == str(MALLORY.peer_id)


def test_a_payload_of_another_type_is_no_peer_record() -> None:
    record = identity_pb2.PeerRecord(peer_id=ALICE.peer_id.raw, seq=1)
    with pytest.raises(RemoteProtocolError, match="holds no peer record"):
        unseal_peer_record(seal(ALICE, PEER_RECORD_DOMAIN, b"\x03\x02", record.SerializeToString()))


@given(st.binary(max_size=100))
def test_a_signed_payload_that_is_no_record_never_raises_anything_else(payload: bytes) -> None:
    """The signature is right, so that the inner parser meets the bytes."""
    envelope = seal(MALLORY, PEER_RECORD_DOMAIN, PEER_RECORD_CODEC, payload)
    with pytest.raises(RemoteProtocolError):
        unseal_peer_record(envelope)


def test_a_record_with_too_many_addresses_is_cut() -> None:
    record = unseal_peer_record(seal_peer_record(ALICE, 1, (ADDRESS,) * (MAX_RECORD_ADDRESSES + 10)))
    assert record.addresses == (ADDRESS,) * MAX_RECORD_ADDRESSES
