"""Yjs in JavaScript reads what the containers of the store write, and writes what they read."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode, b64encode
from typing import Any

import pytest
from document_replicas import Replica
from js_libp2p import START_S, js_command, needs_yjs

from lattica.store import Counter, OwnMap, Register, ReplicatedList, ReplicatedMap, ReplicatedSet, ReplicatedText

pytestmark = [pytest.mark.slow, needs_yjs]


def write_all(replica: Replica) -> None:
    with replica.transaction():
        settings = ReplicatedMap(replica, "settings")
        settings["a"] = [1, 0.5, True, None, "naïve 😀", b"\0\xff", {"": []}]
        settings["removed"] = 1
        settings["whole floats"] = [2.0, -0.0, 1e300]
        settings["integers"] = [2**53 - 1, 2**53 + 1, -(2**53) - 1, 2**60, -(2**63)]
        settings["tuple"] = (1, "a")
        settings["not a number"] = float("nan")
        ReplicatedList(replica, "layers").extend([{"size": 3}, "last"])
        ReplicatedText(replica, "notes").append("a😀é")
        Counter(replica, "steps").add(-2)
        ReplicatedSet(replica, "members").add("alice")
        OwnMap(replica, "presence").set("here")
        Register(replica, "leader").set("alice")


def through_javascript(update: bytes) -> tuple[dict[str, Any], bytes]:
    command = js_command(script="document.mjs")
    result = subprocess.run(command, input=b64encode(update), capture_output=True, timeout=START_S, check=True)
    answer = json.loads(result.stdout, parse_int=float)  # JavaScript writes as many digits as its doubles need
    return answer["read"], b64decode(answer["update"])


def test_javascript_reads_what_python_writes_and_the_other_way_round() -> None:
    replica = Replica()
    write_all(replica)

    read, update = through_javascript(replica.ydoc.get_update())
    replica.write(update)

    assert read == {
        "counter": -2,
        "layers": [{"size": 3}, "last"],
        "leader": "alice",
        "members": ["alice"],
        "notes": "a😀é",
        "presence": {"author0": "here"},
        "settings": {
            "a": [1, 0.5, True, None, "naïve 😀", "bytes 00ff", {"": []}],
            "integers": [2**53 - 1, f"{2**53 + 1}n", f"{-(2**53) - 1}n", 2**60, -(2**63)],
            "not a number": "not a number",
            "removed": 1,
            "tuple": {"$tuple": [1, "a"]},
            "whole floats": [{"$float": 2}, "minus zero", 1e300],
        },
    }
    assert_written_by_javascript(replica)


def assert_written_by_javascript(replica: Replica) -> None:
    settings = ReplicatedMap(replica, "settings")
    assert "removed" not in settings
    numbers = [1, 1.5, -1, 2**53, 2**31, 1e300]
    found = settings["from js"]
    assert isinstance(found, list)
    assert repr(found[:6]) == repr(numbers)
    assert found[7:] == ["text", None, None, b"\x01", {"a": 7}]
    assert settings["a"] == [1, 0.5, True, None, "naïve 😀", b"\0\xff", {"": []}]
    assert repr(settings["whole floats"]) == "[2.0, -0.0, 1e+300]"
    assert ReplicatedList(replica, "layers").to_list() == [{"size": 3}, "x", {"": True}, "last"]
    assert str(ReplicatedText(replica, "notes")) == "a😀漢😀é"
    assert Counter(replica, "steps").value == 3
    assert ReplicatedSet(replica, "members").to_set() == {"alice", "js"}
    assert dict(OwnMap(replica, "presence")) == {"author0": "here", "js": {}}
    assert Register(replica, "leader").get() == "js"
