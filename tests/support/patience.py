"""Gives peers more time than a machine that stalls can take: only who is silent for ever is silent."""

from __future__ import annotations

from types import ModuleType

import pytest

from lattica.mesh import listener, pipes, relay_acceptor, relay_client, relay_server, stun_client, stun_server
from lattica.rpc import native_session, replica_journey
from lattica.rpc.replicas import directory
from lattica.swarm import connection, dialing, host, transport

PATIENCE_S = 30.0

SWARM: tuple[tuple[ModuleType, str], ...] = (
    (connection, "OPEN_TIMEOUT_S"),
    (dialing, "CONNECT_TIMEOUT_S"),
    (host, "PROVE_TIMEOUT_S"),
    (transport, "UPGRADE_TIMEOUT_S"),
)
MESH: tuple[tuple[ModuleType, str], ...] = (
    (listener, "FIRST_BYTE_TIMEOUT_S"),
    (pipes, "CONNECT_TIMEOUT_S"),
    (pipes, "PREFACE_TIMEOUT_S"),
    (relay_acceptor, "JOIN_TIMEOUT_S"),
    (relay_client, "JOIN_TIMEOUT_S"),
    (relay_server, "PREFACE_TIMEOUT_S"),
    (stun_client, "STUN_TIMEOUT_S"),
    (stun_server, "MESSAGE_TIMEOUT_S"),
)
RPC: tuple[tuple[ModuleType, str], ...] = (
    (directory, "ASK_TIMEOUT_S"),
    (directory, "FAREWELL_TIMEOUT_S"),
    (native_session, "CONNECT_TIMEOUT_S"),
    (replica_journey, "CONNECT_TIMEOUT_S"),
)


def be_patient(monkeypatch: pytest.MonkeyPatch, *constants: tuple[ModuleType, str]) -> None:
    """Make these so long; a test that is about one of them makes it short again, where nothing else depends on it."""
    for module, name in constants:
        assert hasattr(module, name), name
        monkeypatch.setattr(module, name, PATIENCE_S)
