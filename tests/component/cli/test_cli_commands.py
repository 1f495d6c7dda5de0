"""The commands as a user runs them: against a running node, and without one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_nodes import Command, NodeProcess, wait_until

StartNode = Callable[..., NodeProcess]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_id_is_the_same_each_time(lattica: Command) -> None:
    first = lattica.json("id")
    assert lattica.json("id") == first
    assert lattica("id").stdout.strip() == first["peer_id"]


@pytest.mark.slow
def test_a_file_goes_from_node_to_node(start_node: StartNode, tmp_path: Path) -> None:
    publisher = start_node("publisher")
    fetcher = start_node("fetcher", bootstrap=publisher.address)
    original, copy = tmp_path / "weights.bin", tmp_path / "out" / "copy.bin"
    original.write_bytes(os.urandom(3_500_000))

    published = Command(publisher.home).json("publish", str(original))
    fetched = Command(fetcher.home).json("fetch", published["cid"], str(copy))

    assert digest(copy) == digest(original)
    assert fetched["size"] == 3_500_000
    assert [source["peer"] for source in fetched["sources"]] == [publisher.peer_id]
    assert fetched["sources"][0]["path"] == "lan"

    peers = json.loads(Command(fetcher.home)("--json", "peers").stdout.splitlines()[0])
    assert peers["peer_id"] == publisher.peer_id
    assert peers["path"] == "lan"
    pong = Command(fetcher.home).json("ping", publisher.peer_id, "-c", "2")
    assert pong["peer_id"] == publisher.peer_id
    assert pong["path"] == "lan"


def test_an_existing_destination_is_kept_unless_told_otherwise(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node("node")
    command = Command(node.home)
    original, copy = tmp_path / "a.bin", tmp_path / "b.bin"
    original.write_bytes(b"new" * 1000)
    copy.write_bytes(b"precious")
    cid = command.json("publish", str(original))["cid"]

    refused = command("fetch", cid, str(copy))
    assert refused.exit_code == 2
    assert copy.read_bytes() == b"precious"
    command.json("fetch", cid, str(copy), "--overwrite")
    assert copy.read_bytes() == original.read_bytes()


@pytest.mark.slow
def test_an_empty_file_and_a_folder_travel_too(start_node: StartNode, tmp_path: Path) -> None:
    publisher = start_node("publisher")
    fetcher = start_node("fetcher", bootstrap=publisher.address)
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "sub" / "config.json").write_text("{}")
    cid = Command(publisher.home).json("publish", str(folder))["cid"]
    Command(fetcher.home).json("fetch", cid, str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "empty").read_bytes() == b""
    assert (tmp_path / "copy" / "sub" / "config.json").read_text() == "{}"


def test_a_corrupt_safetensors_header_is_published_as_plain_chunks_with_a_warning(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node("node")
    model = tmp_path / "model.safetensors"
    model.write_bytes((1 << 60).to_bytes(8, "little") + b"{not a header" * 100)
    published = Command(node.home).json("publish", str(model))
    assert len(published["warnings"]) == 1
    assert "model.safetensors" in published["warnings"][0]
    Command(node.home).json("fetch", published["cid"], str(tmp_path / "copy"))
    assert digest(tmp_path / "copy") == digest(model)


@pytest.mark.slow
def test_an_unknown_cid_fails_and_says_that_nobody_has_it(start_node: StartNode, tmp_path: Path) -> None:
    first = start_node("first")
    second = start_node("second", bootstrap=first.address)
    cid = "bafkr4ihvm3ggqkbnn5elk2lwkmmxpfbvcxqy3iiaywv4ly3vn6lfytcfpm"
    result = Command(second.home)("fetch", cid, str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "nobody provides" in result.stderr
    assert not (tmp_path / "out").exists()


def test_publish_without_a_node_serves_until_it_is_interrupted(start_node: StartNode, tmp_path: Path) -> None:
    original = tmp_path / "weights.bin"
    original.write_bytes(os.urandom(1_200_000))
    publisher = start_node("publisher", arguments=("publish", str(original)))
    copy = tmp_path / "copy.bin"
    fetched = Command(tmp_path / "fetcher").json(
        "fetch", publisher.up["cid"], str(copy), "--bootstrap", publisher.address, "--host", "127.0.0.1"
    )
    assert fetched["size"] == 1_200_000
    assert digest(copy) == digest(original)
    assert publisher.stop() in (0, -15, 130, 143)


def test_a_second_node_with_the_same_home_is_refused(start_node: StartNode) -> None:
    node = start_node("node")
    result = Command(node.home)("up", "--host", "127.0.0.1", "--port", "0")
    assert result.exit_code == 2
    assert "another node is running" in result.stderr


@pytest.mark.slow
def test_a_node_stops_cleanly_and_can_be_started_again(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node("node")
    assert node.stop() == 0
    assert not (tmp_path / "node" / "control").exists()
    assert start_node("node").peer_id == node.peer_id


@pytest.mark.slow
def test_a_node_that_was_killed_can_be_started_again(start_node: StartNode) -> None:
    node = start_node("node")
    node.kill()
    result = Command(node.home)("peers")
    assert result.exit_code == 2
    assert "no node is running" in result.stderr
    assert start_node("node").peer_id == node.peer_id


@pytest.mark.slow
def test_announcements_outlive_a_restart(start_node: StartNode, tmp_path: Path) -> None:
    bootstrap = start_node("bootstrap")
    publisher = start_node("publisher", bootstrap=bootstrap.address)
    original = tmp_path / "weights.bin"
    original.write_bytes(os.urandom(600_000))
    cid = Command(publisher.home).json("publish", str(original))["cid"]
    publisher.kill()
    start_node("publisher", bootstrap=bootstrap.address)
    fetcher = start_node("fetcher", bootstrap=bootstrap.address)

    def fetched() -> bool:
        return Command(fetcher.home)("fetch", cid, str(tmp_path / "copy"), "--overwrite").exit_code == 0

    wait_until(fetched, "the fetch from the restarted publisher")
    assert digest(tmp_path / "copy") == digest(original)


@pytest.mark.parametrize("arguments", [("--help",), ("fetch", "--help"), ("--version",)])
def test_help_needs_no_network_library(arguments: tuple[str, ...]) -> None:
    """It must be quick: libp2p alone takes two seconds to import."""
    script = "import sys; from lattica.cli import main; main(standalone_mode=False); assert 'libp2p' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_first_reply_of_a_ping_tells_the_time_to_the_first_byte(start_node: StartNode) -> None:
    """It includes finding the peer and opening a path; those after it are round trips."""
    first = start_node("first")
    second = start_node("second", bootstrap=first.address)
    result = Command(second.home)("--json", "ping", first.peer_id, "-c", "12", "--interval", "0.1")
    assert result.exit_code == 0
    replies = [json.loads(line) for line in result.stdout.splitlines()]
    elapsed = [reply["elapsed_s"] for reply in replies]
    assert len(replies) == 12
    assert elapsed[0] >= replies[0]["rtt_ms"] / 1e3 - 0.001
    assert replies[0]["rtt_ms"] > min(reply["rtt_ms"] for reply in replies[1:])
    assert all(later - earlier >= 0.09 for earlier, later in itertools.pairwise(elapsed))
    (line,) = Command(second.home)("ping", first.peer_id, "-c", "1").stdout.splitlines()
    assert re.fullmatch(rf"{first.peer_id}  [\d.]+ ms  lan  after [\d.]+ s", line)


@pytest.mark.slow
def test_a_ping_whose_peer_goes_away_ends_in_one_sentence(start_node: StartNode) -> None:
    first = start_node("first")
    second = start_node("second", bootstrap=first.address)
    command = [sys.executable, "-m", "lattica", "--json", "--home", str(second.home)]
    ping = subprocess.Popen(
        [*command, "ping", first.peer_id, "-c", "1000", "--interval", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ping.stdout is not None
    assert json.loads(ping.stdout.readline())["path"] == "lan"
    first.stop()
    _, stderr = ping.communicate(timeout=120)
    assert ping.returncode == 1
    (sentence,) = stderr.splitlines()
    assert first.peer_id in sentence


@pytest.mark.slow
def test_status_tells_who_and_where_the_node_is_and_whom_it_knows(start_node: StartNode) -> None:
    first = start_node("first")
    second = start_node("second", bootstrap=first.address)

    def knows_the_first() -> bool:  # that it speaks the DHT's protocol it says after it is connected
        return bool(Command(second.home).json("status")["dht_peers"] == 1)

    wait_until(knows_the_first, "the first node in the DHT")
    status = Command(second.home).json("status")
    assert status["peer_id"] == second.peer_id
    assert status["addresses"] == second.up["addresses"]
    assert status["connections"] == 1
    assert status["uptime_s"] > 0
    text = Command(second.home)("status").stdout
    assert second.peer_id in text
    assert "peers      1 connected, 1 in the DHT" in text


def test_status_without_a_node_is_misuse(lattica: Command) -> None:
    result = lattica("status")
    assert result.exit_code == 2
    assert "no node is running" in result.stderr
