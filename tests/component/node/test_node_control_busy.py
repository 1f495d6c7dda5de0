"""Whoever calls a node finds out whether one runs, however busy that is."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.errors import NetworkError
from lattica.node import connect_control
from lattica.node.control_client import CONTROL_FILE


@contextlib.contextmanager
def listening(home: Path) -> Iterator[None]:
    """A process that has the home's control socket, and lets nobody in."""
    with tempfile.TemporaryDirectory(prefix="lat") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/socket")
        server.listen()
        (home / CONTROL_FILE).write_text(f"{folder}/socket")
        yield


async def is_running(home: Path) -> bool:
    async with connect_control(home) as control:
        return control is not None


async def test_a_node_that_does_not_answer_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.node.control_client.ANSWER_TIMEOUT_S", 0.2)
    with listening(tmp_path), pytest.raises(NetworkError, match="has not answered"):
        await is_running(tmp_path)


async def test_a_socket_that_was_left_behind_is_no_node(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lat") as folder:
        path = Path(folder) / "socket"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
        (tmp_path / CONTROL_FILE).write_text(str(path))
        assert not await is_running(tmp_path)
        path.unlink()
        assert not await is_running(tmp_path)
        path.touch()
        assert not await is_running(tmp_path)
