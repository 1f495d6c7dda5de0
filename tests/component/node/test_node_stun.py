"""The second STUN port of a node, as its settings say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from free_ports import free_port

import lattica
from lattica.identity import PeerAddress
from lattica.mesh.stun_client import HeldMapping, learn_mapping

HOST = "127.0.0.1"
PUBLIC = ("/ip4/20.1.1.1/tcp/4737",)
"""An operator's word that the node can be dialled; then it believes so."""


@contextlib.asynccontextmanager
async def asked(
    home: Path, *, announce: tuple[str, ...] = PUBLIC, stun_port: int = 0, until_second: bool = False
) -> AsyncIterator[HeldMapping]:
    """What a node's one port answers; if need be again, until it names a second port, which opens in the background."""
    config = lattica.NodeConfig(home=home, host=HOST, announce=announce, stun_port=stun_port)
    async with lattica.open_node(config) as node:
        address = next(one for one in node.addresses if one.host == HOST)
        held = await learn_mapping(address, 0, local_host=HOST)
        async with asyncio.timeout(20):
            while until_second and held.second_port is None:
                held.close()
                held = await learn_mapping(address, 0, local_host=HOST)
        with contextlib.closing(held):
            yield held


@pytest.mark.parametrize("named", [True, False], ids=["the one that is named", "any"])
async def test_a_node_that_can_be_dialled_answers_on_a_second_port(named: bool, tmp_path: Path) -> None:
    port = free_port() if named else 0
    async with asked(tmp_path, stun_port=port, until_second=True) as held:
        assert held.second_port is not None
        assert not named or held.second_port == port
        second = await learn_mapping(PeerAddress.tcp(HOST, held.second_port), held.local.port, local_host=HOST)
        with contextlib.closing(second):
            assert second.mapped == held.mapped


async def test_a_node_that_does_not_know_whether_it_can_names_none(tmp_path: Path) -> None:
    async with asked(tmp_path, announce=()) as held:
        assert held.second_port is None


async def test_a_port_that_somebody_has_is_none(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        async with asked(tmp_path, stun_port=taken.getsockname()[1]) as held:
            assert held.second_port is None
