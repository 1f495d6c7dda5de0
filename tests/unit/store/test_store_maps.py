"""Maps, own maps and registers of one document."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from document_replicas import Replica
from pycrdt import Array, Map
from yjs_bytes import item, text, update

from lattica.errors import StoreUsageError, StoreValueError
from lattica.store import OwnMap, Register, ReplicatedMap


def test_a_map_is_used_like_a_dictionary() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings")

    with replica.transaction():
        settings["rate"] = 0.5
        settings.update(steps=3, name="naïve 😀")
        settings[""] = None
        assert settings.pop("steps") == 3
        assert settings.setdefault("rate", 9) == 0.5

    assert settings.to_dict() == {"": None, "name": "naïve 😀", "rate": 0.5}
    assert list(settings.items()) == [("", None), ("name", "naïve 😀"), ("rate", 0.5)]
    assert len(settings) == 3
    assert "name" in settings
    assert settings.get("steps", 7) == 7
    assert settings == {"": None, "name": "naïve 😀", "rate": 0.5}


def test_a_key_that_is_not_there_is_missing() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings")

    for key in ("a", "\ud800", 5, None):
        assert key not in settings
        with pytest.raises(KeyError):
            settings[key]  # type: ignore[index]
        with replica.transaction(), pytest.raises(KeyError):
            del settings[key]  # type: ignore[arg-type]


def test_clearing_a_map_leaves_nothing() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings")
    with replica.transaction():
        settings.update(a=1, b=2)
        settings.clear()

    assert settings.to_dict() == {}


def test_what_is_read_is_a_copy() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings")
    with replica.transaction():
        settings["a"] = {"b": [1]}

    read = settings.to_dict()["a"]
    assert isinstance(read, dict)
    read["b"] = None

    assert settings["a"] == {"b": [1]}


def test_a_value_or_key_that_cannot_be_kept_changes_nothing() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings", max_bytes=100)
    with replica.transaction():
        settings["a"] = 1
        with pytest.raises(StoreValueError, match=r"^settings\['a'\]\[3\]: a set cannot be kept"):
            settings["a"] = [1, 2, 3, {4}]  # type: ignore[list-item]
        with pytest.raises(StoreValueError, match="more than 100 bytes"):
            settings["b"] = "x" * 100
        with pytest.raises(StoreValueError, match=r"^settings, key 5: "):
            settings[5] = 1  # type: ignore[index]

    assert settings.to_dict() == {"a": 1}


def test_writing_needs_a_transaction_and_reading_none() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings")
    presence = OwnMap(replica, "presence")
    leader = Register(replica, "leader")
    with replica.transaction():
        settings["a"] = 1
        presence.set(1)
        leader.set(1)

    writes: list[Callable[[], object]] = [
        lambda: settings.update(a=2),
        lambda: settings.pop("a"),
        settings.clear,
        lambda: presence.set(2),
        presence.clear,
        lambda: leader.set(2),
        leader.clear,
    ]
    for write in writes:
        with pytest.raises(StoreUsageError, match="transaction"):
            write()

    assert (settings["a"], presence[replica.author], leader.get()) == (1, 1, 1)


def test_containers_follow_the_document_when_it_is_replaced() -> None:
    replica = Replica()
    settings = ReplicatedMap(replica, "settings")
    with replica.transaction():
        settings["a"] = 1
    keys = iter(settings)

    replica.rebuild()
    with replica.transaction():
        settings["b"] = 2
    replica.rebuild()

    assert settings.to_dict() == {"a": 1, "b": 2}
    assert list(keys) == ["a"]


def test_each_author_has_one_value_in_an_own_map() -> None:
    alice, bob = Replica(0, 2), Replica(1, 2)
    with alice.transaction():
        OwnMap(alice, "presence").set({"busy": True})
    with bob.transaction():
        OwnMap(bob, "presence").set(None)
    alice.write(bob.ydoc.get_update())

    presence = OwnMap(alice, "presence")
    assert dict(presence.items()) == {"author0": {"busy": True}, "author1": None}
    with alice.transaction():
        presence.clear()
        presence.clear()
    assert list(presence) == ["author1"]
    assert presence.get("author0") is None
    assert "author1" in presence
    assert len(presence) == 1


def test_a_register_holds_one_value_or_none() -> None:
    replica = Replica()
    leader = Register(replica, "leader")

    assert leader.get("nobody") == "nobody"
    with replica.transaction():
        leader.set("alice")
        leader.set(None)
    assert leader.is_set
    assert leader.get("nobody") is None
    with replica.transaction():
        leader.clear()
        leader.clear()
    assert not leader.is_set


def test_javascript_reads_plain_values_under_plain_names() -> None:
    replica = Replica()
    with replica.transaction():
        ReplicatedMap(replica, "settings")["a"] = [1, "x", 0.5, b"y", None]
        Register(replica, "leader").set("alice")

    doc = replica.ydoc
    assert doc.get("map:settings", type=Map)["a"] == [1, "x", 0.5, bytearray(b"y"), None]
    assert doc.get("register:leader", type=Map)["value"] == "alice"


def test_what_other_programs_put_into_a_map_can_be_read() -> None:
    replica = Replica()
    replica.write(
        update(
            {
                7: (
                    0,
                    [
                        item(7, b"\x01", root="map:m", key="map"),
                        item(7, b"\x02", root="map:m", key="text"),
                        item(7, b"\x03" + text("p"), root="map:m", key="xml"),
                        item(9, text("guid") + b"\x76\x00", root="map:m", key="doc"),
                        item(4, text("abc"), root="map:m", key="string"),
                        item(5, text('{"a":1}'), root="map:m", key="embed"),
                        item(6, text("bold") + text("true"), root="map:m", key="format"),
                        item(8, b"\x01\x7f", root="map:m", key="undefined"),
                        item(8, b"\x02\x7d\x05\x7d\x06", root="map:m", key="numbers"),
                        item(8, b"\x01\x7e", root="map:m"),
                    ],
                )
            }
        )
    )
    found = ReplicatedMap(replica, "m")

    assert found.to_dict() == dict(found.items())
    assert found.to_dict() == {
        "doc": None,
        "embed": {"a": 1},
        "map": None,
        "numbers": 6,
        "string": "abc",
        "text": None,
        "undefined": None,
        "xml": None,
    }
    with replica.transaction():
        found.clear()
    assert len(found) == 0


def test_roots_of_one_name_and_different_kinds_are_different() -> None:
    replica = Replica()
    with replica.transaction():
        ReplicatedMap(replica, "a")["value"] = 1
        Register(replica, "a").set(2)

    assert ReplicatedMap(replica, "a").to_dict() == {"value": 1}
    assert ReplicatedMap(replica, "a").root == "map:a"
    assert repr(ReplicatedMap(replica, "a")) == "ReplicatedMap('a')"
    assert len(replica.ydoc.get("list:a", type=Array)) == 0
