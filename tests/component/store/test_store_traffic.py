"""What it costs to get a write to many replicas: little more than its own bytes, once to each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lattica.store.testing import measure_traffic

WRITERS = 5
OVERHEAD = 160
"""Bytes that a replica sends for a write, beside the entry; 40 (of 5 replicas) to 120 (of 100) are usual."""
FRAMES = 6.0
"""Frames that a replica sends for a write; 2.5 to 4.5 are usual."""


@pytest.mark.slow
async def test_bytes_of_a_write_grow_no_faster_than_the_logarithm_of_the_replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("LEASE_S", "PING_S", "SILENCE_S"):  # what is sent since time has passed hangs on the machine
        monkeypatch.setattr(f"lattica.store.sync_session.{what}", 600.0)
    few, many = [
        await measure_traffic(tmp_path / f"{replicas}", replicas, writers=WRITERS, rounds=6) for replicas in (5, 20)
    ]
    print(few, many)
    for traffic in (few, many):
        assert traffic.bytes_each < traffic.entry + OVERHEAD
        assert traffic.frames_each < FRAMES
    assert many.bytes_each / few.bytes_each < math.log(many.replicas) / math.log(few.replicas)
