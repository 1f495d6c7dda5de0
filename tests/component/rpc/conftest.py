"""Nodes of these tests have time for each other, and after each test no thread of one is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from patience import MESH, PATIENCE_S, RPC, SWARM, be_patient


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        be_patient(patch, *SWARM, *MESH, *RPC)
        yield


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lattica")]


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + PATIENCE_S
    while _threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _threads() == []
