"""Records and messages about replicas: what is signed is what is read, and nothing else is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_records import NAME, key, peer, record

from lattica._proto import replicas_pb2
from lattica.errors import RemoteProtocolError, UsageError
from lattica.identity import seal
from lattica.rpc.names import MAX_NAME_BYTES, check_name
from lattica.rpc.replicas.answers import read_answer
from lattica.rpc.replicas.book import RecordBook
from lattica.rpc.replicas.limits import MAX_ANSWER_BYTES, MAX_LOAD, MAX_OTHERS, MAX_RECORD_BYTES
from lattica.rpc.replicas.record import RECORD_DOMAIN, RECORD_TYPE, peek_record, service_key, unseal_record
from lattica.rpc.replicas.wire import (
    Answer,
    encode_answer,
    encode_goodbye,
    encode_question,
    parse_answer,
    parse_goodbye,
    parse_question,
)

names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=50)


def sealed(**changed: object) -> bytes:
    fields: dict[str, object] = {
        "name": NAME, "instance": bytes(8), "sequence": 1, "issued_at_ms": 1, "lease_ms": 30_000, "capacity": 1,
    }  # fmt: skip
    message = replicas_pb2.ServiceRecord(**(fields | changed))  # type: ignore[arg-type]
    return seal(key(1), RECORD_DOMAIN, RECORD_TYPE, message.SerializeToString())


@given(
    name=names,
    sequence=st.integers(1, 2**64 - 1),
    lease=st.floats(0, 120),
    capacity=st.integers(1, 65536),
    load=st.floats(0, 1e6),
)
def test_what_is_signed_is_what_is_read(name: str, sequence: int, lease: float, capacity: int, load: float) -> None:
    signed = record(3, name=name, sequence=sequence, lease=lease, capacity=capacity, load=load)
    assert unseal_record(signed.envelope) == signed
    assert signed.peer_id == peer(3)
    assert len(signed.envelope) <= MAX_RECORD_BYTES


def test_the_longest_name_fits_into_a_record() -> None:
    longest = record(name="n" * MAX_NAME_BYTES, sequence=2**64 - 1, lease=120, capacity=65536, load=1.5)
    assert len(longest.envelope) < MAX_RECORD_BYTES / 2
    assert unseal_record(longest.envelope) == longest


@given(st.data())
def test_a_forged_record_is_refused(data: st.DataObject) -> None:
    forged = bytearray(record().envelope)
    position = data.draw(st.integers(0, len(forged) - 1))
    forged[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = unseal_record(bytes(forged))
    except RemoteProtocolError:
        return
    assert read.envelope != record().envelope  # an unknown field was touched, at most: what it says is the same
    assert (read.peer_id, read.name, read.sequence) == (peer(1), NAME, 1)


@given(st.binary(max_size=2000))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unseal_record(noise)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": ""}, "malformed"),
        ({"name": "two words"}, "malformed"),
        ({"name": "line\nbreak"}, "malformed"),
        ({"name": "n" * (MAX_NAME_BYTES + 1)}, "malformed"),
        ({"instance": b"short"}, "instance"),
        ({"sequence": 0}, "sequence"),
        ({"lease_ms": 120_001}, "lease"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": 65_537}, "capacity"),
        ({"load": -1.0}, "load"),
        ({"load": math.nan}, "load"),
        ({"load": math.inf}, "load"),
    ],
)
def test_what_no_honest_record_says_is_refused(changed: dict[str, object], problem: str) -> None:
    unseal_record(sealed())
    with pytest.raises(RemoteProtocolError, match=problem):
        unseal_record(sealed(**changed))


def test_an_oversized_record_is_refused_before_its_signature_is_checked() -> None:
    with pytest.raises(RemoteProtocolError, match="1025 bytes"):
        unseal_record(bytes(MAX_RECORD_BYTES + 1))


def test_a_signature_for_another_protocol_is_refused() -> None:
    payload = replicas_pb2.ServiceRecord(name=NAME, instance=bytes(8), sequence=1, capacity=1).SerializeToString()
    with pytest.raises(RemoteProtocolError, match="signature"):
        unseal_record(seal(key(1), b"libp2p-peer-record", RECORD_TYPE, payload))
    with pytest.raises(RemoteProtocolError, match="no service record"):
        unseal_record(seal(key(1), RECORD_DOMAIN, b"\x03\x01", payload))


def test_our_own_load_is_brought_into_bounds() -> None:
    for load, signed in ((math.nan, 0.0), (math.inf, 0.0), (-3.0, 0.0), (1e12, MAX_LOAD)):
        assert unseal_record(record(load=load).envelope).load == signed


def test_names_that_no_service_can_have() -> None:
    check_name("llm/layers-0-7")
    check_name("Größe")
    for name in ("", " ", "a b", "a\x00", "ü" * (MAX_NAME_BYTES // 2 + 1)):
        with pytest.raises(UsageError, match="cannot be a service's name"):
            check_name(name)


def test_a_name_has_its_place_in_the_dht() -> None:
    assert service_key(NAME)[:2] == b"\x12\x20"
    assert len(service_key(NAME)) == 34
    assert service_key(NAME) != service_key(NAME + "x")


# messages


def test_messages_are_read_as_they_were_written() -> None:
    own, other = record(1).envelope, record(2).envelope
    assert parse_question(encode_question(NAME, own)).own == own
    assert parse_answer(encode_answer(own, [(other, 2.5)])) == Answer(own, ((other, 2.5),))
    assert parse_goodbye(encode_goodbye(own)) == own


def test_a_record_whose_lease_is_over_is_not_passed_on() -> None:
    assert parse_answer(encode_answer(b"", [(b"x", 0.0004), (b"y", -1.0)])).others == ()


def test_the_largest_honest_answer_is_read() -> None:
    answer = encode_answer(bytes(MAX_RECORD_BYTES), [(bytes(MAX_RECORD_BYTES), 100.0)] * MAX_OTHERS)
    assert len(parse_answer(answer).others) == MAX_OTHERS


def test_an_answer_of_ten_thousand_records_is_refused_unread() -> None:
    flood = encode_answer(b"", [(record().envelope, 30.0)] * 10_000)
    with pytest.raises(RemoteProtocolError, match=f"{MAX_ANSWER_BYTES} allowed"):
        parse_answer(flood)
    with pytest.raises(RemoteProtocolError, match="33 records"):
        parse_answer(encode_answer(b"", [(b"x", 1.0)] * 33))


@given(st.binary(max_size=200))
def test_noise_is_no_message(noise: bytes) -> None:
    for parse in (parse_question, parse_answer, parse_goodbye):
        try:
            parse(noise)
        except RemoteProtocolError:
            continue


def test_what_a_peer_shows_as_its_own_has_to_be_its_own() -> None:
    book = RecordBook(NAME, peer(0))
    own, others = read_answer(Answer(record(1).envelope, ((record(2).envelope, 3.0),)), peer(1), book, 0.0)
    assert own == record(1)
    assert others == [(record(2), 3.0)]
    with pytest.raises(RemoteProtocolError, match="as its own"):
        read_answer(Answer(record(2).envelope, ()), peer(1), book, 0.0)
    with pytest.raises(RemoteProtocolError, match="as its own"):
        read_answer(Answer(record(1, name="other").envelope, ()), peer(1), book, 0.0)
    with pytest.raises(RemoteProtocolError):
        read_answer(Answer(record(1).envelope, ((b"junk", 3.0),)), peer(1), book, 0.0)


def test_a_forged_record_among_good_ones_spoils_the_answer() -> None:
    forged = record(3).envelope[:-1] + b"\0"
    assert peek_record(forged).peer_id == peer(3)
    with pytest.raises(RemoteProtocolError, match="wrong signature"):
        read_answer(Answer(b"", ((record(2).envelope, 3.0), (forged, 3.0))), peer(1), RecordBook(NAME, peer(0)), 0.0)


def test_what_would_change_nothing_is_left_out() -> None:
    """It costs no signature check: an old record, one of ourselves, one that prolongs little."""
    book = RecordBook(NAME, peer(0))
    book.admit_own(record(1, sequence=5), 0.0)
    old, ours, later = record(1, sequence=4), record(0), record(1, sequence=6)
    answer = Answer(b"", ((old.envelope, 30.0), (ours.envelope, 30.0), (later.envelope, 30.0)))
    assert read_answer(answer, peer(2), book, 1.0) == (None, [])
    assert read_answer(answer, peer(2), book, 10.0) == (None, [(later, 30.0)])
