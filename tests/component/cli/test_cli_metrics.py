"""`lattica up --metrics`."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from cli_nodes import Command, NodeProcess

from lattica.cli.metrics_server import parse_place
from lattica.errors import ConfigError


@pytest.mark.slow
def test_a_node_serves_its_metrics_while_it_runs(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "home", "up", "--host", "127.0.0.1", "--port", "0", "--metrics", "0")
    try:
        url = node.up["metrics"]
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        assert "\nlattica_dht_table_peers 0.0\n" in text
        assert url.startswith("http://127.0.0.1:")
        assert node.peer_id not in text
    finally:
        assert node.stop() == 0


def test_a_place_that_is_taken_or_none_is_misuse(tmp_path: Path) -> None:
    lattica = Command(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for place, reason in ((str(port), "in use"), ("nowhere", "give a port"), ("1.2.3.4:70000", "give a port")):
            result = lattica("up", "--host", "127.0.0.1", "--port", "0", "--metrics", place)
            assert result.exit_code == 2
            assert reason in result.stderr
            assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:0", ("::1", 0)), ("host:80", ("host", 80))],
)
def test_places_are_a_port_or_a_host_and_a_port(text: str, place: tuple[str, int]) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", ":80", "::1:80", "[::1]", "80:host", "1.2.3.4:", "-1"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_place(text)
