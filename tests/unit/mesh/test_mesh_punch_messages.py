"""The punch protocol's messages: written, read, and anything else refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica._proto import punch_pb2
from lattica.errors import RemoteProtocolError
from lattica.mesh.punch_messages import (
    MAX_HOSTS,
    MAX_PUNCH_MESSAGE,
    MAX_REASON,
    MAX_ROUNDS,
    Connect,
    Offer,
    Outcome,
    PunchMessage,
    Result,
    Sync,
    decode_punch,
    encode_punch,
)
from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_report import MAX_PORT_STEP, NatMapping

plain = st.ip_addresses().filter(lambda ip: not getattr(ip, "ipv4_mapped", None)).map(str)
endpoints = st.builds(Endpoint, plain, st.integers(1, 65535))
offers = st.builds(
    Offer,
    mapped=endpoints,
    mapping=st.sampled_from([None, *NatMapping]),
    port_step=st.one_of(st.none(), st.integers(-MAX_PORT_STEP, MAX_PORT_STEP)),
    hosts=st.lists(endpoints, max_size=MAX_HOSTS).map(tuple),
)
attempts = st.integers(1, MAX_ROUNDS)
messages = st.one_of(
    st.builds(Connect, attempts, offers, st.integers(0, 4_000_000_000).map(lambda us: us / 1e6)),
    st.builds(Sync, attempts),
    st.builds(Result, st.sampled_from(Outcome), st.text("abc é", max_size=MAX_REASON)),
)


@given(messages)
def test_messages_are_read_as_they_were_written(message: PunchMessage) -> None:
    data = encode_punch(message)
    assert len(data) <= MAX_PUNCH_MESSAGE
    assert decode_punch(data) == message


@given(st.binary(max_size=MAX_PUNCH_MESSAGE + 10))
def test_any_bytes_give_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_punch(data)
    except RemoteProtocolError:
        return


def connect(**fields: object) -> punch_pb2.PunchMessage:
    wire = punch_pb2.PunchMessage()
    wire.connect.attempt = 1
    wire.connect.mapped.host, wire.connect.mapped.port = "20.1.1.1", 5000
    for name, value in fields.items():
        setattr(wire.connect, name, value)
    return wire


def without_mapped() -> punch_pb2.PunchMessage:
    wire = connect()
    wire.connect.ClearField("mapped")
    return wire


def mapped(host: str, port: int = 5000) -> punch_pb2.PunchMessage:
    wire = connect()
    wire.connect.mapped.host, wire.connect.mapped.port = host, port
    return wire


def hosts(*texts: str) -> punch_pb2.PunchMessage:
    wire = connect()
    for text in texts:
        wire.connect.hosts.add(host=text, port=5000)
    return wire


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(punch_pb2.PunchMessage(), id="empty"),
        pytest.param(connect(attempt=0), id="round-zero"),
        pytest.param(connect(attempt=MAX_ROUNDS + 1), id="a-round-too-many"),
        pytest.param(connect(mapping=9), id="unknown-mapping"),
        pytest.param(without_mapped(), id="no-address"),
        pytest.param(mapped("router.example"), id="a-name"),
        pytest.param(mapped("fe80::1%eth0"), id="a-zone"),
        pytest.param(mapped("20.1.1.1", 0), id="port-zero"),
        pytest.param(mapped("20.1.1.1", 65536), id="a-port-too-large"),
        pytest.param(punch_pb2.PunchMessage(sync=punch_pb2.PunchSync()), id="sync-of-no-round"),
        pytest.param(punch_pb2.PunchMessage(result=punch_pb2.PunchResult()), id="no-outcome"),
    ],
)
def test_what_makes_no_sense_is_refused(wire: punch_pb2.PunchMessage) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_punch(wire.SerializeToString())


def read_offer(wire: punch_pb2.PunchMessage) -> Offer:
    message = decode_punch(wire.SerializeToString())
    assert isinstance(message, Connect)
    return message.offer


def test_useless_interface_addresses_are_passed_over() -> None:
    offer = read_offer(hosts("printer", "192.168.1.7", "fe80::1%3", "::ffff:10.0.0.1"))
    assert offer.hosts == (Endpoint("192.168.1.7", 5000), Endpoint("10.0.0.1", 5000))


def test_more_interface_addresses_than_the_limit_are_passed_over() -> None:
    assert len(read_offer(hosts(*(f"192.168.1.{number}" for number in range(20)))).hosts) == MAX_HOSTS


def test_a_step_that_no_nat_takes_is_none() -> None:
    assert read_offer(connect(port_step=1000)).port_step is None


def test_a_reason_is_cut_and_stripped_of_what_a_terminal_obeys() -> None:
    wire = punch_pb2.PunchMessage()
    wire.result.outcome, wire.result.reason = punch_pb2.PUNCH_OUTCOME_FAILED, "\x1b[31mno\n" + "x" * 1000
    message = decode_punch(wire.SerializeToString())
    assert isinstance(message, Result)
    assert message.reason.startswith("[31mnox")
    assert len(message.reason) <= MAX_REASON
