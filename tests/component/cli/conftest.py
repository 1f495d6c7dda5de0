"""A command with a fresh home, and nodes to run it against."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_nodes import Command, NodeProcess


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LATTICA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def lattica(tmp_path: Path) -> Command:
    """The command, with a fresh home."""
    return Command(tmp_path / "home")


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start `lattica up` processes on loopback; they are stopped at the end."""
    nodes: list[NodeProcess] = []

    def start(name: str, *, bootstrap: str | None = None, arguments: tuple[str, ...] = ("up",)) -> NodeProcess:
        join = ("--bootstrap", bootstrap) if bootstrap else ()
        node = NodeProcess(tmp_path / name, *arguments, "--host", "127.0.0.1", "--port", "0", *join)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        if node.process.poll() is None:
            node.stop()
        for pipe in (node.process.stdout, node.process.stderr):
            if pipe is not None:
                pipe.close()
