"""What becomes of a caller's calls when streams are lost and servers change."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from lattica import rpc
from lattica.errors import DeadlineExceededError, OutcomeUnknownError, PeerUnreachableError
from lattica.rpc import batch_calls
from lattica.rpc.batch_calls import CallTable, Lane, Pending
from lattica.rpc.batch_wire import (
    AGAIN,
    BULK,
    MAX_BULK,
    MAX_SMALL,
    ONCE,
    SMALL,
    Buffers,
    Responses,
    Result,
    SessionKind,
    decode_requests,
    decode_responses,
    encode_requests,
    encode_responses,
)
from lattica.rpc.codec import Encoded
from lattica.rpc.service import spec_of


@rpc.service("s")
class Service:
    @rpc.method
    async def once(self, data: bytes) -> None: ...


SPEC = spec_of(Service).methods["once"]
FIRST, SECOND = b"first server", b"second server"
NONE = Buffers(memoryview(b""))
LOST = PeerUnreachableError("peer", {})


class Caller:
    """A table, one lane, and a way to add calls."""

    def __init__(self, kind: SessionKind = SMALL) -> None:
        self.table = CallTable(max_batch=kind.max_batch)
        self.lane = Lane()

    def call(
        self,
        *,
        once: bool = True,
        args: bytes | Encoded = b"",
        lane: Lane | None = None,
        context: dict[str, str] | None = None,
    ) -> Pending:
        future = asyncio.get_running_loop().create_future()
        pending = Pending(self.table.new_id(), future, SPEC, args, None, ONCE if once else 0, context)
        self.table.add(pending, lane or self.lane)
        return pending

    def taken(self, stream: object) -> list[int]:
        return [call[0] for call in self.table.take(stream, 0.0)[0]]


@pytest.fixture
async def caller() -> Caller:
    return Caller()


async def test_a_server_that_remembers_us_is_asked_again(caller: Caller) -> None:
    pending = caller.call()
    assert caller.taken("a") == [pending.id]
    caller.table.lost("a", FIRST)
    assert caller.taken("b") == []
    caller.table.welcomed(FIRST, known=True)
    assert caller.taken("b") == [pending.id]


@pytest.mark.parametrize(("server", "known"), [(SECOND, True), (SECOND, False), (FIRST, False)])
async def test_one_that_does_not_gets_only_what_may_run_twice(caller: Caller, server: bytes, known: bool) -> None:
    once, again = caller.call(), caller.call(once=False)
    caller.taken("a")
    caller.table.lost("a", FIRST)
    caller.table.welcomed(server, known=known)
    assert caller.taken("b") == [again.id]
    with pytest.raises(OutcomeUnknownError):
        once.future.result()


async def test_a_call_lost_before_the_server_said_who_it_is_is_not_run_again(caller: Caller) -> None:
    once = caller.call()
    caller.taken("a")
    caller.table.lost("a", None)
    caller.table.welcomed(FIRST, known=True)
    assert caller.taken("b") == []
    with pytest.raises(OutcomeUnknownError):
        once.future.result()


async def test_doubts_outlive_a_stream_that_is_lost_before_it_takes_the_call(caller: Caller) -> None:
    once, again = caller.call(), caller.call(once=False)
    caller.taken("a")
    caller.table.lost("a", FIRST)
    caller.table.welcomed(FIRST, known=True)
    caller.table.lost("b", FIRST)
    assert caller.table.has_doubts
    caller.table.welcomed(SECOND, known=False)
    assert caller.taken("c") == [again.id]
    with pytest.raises(OutcomeUnknownError):
        once.future.result()


async def test_a_call_queued_again_twice_is_sent_once(caller: Caller) -> None:
    once = caller.call()
    caller.taken("a")
    caller.table.lost("a", FIRST)
    caller.table.welcomed(FIRST, known=True)
    caller.table.lost("b", FIRST)
    caller.table.welcomed(FIRST, known=True)
    assert caller.taken("c") == [once.id]


async def test_a_call_of_an_old_stream_to_an_old_server_fails_while_a_new_one_serves(caller: Caller) -> None:
    once = caller.call()
    caller.taken("old")
    caller.table.welcomed(SECOND, known=False)
    assert not once.future.done()
    caller.table.lost("old", FIRST)
    caller.table.welcomed(SECOND, known=True)
    with pytest.raises(OutcomeUnknownError):
        once.future.result()


async def test_giving_up_tells_apart_what_was_sent(caller: Caller) -> None:
    sent = caller.call()
    caller.taken("a")
    caller.table.lost("a", FIRST)
    caller.table.welcomed(FIRST, known=True)  # queued again, not taken
    unsent = caller.call()
    caller.table.fail_all(LOST)
    with pytest.raises(OutcomeUnknownError):
        sent.future.result()
    assert unsent.future.exception() is LOST
    later = caller.call()
    assert caller.taken("b") == [later.id]


async def test_a_sent_call_that_is_withdrawn_is_cancelled_at_the_server(caller: Caller) -> None:
    sent = caller.call()
    caller.taken("a")
    caller.table.lost("a", FIRST)
    caller.table.welcomed(FIRST, known=True)
    unsent = caller.call()
    for pending in (sent, unsent):
        assert caller.table.withdraw(pending)
        pending.future.set_exception(DeadlineExceededError("s/once"))
        assert not caller.table.withdraw(pending)
        pending.future.exception()
    assert caller.table.take("b", 0.0) == ([], [sent.id], [], [])


@pytest.mark.parametrize(
    ("size", "header"), [(MAX_SMALL - 5, ""), (0, "x" * 8192), (MAX_SMALL - 5, "\N{SNOWMAN}" * 2048)]
)
async def test_a_message_never_exceeds_what_the_server_takes(caller: Caller, size: int, header: str) -> None:
    args = msgspec.msgpack.encode(bytes(size))
    numbers = [caller.call(args=args, context={"baggage": header}).id for _ in range(600)]
    seen: list[int] = []
    while caller.table.has_news:
        message = encode_requests(*caller.table.take("a", 0.0))
        seen += [call.id for call in decode_requests(message, SMALL.max_message)[0].calls]
    assert seen == numbers


@pytest.mark.parametrize("size", [0, 1, MAX_SMALL, MAX_BULK // 4, MAX_BULK])
async def test_a_message_with_buffers_never_does_either(size: int) -> None:
    caller = Caller(BULK)
    args = Encoded(b"\x90", [b"x" * (size // 2), memoryview(b"y" * (size - size // 2))])
    numbers = [caller.call(args=args).id for _ in range(7)]
    seen: list[int] = []
    while caller.table.has_news:
        requests, buffers = decode_requests(encode_requests(*caller.table.take("a", 0.0)), BULK.max_message)
        for call in requests.calls:
            assert buffers.take(call.sizes) == list(args.buffers)
        buffers.check_end()
        seen += [call.id for call in requests.calls]
    assert seen == numbers


async def test_a_result_comes_with_its_buffers_whoever_else_has_gone(caller: Caller) -> None:
    gone, here = caller.call(), caller.call()
    caller.taken("a")
    caller.table.withdraw(gone)
    results = [(gone.id, msgspec.Raw(b"\xc0"), (3,)), (here.id, msgspec.Raw(b"\xc0"), (1, 2))]
    caller.table.settle(*decode_responses(encode_responses(results, [], [], 0, [b"old", b"a", b"bc"])))
    assert here.future.result() == Encoded(b"\xc0", [b"a", b"bc"])


async def test_lanes_take_turns(caller: Caller) -> None:
    many = [caller.call().id for _ in range(100)]
    other = caller.call(lane=Lane()).id
    taken = caller.taken("a")
    assert taken.index(other) < len(many) // 2
    assert sorted(taken) == [*many, other]


async def test_an_answer_is_given_once_and_acknowledged(caller: Caller) -> None:
    pending = caller.call()
    caller.taken("a")
    answer = Responses(results=[], failures=[], large=[pending.id], load=0)
    caller.table.settle(answer, NONE)
    caller.table.settle(answer, NONE)
    assert pending.future.result() is None
    caller.table.received(pending.id)
    assert caller.table.take("a", 0.0)[2] == [pending.id]


async def test_notes_that_a_lost_stream_took_are_sent_again(caller: Caller) -> None:
    done, gone = caller.call(), caller.call()
    caller.taken("a")
    caller.table.settle(Responses([Result(done.id, msgspec.Raw(b"\xc0"))], [], [], 0), NONE)
    caller.table.withdraw(gone)
    assert caller.table.take("a", 0.0) == ([], [gone.id], [done.id], [])
    assert caller.table.take("a", 0.0) == ([], [], [], [])
    caller.table.notes_lost()
    assert caller.table.take("b", 0.0) == ([], [gone.id], [done.id], [])
    assert caller.table.take("b", 0.0) == ([], [], [], [])


async def test_who_gives_up_tells_the_server_later_that_it_may_forget(caller: Caller) -> None:
    done, doubtful, again = caller.call(), caller.call(), caller.call(once=False)
    caller.taken("a")
    caller.table.settle(Responses([Result(done.id, msgspec.Raw(b"\xc0"))], [], [], 0), NONE)
    caller.table.lost("a", FIRST)
    caller.table.fail_all(LOST)
    assert caller.table.take("b", 0.0) == ([], [doubtful.id], [done.id], [])
    assert isinstance(doubtful.future.exception(), OutcomeUnknownError)
    assert again.future.exception() is LOST


async def test_what_is_sent_again_says_so(caller: Caller) -> None:
    pending = caller.call()
    assert caller.table.take("a", 0.0)[0][0][3] == ONCE
    caller.table.lost("a", FIRST)
    caller.table.welcomed(FIRST, known=True)
    calls = caller.table.take("b", 0.0)[0]
    assert [(call[0], call[3]) for call in calls] == [(pending.id, ONCE | AGAIN)]


async def test_calls_that_are_given_up_while_nothing_is_sent_do_not_pile_up(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_calls, "MAX_OUTSTANDING", 10)
    others = Lane()
    kept = [caller.call(), caller.call(lane=others)]
    for _ in range(100):
        pending = caller.call(args=b"x" * 100)
        pending.future.cancel()
        assert caller.table.withdraw(pending)
        assert pending.args == b""
        assert len(caller.lane.calls) + len(others.calls) <= 13
    late = caller.call()
    assert caller.taken("a") == [kept[0].id, late.id, kept[1].id]


async def test_tracing_headers_count_for_what_fits_into_a_message(caller: Caller) -> None:
    for _ in range(600):
        pending = caller.call()
        pending.context = {"baggage": "ü" * 4096}
    taken = 0
    while calls := caller.table.take("a", 0.0)[0]:
        taken += len(calls)
        assert len(encode_requests(calls, [], [])) <= SMALL.max_message
    assert taken == 600


async def test_calls_that_can_move_end_when_their_stream_is_lost_unless_they_may_have_run(caller: Caller) -> None:
    """They are made at another peer; those that must not run twice wait for what the server says."""
    stays, moves_after, moves_before = caller.call(once=False), caller.call(once=False), caller.call()
    doubtful = caller.call()
    for pending in (moves_after, moves_before, doubtful):
        pending.can_move = True
    unsent = caller.lane.calls
    assert caller.taken("a") == [stays.id, moves_after.id, moves_before.id, doubtful.id]
    moves_before.was_sent, moves_before.stream = False, None  # as if it had come too late for the message
    caller.table.lost("a", FIRST)
    ended = caller.table.move_away(LookupError)
    assert ended == {"unavailable": 1, "unreachable": 1}
    assert [str(pending.future.exception()) for pending in (moves_after, moves_before)] == ["True", "False"]
    assert not unsent
    assert list(caller.table) == [stays, doubtful]
    caller.table.welcomed(FIRST, known=True)
    assert caller.taken("b") == [stays.id, doubtful.id]
    assert caller.table.move_away(LookupError) == {}, "a stream has them"
