"""kill -9 in the middle of a transfer, on either side."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_nodes import Command, NodeProcess

StartNode = Callable[..., NodeProcess]
SIZE = 300_000_000
MAX_IN_FLIGHT = 64 << 20
"""Bytes that may have been requested and not yet recorded when a fetcher is killed."""
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "weights.bin"
    block = os.urandom(1_000_000)
    with path.open("wb") as file:
        for index in range(SIZE // len(block)):
            file.write(index.to_bytes(8, "big") + block[8:])
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allocated(home: Path) -> int:
    """Bytes on disk of what is being fetched."""
    total = 0
    for part in (home / "store" / "partial").glob("*"):
        try:
            total += part.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


# `lattica` with a process, by default itself, that it kills when so many bytes of a file have been written.
KILLING = """
import os, signal, sys
from lattica.cli import main
from lattica.content.store_partial import PartialBlob

left, process, write = int(sys.argv[1]), int(sys.argv[2]) or os.getpid(), PartialBlob.write

def write_and_kill(blob, chunk, data):
    global left
    write(blob, chunk, data)
    before, left = left, left - len(data)
    if before > 0 >= left:
        os.kill(process, signal.SIGKILL)

PartialBlob.write = write_and_kill
main(sys.argv[3:])
"""


def start_fetch(
    home: Path, cid: str, copy: Path, bootstrap: str, *, kill_at: int = 0, process: int = 0
) -> subprocess.Popen[str]:
    """A fetch; when it has written ``kill_at`` bytes, if any, it kills ``process``, or itself, with signal 9."""
    program = ["-c", KILLING, str(kill_at), str(process)] if kill_at else ["-m", "lattica"]
    command = [sys.executable, *program, "--json", "--home", str(home), "fetch", cid, str(copy)]
    network = ["--bootstrap", bootstrap, "--host", "127.0.0.1"]
    return subprocess.Popen([*command, *network], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_fetch_goes_on_where_it_was(start_node: StartNode, original: Path, tmp_path: Path) -> None:
    publisher = start_node("publisher")
    cid = Command(publisher.home).json("publish", str(original))["cid"]
    home, copy = tmp_path / "fetcher", tmp_path / "copy.bin"

    fetching = start_fetch(home, cid, copy, publisher.address, kill_at=SIZE // 4)
    _, stderr = fetching.communicate(timeout=PATIENCE_S)
    assert fetching.returncode == -signal.SIGKILL, stderr
    there = allocated(home)
    assert there >= SIZE // 4
    assert not copy.exists()

    again = start_fetch(home, cid, copy, publisher.address)
    stdout, stderr = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, stderr
    result = json.loads(stdout.splitlines()[-1])
    assert sha256(copy) == sha256(original)
    fetched = sum(source["bytes"] for source in result["sources"])
    assert result["reused_bytes"] + fetched == SIZE
    assert result["reused_bytes"] >= there - MAX_IN_FLIGHT
    assert result["reused_bytes"] >= SIZE // 4 - MAX_IN_FLIGHT


@pytest.mark.slow
def test_a_killed_provider_is_replaced_by_the_others(start_node: StartNode, original: Path, tmp_path: Path) -> None:
    first = start_node("first")
    second = start_node("second", bootstrap=first.address)
    cid = Command(first.home).json("publish", str(original))["cid"]
    assert Command(second.home).json("publish", str(original))["cid"] == cid
    home, copy = tmp_path / "fetcher", tmp_path / "copy.bin"

    fetching = start_fetch(home, cid, copy, second.address, kill_at=SIZE // 5, process=first.process.pid)
    stdout, stderr = fetching.communicate(timeout=PATIENCE_S)
    assert fetching.returncode == 0, stderr
    assert first.process.wait(PATIENCE_S) == -signal.SIGKILL
    result = json.loads(stdout.splitlines()[-1])
    assert sha256(copy) == sha256(original)
    assert second.peer_id in {source["peer"] for source in result["sources"]}


@pytest.mark.slow
def test_a_fetch_whose_only_provider_dies_fails_clearly_and_can_be_repeated(
    start_node: StartNode, original: Path, tmp_path: Path
) -> None:
    bootstrap = start_node("bootstrap")
    publisher = start_node("publisher", bootstrap=bootstrap.address)
    cid = Command(publisher.home).json("publish", str(original))["cid"]
    home, copy = tmp_path / "fetcher", tmp_path / "copy.bin"

    fetching = start_fetch(home, cid, copy, bootstrap.address, kill_at=SIZE // 5, process=publisher.process.pid)
    _, stderr = fetching.communicate(timeout=PATIENCE_S)
    assert fetching.returncode == 1
    assert publisher.process.wait(PATIENCE_S) == -signal.SIGKILL
    assert len(stderr.strip().splitlines()) == 1
    assert publisher.peer_id in stderr
    assert not copy.exists()

    start_node("publisher", bootstrap=bootstrap.address)
    again = start_fetch(home, cid, copy, bootstrap.address)
    stdout, stderr = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["reused_bytes"] > 0
    assert sha256(copy) == sha256(original)
