"""`lattica store` as an operator uses it: with a running node, and on the file of one that has stopped."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_nodes import Command, NodeProcess, wait_until

StartNode = Callable[..., NodeProcess]


def test_a_document_is_made_written_and_read(start_node: StartNode) -> None:
    lattica = Command(start_node("node").home)
    made = lattica.json("store", "create", "--title", "our settings")
    namespace = made["namespace"]
    assert lattica.json("store", "list") == made

    lattica.json("store", "set", namespace, "map:settings", "rate", "0.5")
    lattica.json("store", "set", namespace, "map:settings", "layers", '{"first": [1, 2], "name": "ü"}')
    assert lattica.json("store", "get", namespace, "map:settings", "rate")["value"] == 0.5
    assert json.loads(lattica("store", "get", namespace, "map:settings", "layers").stdout) == {
        "first": [1, 2],
        "name": "ü",
    }
    everything = {"map:settings": {"layers": {"first": [1, 2], "name": "ü"}, "rate": 0.5}}
    assert lattica.json("store", "dump", namespace) == everything
    assert json.loads(lattica("store", "dump", namespace).stdout) == everything
    assert lattica.json("store", "get", namespace, "list:none")["value"] == []

    assert lattica.json("store", "compact", namespace)["changed"]
    assert not lattica.json("store", "compact", namespace)["changed"]
    assert [
        (author["entries"], author["covered"]) for author in lattica.json("store", "show", namespace)["authors"]
    ] == [(0, 2)]
    assert lattica.json("store", "show", namespace)["problems"] == []

    few = lattica.json("store", "create", "--policy", "open", "--strangers", "0", "--stranger-entries", "7")
    assert (few["strangers"], few["stranger_entries"]) == (0, 7)
    assert (made["strangers"], made["stranger_entries"]) == (1024, 0)
    assert lattica.json("store", "dump", namespace) == everything

    lattica.json("store", "forget", namespace)
    result = lattica("store", "show", namespace)
    assert result.exit_code == 1
    assert "is not kept here" in result.stderr


@pytest.mark.slow
def test_a_document_is_shared_by_right_and_replicated(start_node: StartNode) -> None:
    one = start_node("one")
    owner = Command(one.home)
    namespace = owner.json("store", "create")["namespace"]
    other = start_node("two", arguments=("up", "--replicate", namespace), bootstrap=one.address)
    writer = Command(other.home)

    def is_there() -> bool:
        return writer("store", "show", namespace).exit_code == 0

    wait_until(is_there, "the replica")
    refused = writer("store", "set", namespace, "map:notes/a", "k", "1")
    assert refused.exit_code == 2
    assert "no right" in refused.stderr

    owner.json("store", "grant", namespace, other.peer_id, "--path", "notes")
    shown = owner.json("store", "show", namespace)
    assert [(author["role"], author["paths"]) for author in shown["authors"]] == [("owner", []), ("writer", ["notes"])]

    def is_granted() -> bool:
        return writer("store", "set", namespace, "map:notes/a", "k", "1").exit_code == 0

    wait_until(is_granted, "the grant's arrival")
    assert writer("store", "set", namespace, "map:settings", "k", "1").exit_code == 2

    def has_come() -> bool:
        return bool(owner.json("store", "dump", namespace) == {"map:notes/a": {"k": 1}})

    wait_until(has_come, "the value's arrival")

    def is_the_same() -> bool:  # once it is on disk
        return len({command.json("store", "show", namespace)["frontier"] for command in (owner, writer)}) == 1

    wait_until(is_the_same, "the same state")

    def is_in_touch() -> bool:  # a stream that broke is there again soon
        return bool(owner.json("store", "show", namespace)["peers"] == [other.peer_id])

    wait_until(is_in_touch, "a stream between the two")

    owner.json("store", "revoke", namespace, other.peer_id)
    assert owner.json("store", "show", namespace)["authors"][1]["role"] == "none"
    assert "may not write, 1 entry" in owner("store", "show", namespace).stdout

    def is_revoked() -> bool:
        return writer("store", "set", namespace, "map:notes/a", "k", "2").exit_code == 2

    wait_until(is_revoked, "the revocation's arrival")


@pytest.mark.slow
def test_a_node_replicates_what_comes_into_being_later(start_node: StartNode, tmp_path: Path) -> None:
    """Nobody has it when the node starts; its owner comes later."""
    owner = start_node("owner")
    namespace = Command(owner.home).json("store", "create")["namespace"]
    Command(owner.home).json("store", "set", namespace, "map:a", "k", "1")
    owner.stop()
    boot = start_node("boot")
    replica = start_node("replica", arguments=("up", "--replicate", namespace), bootstrap=boot.address)
    start_node("owner", arguments=("up", "--replicate", namespace), bootstrap=boot.address)

    def is_there() -> bool:
        result = Command(replica.home)("--json", "store", "dump", namespace)
        return result.exit_code == 0 and json.loads(result.stdout) == {"map:a": {"k": 1}}

    wait_until(is_there, "the replica", timeout=120)


def test_a_document_that_nobody_has_is_not_opened(start_node: StartNode) -> None:
    lattica = Command(start_node("node").home)
    namespace = lattica.json("store", "create")["namespace"]
    lattica.json("store", "forget", namespace)
    result = lattica("store", "open", namespace, "--timeout", "0.2")
    assert result.exit_code == 1
    assert namespace in result.stderr


def test_mistakes_end_in_a_sentence(start_node: StartNode) -> None:
    lattica = Command(start_node("node").home)
    namespace = lattica.json("store", "create")["namespace"]
    for arguments, code, sentence in (
        (("show", "nonsense"), 2, "is no namespace's ID"),
        (("get", namespace, "settings"), 2, "say KIND:NAME"),
        (("get", namespace, "map:settings", "rate"), 1, "has no key 'rate'"),
        (("get", namespace, "list:log", "0"), 2, "has no keys"),
        (("set", namespace, "list:log", "0", "1"), 2, "is no map"),
        (("set", namespace, "map:settings", "rate", "fast"), 2, "is no JSON"),
        (("set", namespace, "map:settings", "rate", str(2**64)), 2, "settings['rate']"),
        (("grant", namespace, "somebody"), 2, "bad address"),
        (("revoke", namespace, lattica.json("id")["peer_id"]), 2, "owner's right"),
        (("create", "--title", "x" * 201), 2, "no namespace can be like this"),
        (("export", namespace + "x", "file"), 2, "is no namespace's ID"),
        (("import", __file__), 2, "is no archive"),
    ):
        result = lattica("store", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), arguments
        assert sentence in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_node_with_a_bad_namespace_does_not_start(lattica: Command) -> None:
    result = lattica("up", "--port", "0", "--host", "127.0.0.1", "--replicate", "nonsense")
    assert result.exit_code == 2
    assert "is no namespace's ID" in result.stderr


def test_commands_for_nodes_say_that_none_runs(lattica: Command) -> None:
    result = lattica("store", "list")
    assert result.exit_code == 2
    assert "no node is running" in result.stderr
    assert "no documents are kept" in lattica("store", "verify").stderr


def _written(start_node: StartNode) -> tuple[Command, str]:
    """A node that has stopped, with a document of three entries."""
    node = start_node("node")
    lattica = Command(node.home)
    namespace = lattica.json("store", "create")["namespace"]
    for number in range(3):
        lattica.json("store", "set", namespace, "map:a", f"k{number}", str(number))
    node.stop()
    return lattica, namespace


@pytest.mark.slow
def test_a_document_goes_to_another_home_in_a_file(start_node: StartNode, tmp_path: Path) -> None:
    lattica, namespace = _written(start_node)
    file = tmp_path / "backup"
    assert lattica.json("store", "export", namespace, str(file))["entries"] == 3
    assert lattica("store", "export", namespace, str(file)).exit_code == 2
    lattica.json("store", "export", namespace, str(file), "--overwrite")

    other = Command(tmp_path / "other")
    assert other.json("store", "import", str(file))["added"] == 3
    assert other.json("store", "import", str(file))["added"] == 0
    ours, theirs = (command.json("store", "verify") for command in (lattica, other))
    assert ours == theirs
    assert ours["ok"]
    start_node("other")
    assert other.json("store", "dump", namespace) == {"map:a": {"k0": 0, "k1": 1, "k2": 2}}


def test_a_running_node_is_verified_and_exported_but_nothing_is_imported_under_it(
    start_node: StartNode, tmp_path: Path
) -> None:
    lattica = Command(start_node("node").home)
    namespace = lattica.json("store", "create")["namespace"]
    for number in range(3):
        lattica.json("store", "set", namespace, "map:a", "k", str(number))
        verified = lattica.json("store", "verify", namespace)
        assert (verified["ok"], verified["entries"]) == (True, number + 1)
    assert verified["frontier"] == lattica.json("store", "show", namespace)["frontier"]
    file = tmp_path / "backup"
    assert lattica.json("store", "export", namespace, str(file))["entries"] == 3
    result = lattica("store", "import", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "another node is running" in result.stderr

    other = Command(tmp_path / "other")
    assert other.json("store", "import", str(file))["added"] == 3
    assert other.json("store", "verify") == verified
    lattica.json("store", "set", namespace, "map:a", "k", "4")


def test_a_cut_or_garbled_archive_changes_nothing(start_node: StartNode, tmp_path: Path) -> None:
    lattica, namespace = _written(start_node)
    file = tmp_path / "backup"
    lattica.json("store", "export", namespace, str(file))
    whole = file.read_bytes()
    garbled = bytearray(whole)
    garbled[len(garbled) // 2] ^= 1
    other = Command(tmp_path / "other")
    for data in (b"", whole[:-1], whole[: len(whole) // 2], bytes(garbled), whole + b"x"):
        file.write_bytes(data)
        result = other("store", "import", str(file))
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "the archive cannot be used" in result.stderr
    assert not (other.home / "documents.db").exists()
    assert other("store", "import", str(tmp_path / "nowhere")).exit_code == 2


def test_verifying_names_a_flipped_byte(start_node: StartNode) -> None:
    lattica, namespace = _written(start_node)
    assert lattica("store", "verify").exit_code == 0
    database = sqlite3.connect(lattica.home / "documents.db")
    [(row, raw)] = database.execute("SELECT row, raw FROM entries WHERE seq = 3").fetchall()
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    database.execute("UPDATE entries SET raw = ? WHERE row = ?", (bytes(flipped), row))
    database.commit()
    database.close()
    result = lattica("--json", "store", "verify", namespace)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert not answer["ok"]
    assert "entry 3 of" in answer["problems"][0]
    assert "WRONG" in lattica("store", "verify").stdout
