"""The status of a call by the way its behaviour ended."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from lattica.rpc.behaviours import ROUNDING_S, ended_with


class Context:
    """What a handler is told of its call."""

    def __init__(self, left: float | None = None, code: grpc.StatusCode | None = None) -> None:
        self._left = left
        self._code = code

    def time_remaining(self) -> float | None:
        return self._left

    def code(self) -> grpc.StatusCode | None:
        return self._code


class PlainContext:
    """That of a plain function, which keeps its status to itself."""


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize(
    ("left", "status"),
    [
        pytest.param(0.0, grpc.StatusCode.DEADLINE_EXCEEDED, id="over"),
        pytest.param(0.1, grpc.StatusCode.DEADLINE_EXCEEDED, id="as good as over: rounded up on its way"),
        pytest.param(ROUNDING_S + 0.01, grpc.StatusCode.CANCELLED, id="not over"),
        pytest.param(None, grpc.StatusCode.CANCELLED, id="no deadline"),
    ],
)
def test_a_cancellation_at_the_deadline_is_the_deadlines(
    error: BaseException, left: float | None, status: grpc.StatusCode
) -> None:
    assert ended_with(Context(left), error) is status


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (None, None, grpc.StatusCode.OK),
        (None, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (ValueError(), None, grpc.StatusCode.UNKNOWN),
        (ValueError(), grpc.StatusCode.DATA_LOSS, grpc.StatusCode.DATA_LOSS),
    ],
)
def test_otherwise_the_handler_says(
    error: Exception | None, code: grpc.StatusCode | None, status: grpc.StatusCode
) -> None:
    assert ended_with(Context(0.0, code), error) is status


def test_of_a_plain_function_that_raised_the_status_is_not_known() -> None:
    assert ended_with(PlainContext(), None) is grpc.StatusCode.OK
    assert ended_with(PlainContext(), ValueError()) is None
