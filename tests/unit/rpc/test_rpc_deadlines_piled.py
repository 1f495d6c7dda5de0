"""Things that are over do not pile up until their deadline."""

from __future__ import annotations

import time

import pytest

from lattica.rpc import deadlines
from lattica.rpc.deadlines import Deadlines


async def test_what_is_over_is_dropped_long_before_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deadlines, "PRUNE_S", 0.0)
    matters = {0}
    kept = Deadlines[int](lambda _: None, matters.__contains__)
    for number in range(1000):
        kept.add(time.monotonic() + 3600 + number, number)
    assert len(kept) == 2
    kept.close()
