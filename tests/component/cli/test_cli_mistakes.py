"""Every mistake of a user ends in one clear sentence and the right exit code."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_nodes import Command
from click.testing import Result

PEER = "12D3KooWEDofx2WNUbNLzNy4kx1XNXuEDYfGdFBPB2DyDXXXyjE6"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs and changes owners; run as root")


def sentence(result: Result) -> str:
    """The one line that a failed command says; a traceback or a second line is a fault."""
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(b"x" * 5000)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.parametrize("cid", ["", "hello", "bafkr4i", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnUdVb", "b" * 5000])
def test_malformed_cid_is_misuse(lattica: Command, tmp_path: Path, cid: str) -> None:
    result = lattica("fetch", cid, str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "content ID" in sentence(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["nonsense", "/ip4/300.1.1.1/tcp/1/p2p/" + PEER, "/ip4/127.0.0.1/tcp/1", "/p2p/x"])
def test_malformed_bootstrap_is_misuse(lattica: Command, file: Path, address: str) -> None:
    result = lattica("publish", str(file), "--bootstrap", address)
    assert result.exit_code == 2
    assert address in sentence(result)


def test_malformed_peer_to_ping_is_misuse(lattica: Command) -> None:
    result = lattica("ping", "nobody", "--host", "127.0.0.1")
    assert result.exit_code == 2
    assert "nobody" in sentence(result)


def test_unreachable_bootstrap_is_a_failure_that_names_it(lattica: Command, tmp_path: Path) -> None:
    cid = "bafkr4ihvm3ggqkbnn5elk2lwkmmxpfbvcxqy3iiaywv4ly3vn6lfytcfpm"
    with socket.socket() as silent:  # nobody else gets its port, and nobody listens there
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}"
        result = lattica("fetch", cid, str(tmp_path / "out"), "--bootstrap", address, "--host", "127.0.0.1")
    assert result.exit_code == 1
    assert f"tcp/{port}: connection refused" in sentence(result)


def test_port_in_use_is_misuse(lattica: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = lattica("up", "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "in use" in sentence(result)


def test_address_of_another_machine_is_misuse(lattica: Command) -> None:
    result = lattica("up", "--host", "192.0.2.1", "--port", "0")
    assert result.exit_code == 2
    assert "cannot listen on 192.0.2.1" in sentence(result)


@pytest.mark.parametrize("settings", [("LATTICA_PORT", "many"), ("LATTICA_DHT", "maybe"), ("LATTICA_PORT", "70000")])
def test_bad_environment_is_misuse(lattica: Command, settings: tuple[str, str]) -> None:
    name, value = settings
    result = lattica("peers", env={name: value})
    assert result.exit_code == 2
    assert value in sentence(result)


def test_key_that_others_can_read_is_misuse(lattica: Command) -> None:
    assert lattica("id").exit_code == 0
    (lattica.home / "identity.key").chmod(0o644)
    result = lattica("id")
    assert result.exit_code == 2
    assert "chmod 600" in sentence(result)


@needs_root
def test_key_of_another_user_is_misuse(lattica: Command) -> None:
    assert lattica("id").exit_code == 0
    os.chown(lattica.home / "identity.key", 12345, 12345)
    result = lattica("id")
    assert result.exit_code == 2
    assert "belongs to user 12345" in sentence(result)


def test_damaged_key_is_misuse_and_stays(lattica: Command) -> None:
    assert lattica("id").exit_code == 0
    key = lattica.home / "identity.key"
    key.write_bytes(b"garbage")
    result = lattica("id")
    assert result.exit_code == 2
    assert "backup" in sentence(result)
    assert key.read_bytes() == b"garbage"


def test_home_that_is_a_file_is_misuse(lattica: Command, file: Path) -> None:
    lattica.home = file
    result = lattica("publish", str(file))
    assert result.exit_code == 2
    assert str(file) in sentence(result)


@pytest.mark.parametrize("command", [("peers",)])
def test_commands_that_need_a_node_say_so(lattica: Command, command: tuple[str, ...]) -> None:
    result = lattica(*command)
    assert result.exit_code == 2
    assert "lattica up" in sentence(result)


def test_publishing_nothing_is_misuse(lattica: Command, tmp_path: Path) -> None:
    result = lattica("publish", str(tmp_path / "missing.bin"), "--host", "127.0.0.1")
    assert result.exit_code == 2
    assert "missing.bin" in sentence(result)


@needs_root
def test_full_disk_ends_a_publish_and_leaves_the_store_usable(
    lattica: Command, small_disk: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(5 << 20))
    lattica.home = small_disk / "home"
    result = lattica("publish", str(large), "--host", "127.0.0.1")
    assert result.exit_code == 2
    assert "store" in sentence(result)
    assert not list((lattica.home / "store").glob("blobs/*"))


@needs_root
def test_read_only_home_is_misuse(lattica: Command, small_disk: Path, file: Path) -> None:
    lattica.home = small_disk / "home"
    assert lattica("id").exit_code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = lattica("publish", str(file), "--host", "127.0.0.1")
    assert result.exit_code == 2
    assert "read-only" in sentence(result).lower()
