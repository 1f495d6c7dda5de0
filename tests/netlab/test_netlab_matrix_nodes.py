"""Nodes under test: when they count as ready, and what is said of those that never are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from netlab import Lab, LabError
from netlab.matrix import nodes
from netlab.matrix.nodes import Node, TrialError, address_at, stop_nodes, wait_ready
from netlab.matrix.programs import Program, Programs

NODE = """{python} -c '
import json, time
addresses = ["/ip4/127.0.0.1/tcp/1", "/ip4/11.2.0.20/tcp/1", "/ip4/11.2.0.2/tcp/1"]
print(json.dumps({"peer_id": "me", "addresses": addresses}), flush=True)
time.sleep(60)
'"""
STATUS = """{python} -c '
import json, pathlib
asked = pathlib.Path("{home}", "asked")
count = len(asked.read_text()) if asked.exists() else 0
asked.write_text("x" * (count + 1))
relayed = ["/ip4/11.1.0.2/tcp/1/p2p/r/p2p-circuit"] if count >= 2 else []
print(json.dumps({"connections": min(count, 1), "addresses": relayed}))
'"""
PROGRAMS = Programs(node=NODE, status=STATUS)


def started(lab: Lab, tmp_path: Path, programs: Programs) -> Node:
    node = Node("bob", lab.host("bob"), tmp_path / "home", programs)
    node.wait_started(time.monotonic() + 30)
    return node


def no_check() -> None:
    """Nobody cancels."""


@pytest.mark.parametrize(("needs_relay", "asked"), [(False, 2), (True, 3)])
def test_a_node_is_ready_when_it_is_connected_and_has_a_relayed_address_if_it_needs_one(
    needs_relay: bool, asked: int, lab: Lab, tmp_path: Path
) -> None:
    node = started(lab, tmp_path, PROGRAMS)
    wait_ready(PROGRAMS, {node: needs_relay}, no_check)
    assert len((tmp_path / "home" / "asked").read_text()) == asked
    stop_nodes([node])


def test_a_node_without_a_status_command_is_ready_at_once(lab: Lab, tmp_path: Path) -> None:
    programs = Programs(node=PROGRAMS.node, status="")
    node = started(lab, tmp_path, programs)
    wait_ready(programs, {node: True}, no_check)
    assert node.peer_id == "me"
    stop_nodes([node])


def test_a_node_that_never_is_ready_is_named_with_what_it_lacks(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "READY_LIMIT", 0.0)
    node = started(lab, tmp_path, PROGRAMS)
    with pytest.raises(TrialError, match="bob has no connection 0 s after its start"):
        wait_ready(PROGRAMS, {node: True}, no_check)
    stop_nodes([node])


def test_a_node_that_ends_is_named_with_its_last_words(lab: Lab, tmp_path: Path) -> None:
    crash = NODE.replace("time.sleep(60)", 'raise SystemExit("out of memory")')
    programs = Programs(node=crash, status=PROGRAMS.status)
    node = started(lab, tmp_path, programs)
    node.program.process.wait(10)
    with pytest.raises(TrialError, match="bob ended: out of memory"):
        wait_ready(programs, {node: False}, no_check)


def test_waiting_can_be_stopped(lab: Lab, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    node = started(lab, tmp_path, PROGRAMS)
    with pytest.raises(StoppedError):
        wait_ready(PROGRAMS, {node: False}, stop)
    stop_nodes([node])


def test_the_address_at_an_ip_is_not_one_that_only_begins_with_it(lab: Lab, tmp_path: Path) -> None:
    node = started(lab, tmp_path, PROGRAMS)
    assert address_at(node, "11.2.0.2") == "/ip4/11.2.0.2/tcp/1"
    with pytest.raises(TrialError, match=r"bob names no address at 1\.2\.0\.2"):
        address_at(node, "1.2.0.2")
    stop_nodes([node])


@pytest.fixture
def run(lab: Lab, tmp_path: Path) -> Callable[[str], Program]:
    """Run a program of one line to its end."""
    host = lab.host("host")

    def run(line: str) -> Program:
        program = Program(host, ["sh", "-c", line], tmp_path / "program")
        program.process.wait(10)
        return program

    return run


def test_only_objects_count_as_messages(run: Callable[[str], Program]) -> None:
    program = run("""printf '%s\\n' hello '[1]' '{"a": 1}' 3 '{"a":' '{"b": 2}'; printf '{"c": 3}'""")
    assert program.messages() == [{"a": 1}, {"b": 2}]
    assert program.messages() == []


def test_bytes_that_are_no_text_are_ignored(run: Callable[[str], Program]) -> None:
    assert run("""printf '\\377\\376\\n{"a": 1}\\n'""").messages() == [{"a": 1}]


def test_the_last_line_of_its_errors_is_its_complaint(run: Callable[[str], Program]) -> None:
    assert run("echo first >&2; printf 'the end\\n\\n' >&2; exit 3").complaint() == "the end"
    assert run("exit 3").complaint() == "it ended with 3 and said nothing"


def test_a_program_that_does_not_exist_is_the_labs_error(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot run /no/such"):
        Program(lab.host("host"), ["/no/such"], tmp_path / "program")
