"""Call options that make no sense are refused before a call is made with them."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from lattica.errors import UsageError
from lattica.rpc import CallOptions
from lattica.rpc.batch_wire import MAX_TIMEOUT_S
from lattica.rpc.stub import changed


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": math.inf},
        {"timeout": math.nan},
        {"timeout": sys.maxsize},
        {"timeout": math.nextafter(MAX_TIMEOUT_S, math.inf)},
        {"hedge_after": -0.1},
        {"hedge_after": math.inf},
        {"hedge_after": math.nan},
        {"attempts": 0},
    ],
)
def test_a_value_out_of_its_range_is_refused_and_the_range_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"more than 0 and at most \d+, or None|0 to \d+, or None|at least 1"):
        CallOptions(**wrong)
    with pytest.raises(UsageError):
        changed(CallOptions(), wrong)


@pytest.mark.parametrize(
    "right",
    [{"timeout": MAX_TIMEOUT_S}, {"timeout": 1e-9}, {"timeout": None}, {"hedge_after": 0}, {"attempts": 1_000_000}],
)
def test_the_ends_of_each_range_are_taken(right: dict[str, Any]) -> None:
    assert changed(CallOptions(), right) == CallOptions(**right)


def test_what_is_no_option_is_refused_and_those_there_are_named() -> None:
    with pytest.raises(UsageError, match=r"tries.*timeout, attempts, hedge_after, traceback"):
        changed(CallOptions(), {"tries": 3})
