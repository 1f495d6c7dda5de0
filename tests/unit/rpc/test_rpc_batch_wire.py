"""Messages of batched sessions: all arrive as they were sent, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.rpc.batch_wire import (
    MAX_BATCH_CALLS,
    MAX_BULK,
    MAX_DETAIL,
    MAX_METHOD,
    MAX_TIMEOUT_S,
    ONCE,
    SMALL,
    TRACEBACK,
    Call,
    EncodedCall,
    EncodedResult,
    Failure,
    Requests,
    Responses,
    decode_requests,
    decode_responses,
    encode_requests,
    encode_responses,
    sizes_of,
)
from lattica.rpc.codec.limits import MAX_BUFFERS

pack = msgspec.msgpack.encode
MAX_ID = (1 << 63) - 1
MAX_NOTES = MAX_BATCH_CALLS * 16
MAX_MESSAGE = SMALL.max_message
VALUE = msgspec.Raw(pack([1, "two", {"three": b"3"}]))


def framed(arrays: bytes, buffers: bytes = b"") -> bytes:
    """A message of these arrays."""
    return struct.pack("<I", len(arrays)) + arrays + buffers


ids = st.integers(0, MAX_ID)
text = st.text(max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), MAX_ID) | st.floats(allow_nan=False) | text | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
).map(lambda value: msgspec.Raw(pack(value)))
calls = st.tuples(
    ids, text, st.integers(0, MAX_TIMEOUT_S * 1000), st.integers(0, 7), values,
    st.none() | st.dictionaries(text, text, max_size=3),
)  # fmt: skip
failures = st.builds(Failure, ids, st.integers(0, 20), text, text, text)


@given(st.lists(calls, max_size=5), st.lists(ids, max_size=5), st.lists(ids, max_size=5))
def test_what_a_caller_sends_arrives(sent: list[EncodedCall], cancelled: list[int], received: list[int]) -> None:
    arrived, _ = decode_requests(encode_requests(sent, cancelled, received))
    assert (arrived.cancelled, arrived.received) == (cancelled, received)
    fields = [(call.id, call.method, call.timeout_ms, call.flags, call.args, call.context) for call in arrived.calls]
    assert [bytes(call.args) for call in arrived.calls] == [bytes(call[4]) for call in sent]
    assert fields == sent


@given(st.lists(st.tuples(ids, values), max_size=5), st.lists(failures, max_size=5), st.lists(ids, max_size=5), ids)
def test_what_a_server_sends_arrives(
    results: list[EncodedResult], failed: list[Failure], large: list[int], load: int
) -> None:
    arrived, _ = decode_responses(encode_responses(results, failed, large, load))
    assert (arrived.failures, arrived.large, arrived.load) == (failed, large, load)
    assert [(result.id, result.value) for result in arrived.results] == results


@given(st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=5))
def test_buffers_arrive_with_the_values_that_they_belong_to(sent: list[list[bytes]]) -> None:
    beside = [buffer for each in sent for buffer in each]
    asked = [(at, "s/m", 0, 0, VALUE, None, sizes_of(each)) for at, each in enumerate(sent)]
    answered = [(at, VALUE, sizes_of(each)) for at, each in enumerate(sent)]
    requests, asking = decode_requests(encode_requests(asked, [], [], beside))
    responses, answering = decode_responses(encode_responses(answered, [], [], 0, beside))
    assert [asking.take(call.sizes) for call in requests.calls] == sent
    assert [answering.take(result.sizes) for result in responses.results] == sent
    for buffers in (asking, answering):
        buffers.check_end()
        with pytest.raises(RemoteProtocolError, match="ends within"):
            buffers.take([1])


def test_a_small_part_of_a_message_does_not_keep_it() -> None:
    _, buffers = decode_requests(framed(requests(), b"a" * 10 + b"b" * 1000))
    [first, second], [large] = buffers.take([5, 5]), buffers.take([1000])
    assert (first, second, large) == (b"a" * 5, b"a" * 5, b"b" * 1000)
    assert memoryview(first).obj == b"a" * 10
    assert memoryview(large).obj == framed(requests(), b"a" * 10 + b"b" * 1000)


def test_bytes_that_belong_to_nothing_are_refused() -> None:
    _, buffers = decode_requests(framed(requests(), b"x"))
    with pytest.raises(RemoteProtocolError, match="1 bytes that belong to nothing"):
        buffers.check_end()


def test_an_older_peer_may_leave_out_what_has_a_default_and_a_newer_one_add_to_it() -> None:
    [call] = decode_requests(framed(pack([[[1, "s/m", 0, 0, VALUE]], [], []])))[0].calls
    assert call.context is None
    [failure] = decode_responses(framed(pack([[], [[1, 1, "ValueError", "no"]], [], 0])))[0].failures
    assert failure.traceback == ""
    added, _ = decode_requests(framed(pack([[[1, "s/m", 0, 0, VALUE, None, [], "new"]], [], [], "new"])))
    assert added == decode_requests(encode_requests([(1, "s/m", 0, 0, VALUE, None)], [], []))[0]


def test_the_flags_are_told_apart() -> None:
    assert ONCE & TRACEBACK == 0


# Limits


def call(**changes: Any) -> list[Any]:
    """The fields of a good call, some changed."""
    fields = {
        "id": 1,
        "method": "s/m",
        "timeout_ms": 0,
        "flags": 0,
        "args": VALUE,
        "context": None,
        "sizes": [],
    } | changes
    return list(fields.values())


def requests(calls: Any = (), cancelled: Any = (), received: Any = ()) -> bytes:
    return pack([calls, cancelled, received])


def responses(results: Any = (), failures: Any = (), large: Any = (), load: Any = 0) -> bytes:
    return pack([results, failures, large, load])


@pytest.mark.parametrize(
    "message",
    [
        requests(),
        requests([call()] * MAX_BATCH_CALLS, [MAX_ID] * MAX_NOTES, [0] * MAX_NOTES),
        requests([call(id=MAX_ID, method="m" * MAX_METHOD, timeout_ms=MAX_TIMEOUT_S * 1000)]),
        requests([call(context={"traceparent": "x" * 10_000})]),
    ],
)
def test_requests_up_to_each_limit_are_taken(message: bytes) -> None:
    assert isinstance(decode_requests(framed(message))[0], Requests)


@pytest.mark.parametrize(
    "message",
    [
        requests([call()] * (MAX_BATCH_CALLS + 1)),
        requests((), [1] * (MAX_NOTES + 1)),
        requests((), (), [1] * (MAX_NOTES + 1)),
        requests([call(method="m" * (MAX_METHOD + 1))]),
        requests([call(id=-1)]),
        requests([call(id=MAX_ID + 1)]),
        requests([call(id=1.0)]),
        requests([call(id="1")]),
        requests([call(id=None)]),
        requests([call(id=True)]),
        requests([call(timeout_ms=-1)]),
        requests([call(timeout_ms=MAX_TIMEOUT_S * 1000 + 1)]),
        requests([call(flags="")]),
        requests([call(method=b"s/m")]),
        requests([call(context={"a": 1})]),
        requests([call(context=[])]),
        requests([call(sizes=[-1])]),
        requests([call(sizes=[MAX_BULK + 1])]),
        requests([call(sizes=[0] * (MAX_BUFFERS + 1))]),
        requests([call(sizes=7)]),
        requests([call()[:4]]),
        requests([{"id": 1}]),
        requests((), [-1]),
        requests((), (), [MAX_ID + 1]),
        requests(None),
        pack([]),
        pack([[], []]),
        pack({"calls": []}),
        pack(None),
        pack(1),
        b"",
        b"\xc1",
        requests() + b"\x00",
        requests() * 2,
        b"\xdd\xff\xff\xff\xff",
        b"\x93\xdd\xff\xff\xff\xff",
        b"\x93\x91\x96\x01\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x93\x91\x95\x01\xa1m\x00\x00" + b"\x91" * 100_000,
        b"\x93\x91\x95\x01\xa2\xff\xfe\x00\x00\xc0\x90\x90",
    ],
)
def test_requests_that_break_a_rule_are_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed batch"):
        decode_requests(framed(message))


@pytest.mark.parametrize(
    "message",
    [
        responses([[1, VALUE]] * MAX_BATCH_CALLS, (), [1] * MAX_BATCH_CALLS, MAX_ID),
        responses((), [[1, 1, "k" * MAX_METHOD, "\N{SNOWMAN}" * MAX_DETAIL, "t" * MAX_DETAIL]]),
        responses((), [[1, 99, "", ""]] * MAX_BATCH_CALLS),
    ],
)
def test_responses_up_to_each_limit_are_taken(message: bytes) -> None:
    assert isinstance(decode_responses(framed(message))[0], Responses)


@pytest.mark.parametrize(
    "message",
    [
        responses([[1, VALUE]] * (MAX_BATCH_CALLS + 1)),
        responses((), [[1, 1, "", ""]] * (MAX_BATCH_CALLS + 1)),
        responses((), (), [1] * (MAX_BATCH_CALLS + 1)),
        responses((), [[1, 1, "k" * (MAX_METHOD + 1), ""]]),
        responses((), [[1, 1, "", "m" * (MAX_DETAIL + 1)]]),
        responses((), [[1, 1, "", "", "t" * (MAX_DETAIL + 1)]]),
        responses((), [[1, None, "", ""]]),
        responses([[1]]),
        responses([[1, VALUE, [-1]]]),
        responses([[1, VALUE, [0] * (MAX_BUFFERS + 1)]]),
        responses([[-1, VALUE]]),
        responses((), (), [-1]),
        responses((), (), (), -1),
        responses((), (), (), None),
        pack([[], [], []]),
        b"",
        responses() + b"\x00",
    ],
)
def test_responses_that_break_a_rule_are_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed batch"):
        decode_responses(framed(message))


@pytest.mark.parametrize("decode", [decode_requests, decode_responses])
def test_a_message_that_is_too_long_is_not_looked_into(decode: Callable[[bytes], Any]) -> None:
    padding = bytes(MAX_MESSAGE - len(framed(requests([call(args=b"")]))) - 3)
    longest = framed(requests([call(args=padding)]))
    assert len(longest) == MAX_MESSAGE
    assert decode_requests(longest)[0].calls[0].id == 1
    with pytest.raises(RemoteProtocolError, match=f"batch of {MAX_MESSAGE + 1} bytes, {MAX_MESSAGE} allowed"):
        decode(longest + b"\x00")


# Damage

GOOD_REQUESTS = encode_requests([(5, "s/m", 1000, ONCE, VALUE, {"a": "b"}), (6, "s/n", 0, 0, VALUE, None)], [3], [1, 2])
GOOD_RESPONSES = encode_responses([(5, VALUE)], [Failure(6, 1, "ValueError", "no", "trace")], [7], 9)


@pytest.mark.parametrize(("decode", "good"), [(decode_requests, GOOD_REQUESTS), (decode_responses, GOOD_RESPONSES)])
def test_a_message_cut_anywhere_is_refused(decode: Callable[[bytes], Any], good: bytes) -> None:
    for end in range(len(good)):
        with pytest.raises(RemoteProtocolError):
            decode(good[:end])


@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 20))
@example(b"", 0, 1)
def test_damage_is_a_protocol_error_or_harmless(garbage: bytes, at: int, length: int) -> None:
    """Whatever is taken keeps to the limits, so that it would be taken again."""
    for decode, good in ((decode_requests, GOOD_REQUESTS), (decode_responses, GOOD_RESPONSES)):
        for message in (garbage, good[:at] + garbage + good[at + length :]):
            with contextlib.suppress(RemoteProtocolError):
                taken, _ = decode(message)
                assert decode(framed(pack(taken)))[0] == taken


def test_arguments_are_handed_on_without_being_looked_into() -> None:
    ext = msgspec.Raw(pack(msgspec.msgpack.Ext(17, b"abc")))
    [arrived] = decode_requests(encode_requests([(1, "s/m", 0, 0, ext, None)], [], []))[0].calls
    assert isinstance(arrived, Call)
    assert bytes(arrived.args) == bytes(ext)
