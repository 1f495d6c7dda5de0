"""Sockets that punch do not use a congestion control that a simultaneous open deceives."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.mesh.congestion import avoid_delay_based

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def available() -> list[str]:
    return AVAILABLE.read_text().split() if AVAILABLE.exists() else []


def choose(sock: socket.socket, name: str) -> None:
    if name not in available():
        pytest.skip(f"the kernel has no {name} loaded; `modprobe tcp_{name}` as root")
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except PermissionError:
        pytest.skip(f"this user may not choose {name}; run it as root")


def chosen(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def test_bbr_gives_way_to_one_that_measures_later(sock: socket.socket) -> None:
    choose(sock, "bbr")
    avoid_delay_based(sock)
    assert chosen(sock) in {"cubic", "reno"}


def test_one_that_goes_by_losses_stays(sock: socket.socket) -> None:
    choose(sock, "reno")
    avoid_delay_based(sock)
    assert chosen(sock) == "reno"


def test_a_system_that_does_not_let_us_is_left_alone(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    before = chosen(sock)
    monkeypatch.delattr(socket, "TCP_CONGESTION")
    avoid_delay_based(sock)
    monkeypatch.undo()
    assert chosen(sock) == before
