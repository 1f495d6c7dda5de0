"""Nodes of these tests have time for each other, and after each test no thread of one is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lattica.mesh import listener, pipes
from lattica.rpc import native_session, replica_journey
from lattica.rpc.replicas import directory
from lattica.swarm import dialing, host, transport

PATIENCE_S = 30.0
LIMITS = (
    (dialing, "CONNECT_TIMEOUT_S"),
    (directory, "ASK_TIMEOUT_S"),
    (directory, "FAREWELL_TIMEOUT_S"),
    (host, "PROVE_TIMEOUT_S"),
    (listener, "FIRST_BYTE_TIMEOUT_S"),
    (native_session, "CONNECT_TIMEOUT_S"),
    (pipes, "CONNECT_TIMEOUT_S"),
    (pipes, "PREFACE_TIMEOUT_S"),
    (replica_journey, "CONNECT_TIMEOUT_S"),
    (transport, "UPGRADE_TIMEOUT_S"),
)
"""What a machine that stalls for some seconds would run into; a test that is about one of them makes it short."""


@pytest.fixture(autouse=True)
def _patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in LIMITS:
            assert hasattr(module, name), name
            patch.setattr(module, name, PATIENCE_S)
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
