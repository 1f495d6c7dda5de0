"""What a call of a plain Python service is answered with."""

from __future__ import annotations

import asyncio

from lattica.errors import CodecError, DecodeError
from lattica.rpc import batch_wire as wire
from lattica.rpc.codec import Encoded
from lattica.rpc.outcomes import OK, outcome_of_failure

Answer = bytes | Encoded | wire.Failure


def is_cancellation(error: BaseException) -> bool:
    """Whether the running task has been cancelled; not if what its handler awaits was, of which the caller is told.

    A `GeneratorExit` outside of any task is of a coroutine that is thrown away; else the handler has raised it.
    """
    task = asyncio.current_task()
    if isinstance(error, GeneratorExit):
        return task is None
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def bad_call(number: int, error: DecodeError) -> wire.Failure:
    """The answer of a call whose arguments do not fit."""
    return wire.Failure(number, wire.BAD_CALL, error.where[: wire.MAX_METHOD], error.reason[: wire.MAX_DETAIL])


def bad_result(number: int, error: CodecError) -> wire.Failure:
    """The answer of a call whose result cannot travel."""
    return wire.Failure(number, wire.BAD_RESULT, error.where[: wire.MAX_METHOD], error.reason[: wire.MAX_DETAIL])


def forgotten(number: int) -> wire.Failure:
    """The answer of a call that ran, and whose result is not there any more."""
    return wire.Failure(number, wire.FORGOTTEN, "", "its result is not kept any more")


def outcome_of_answer(answer: Answer) -> str:
    """A word of `lattica.rpc.outcomes`."""
    return outcome_of_failure(answer.code) if isinstance(answer, wire.Failure) else OK


def answer_size(answer: Answer) -> int:
    """Bytes of an answer that count."""
    if isinstance(answer, bytes):
        return len(answer)
    return answer.size if isinstance(answer, Encoded) else 256
