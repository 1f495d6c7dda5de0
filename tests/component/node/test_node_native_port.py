"""The native port of a node, as its settings say."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from free_ports import free_port
from waiting import until

import lattica
from lattica.errors import ConfigError, PortInUseError

HOST = "127.0.0.1"


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) != errno.ECONNREFUSED


@pytest.mark.parametrize("named", [True, False], ids=["the one that is named", "any"])
async def test_a_nodes_grpc_server_listens_there_while_it_runs(named: bool, tmp_path: Path) -> None:
    port = free_port() if named else 0
    async with lattica.open_node(lattica.NodeConfig(home=tmp_path, host=HOST, native_port=port)) as node:
        assert node.rpc.native_port != node.mesh.port
        assert not named or node.rpc.native_port == port
        port = node.rpc.native_port
        assert listens(port)
    await until(lambda: not listens(port))  # gRPC closes it in a thread of its own


async def test_a_node_need_not_have_one(tmp_path: Path) -> None:
    async with lattica.open_node(lattica.NodeConfig(home=tmp_path, host=HOST, native_port=None)) as node:
        assert node.rpc.native_port == 0


async def test_a_port_that_somebody_has_is_the_usual_error(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        config = lattica.NodeConfig(home=tmp_path, host=HOST, native_port=taken.getsockname()[1])
        with pytest.raises(PortInUseError, match="in use"):
            async with lattica.open_node(config):
                pass


async def test_the_nodes_one_port_is_in_use_too(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(PortInUseError):
        async with lattica.open_node(lattica.NodeConfig(home=tmp_path, host=HOST, port=port, native_port=port)):
            pass


def test_none_can_be_said_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICA_NATIVE_PORT", "none")
    assert lattica.NodeConfig.load(home=tmp_path).native_port is None
    monkeypatch.setenv("LATTICA_NATIVE_PORT", "4738")
    assert lattica.NodeConfig.load(home=tmp_path).native_port == 4738
    monkeypatch.setenv("LATTICA_NATIVE_PORT", "")
    assert lattica.NodeConfig.load(home=tmp_path).native_port == 0


@pytest.mark.parametrize("bad", ["off", "65536", "-1"])
def test_what_is_no_port_is_one_sentence_that_names_it(
    bad: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATTICA_NATIVE_PORT", bad)
    with pytest.raises(ConfigError, match=r"bad setting 'native_port': .*" + bad):
        lattica.NodeConfig.load(home=tmp_path)
