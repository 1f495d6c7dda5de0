"""Values in messages of calls of their own."""

from __future__ import annotations

import contextlib
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.rpc.codec import Encoded
from lattica.rpc.own_wire import (
    _SIZE,
    _VALUE_HEAD,
    FRAGMENT,
    MAX_VALUE,
    MAX_WHOLE,
    VALUE,
    ValueReader,
    value_messages,
)

SIZES = [0, 1, 100, FRAGMENT - 30, FRAGMENT, FRAGMENT + 1, 3 * FRAGMENT + 7]


@pytest.mark.parametrize("first", SIZES)
@pytest.mark.parametrize("second", SIZES)
def test_values_of_any_size_arrive(first: int, second: int) -> None:
    sent = Encoded(b"body", [b"x" * first, memoryview(b"y" * second)])
    reader, arrived = ValueReader(), None
    for message in value_messages(sent):
        assert arrived is None, "a message after the last"
        assert len(message) < MAX_WHOLE + 200
        arrived = reader.feed(message)
    assert isinstance(arrived, Encoded)
    assert arrived.body == b"body"
    assert [bytes(buffer) for buffer in arrived.buffers] == [b"x" * first, b"y" * second]
    assert reader.is_between


def test_what_came_in_parts_can_be_written_to() -> None:
    reader = ValueReader()
    *_, arrived = [reader.feed(message) for message in value_messages(Encoded(b"", [bytes(3 * FRAGMENT)]))]
    assert isinstance(arrived, Encoded)
    view = memoryview(arrived.buffers[0])
    view[-1] = 7
    assert view[-1] == 7


def test_a_claimed_size_costs_no_memory_before_it_comes() -> None:
    claims = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(8):
        reader = ValueReader()
        claim = _VALUE_HEAD.pack(VALUE, 0, 1) + _SIZE.pack(1 << 30)
        with contextlib.suppress(RemoteProtocolError):  # where the system grants no such reserve
            assert reader.feed(claim + b"x") is None
        claims.append(reader)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 512, "MiB for eight claims of 1 GiB"


def test_a_larger_claim_than_allowed_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="allowed"):
        ValueReader().feed(_VALUE_HEAD.pack(VALUE, 0, 1) + _SIZE.pack(MAX_VALUE + 1))


@given(st.lists(st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"\x02" + rest), max_size=6))
def test_garbage_is_a_protocol_error_and_nothing_else(messages: list[bytes]) -> None:
    reader = ValueReader()
    with contextlib.suppress(RemoteProtocolError):
        for message in messages:
            reader.feed(message)
    with contextlib.suppress(RemoteProtocolError):
        for message in messages:
            ValueReader().header(message)
