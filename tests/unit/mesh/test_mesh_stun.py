"""The STUN codec: what RFC 8489 says, and nothing but `RemoteProtocolError` for whatever else comes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.mesh.stun import (
    HEADER_BYTES,
    MAX_STUN_MESSAGE,
    MAX_UNKNOWN,
    STUN_FIRST_BYTE,
    Endpoint,
    StunKind,
    StunMessage,
    answer_request,
    body_length,
    encode_request,
    encode_response,
    parse_stun,
)

TRANSACTION = bytes(range(12))
COOKIE = bytes.fromhex("2112a442")
# RFC 5769, sections 2.2 and 2.3: responses with SOFTWARE, MESSAGE-INTEGRITY and FINGERPRINT.
RFC_TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
RFC_IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RFC_IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
endpoints = st.builds(Endpoint, st.ip_addresses().map(str), st.integers(0, 65535))
transactions = st.binary(min_size=12, max_size=12)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + COOKIE + TRANSACTION + body


def attribute(name: int, value: bytes) -> bytes:
    return struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4)


@pytest.mark.parametrize(
    ("data", "mapped"),
    [
        pytest.param(RFC_IPV4, Endpoint("192.0.2.1", 32853), id="ipv4"),
        pytest.param(RFC_IPV6, Endpoint("2001:db8:1234:5678:11:2233:4455:6677", 32853), id="ipv6"),
    ],
)
def test_the_rfcs_test_vectors_are_read(data: bytes, mapped: Endpoint) -> None:
    assert parse_stun(data) == StunMessage(StunKind.RESPONSE, RFC_TRANSACTION, mapped)


@given(transactions, endpoints)
def test_a_response_is_read_as_it_was_written(transaction: bytes, mapped: Endpoint) -> None:
    assert parse_stun(encode_response(transaction, mapped)) == StunMessage(StunKind.RESPONSE, transaction, mapped)


@given(transactions, endpoints)
def test_a_request_is_answered_with_its_source_and_its_transaction(transaction: bytes, source: Endpoint) -> None:
    request = encode_request(transaction)
    assert request[0] == STUN_FIRST_BYTE
    assert parse_stun(answer_request(request, source)) == StunMessage(StunKind.RESPONSE, transaction, source)


@given(transactions, endpoints, st.integers(1, 65535))
def test_a_server_tells_its_second_port(transaction: bytes, source: Endpoint, port: int) -> None:
    answer = parse_stun(answer_request(encode_request(transaction), source, port))
    assert (answer.mapped, answer.second_port) == (source, port)


@pytest.mark.parametrize("value", [b"", b"\1", bytes(2), bytes(4)], ids=["nothing", "one-byte", "zero", "long"])
def test_a_second_port_that_is_none_is_passed_over(value: bytes) -> None:
    body = encode_response(TRANSACTION, Endpoint("192.0.2.1", 1))[HEADER_BYTES:] + attribute(0xD2A7, value)
    assert parse_stun(message(0x0101, body)) == StunMessage(StunKind.RESPONSE, TRANSACTION, Endpoint("192.0.2.1", 1))


@given(endpoints)
def test_an_answer_is_hardly_longer_than_its_request(source: Endpoint) -> None:
    headers = 48 if ":" in source.host else 28  # of IP and UDP
    request = encode_request(TRANSACTION)
    assert len(answer_request(request, source)) + headers <= 1.5 * (len(request) + headers)


def test_ices_attributes_and_a_fingerprint_do_no_harm() -> None:
    body = attribute(0x0006, b"user") + attribute(0x8022, b"soft") + attribute(0x0024, bytes(4))
    body += attribute(0x8028, b"\xde\xad\xbe\xef")
    assert parse_stun(answer_request(message(1, body), Endpoint("192.0.2.1", 1))).kind is StunKind.RESPONSE


def test_a_request_that_wants_more_than_we_know_is_refused_with_the_attributes_types() -> None:
    body = b"".join(attribute(0x0003 + 0x100 * number, bytes(4)) for number in range(MAX_UNKNOWN + 3))
    answer = answer_request(message(1, body), Endpoint("192.0.2.1", 1))
    assert parse_stun(answer).kind is StunKind.ERROR
    assert answer[HEADER_BYTES:] == attribute(9, b"\0\0\4\x14") + attribute(10, bytes.fromhex("0003010302030303"))


def test_of_several_addresses_the_first_counts() -> None:
    two = encode_response(TRANSACTION, Endpoint("192.0.2.1", 1)), encode_response(TRANSACTION, Endpoint("192.0.2.2", 2))
    both = message(0x0101, b"".join(one[HEADER_BYTES:] for one in two))
    assert parse_stun(both).mapped == Endpoint("192.0.2.1", 1)


RESPONSE = encode_response(TRANSACTION, Endpoint("192.0.2.1", 1))
MALFORMED = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\0", id="one-byte"),
    pytest.param(encode_request(TRANSACTION)[:-1], id="cut-header"),
    pytest.param(encode_request(TRANSACTION) + b"more", id="longer-than-it-says"),
    pytest.param(RESPONSE[:-4], id="shorter-than-it-says"),
    pytest.param(message(1, b"xyz"), id="no-multiple-of-four"),
    pytest.param(message(1, b"").replace(COOKIE, bytes(4)), id="no-cookie"),
    pytest.param(message(1, bytes(MAX_STUN_MESSAGE)), id="too-long"),
    pytest.param(message(3, b""), id="another-method"),
    pytest.param(message(0x0011, b""), id="an-indication"),
    pytest.param(message(0x8001, b""), id="first-bits-set"),
    pytest.param(message(0x0101, b""), id="response-without-an-address"),
    pytest.param(message(0x0101, attribute(0x0001, b"\0\1\0\1abcd")), id="response-with-the-old-address-only"),
    pytest.param(message(1, struct.pack("!HH", 0x8022, 8) + bytes(4)), id="attribute-beyond-the-end"),
    pytest.param(message(1, struct.pack("!HH", 0x8022, 65535)), id="attribute-far-beyond-the-end"),
    pytest.param(message(0x0101, attribute(0x0020, b"")), id="empty-address"),
    pytest.param(message(0x0101, attribute(0x0020, b"\0\1\0\1abcde")), id="long-address"),
    pytest.param(message(0x0101, attribute(0x0020, b"\0\2\0\1abcd")), id="ipv6-address-of-four-bytes"),
    pytest.param(message(0x0101, attribute(0x0020, b"\0\3\0\1abcd")), id="address-of-another-family"),
]


@pytest.mark.parametrize("data", MALFORMED)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_stun(data)


def test_a_server_does_not_answer_answers() -> None:
    with pytest.raises(RemoteProtocolError, match="nobody has asked"):
        answer_request(RESPONSE, Endpoint("192.0.2.1", 1))


@given(st.one_of(st.binary(max_size=600), st.binary(max_size=60).map(lambda body: message(0x0101, body))))
@example(RFC_IPV4)
def test_any_bytes_give_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        parsed = parse_stun(data)
    except RemoteProtocolError:
        return
    assert len(parsed.transaction) == 12
    assert (parsed.mapped is not None) == (parsed.kind is StunKind.RESPONSE)


@given(st.integers(0, len(RFC_IPV6) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_a_message_or_a_protocol_error(at: int, change: int) -> None:
    data = bytearray(RFC_IPV6)
    data[at] ^= change
    try:
        parse_stun(bytes(data))
    except RemoteProtocolError:
        return


@given(st.binary(max_size=30))
def test_a_header_never_promises_more_than_the_limit(header: bytes) -> None:
    try:
        length = body_length(header)
    except RemoteProtocolError:
        return
    assert length + HEADER_BYTES <= MAX_STUN_MESSAGE
