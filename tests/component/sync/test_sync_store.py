"""`lattica.sync`: documents for code without an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cli_nodes import wait_until

import lattica.sync
from lattica import NodeConfig
from lattica.errors import StoreUsageError, StoreValueError, UsageError
from lattica.sync import SyncDocument, SyncNode


def config(folder: Path, *bootstrap: str) -> NodeConfig:
    return NodeConfig(home=folder, host="127.0.0.1", bootstrap=bootstrap)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SyncNode]:
    with lattica.sync.open_node(config(tmp_path / "node")) as node:
        yield node


@pytest.fixture
def document(node: SyncNode) -> SyncDocument:
    return node.store.create("notes")


def test_every_container_is_written_and_read(document: SyncDocument) -> None:
    author = str(document.document.author)
    with document.transaction():
        document.map("m").update({"a": 1, "b": b"2"})
        document.list("l").extend(iter([3, 4, 5]))
        document.text("t").append("hello")
        document.counter("c").add(7)
        document.set("s").add(("x", 1))
        document.register("r").set({"k": None})
        document.own("o").set("here")
        assert document.map("m")["a"] == 1  # what was written is seen
    assert dict(document.map("m")) == {"a": 1, "b": b"2"}
    assert list(document.map("m").items()) == [("a", 1), ("b", b"2")]
    assert list(document.map("m").values()) == [1, b"2"]
    assert list(document.map("m").keys()) == ["a", "b"]
    assert document.map("m").get("z", 9) == 9
    assert "a" in document.map("m")
    assert document.list("l")[1:] == [4, 5]
    assert list(reversed(document.list("l"))) == [5, 4, 3]
    assert (str(document.text("t")), len(document.text("t"))) == ("hello", 5)
    assert document.counter("c").value == 7
    assert list(document.set("s")) == [("x", 1)]
    assert document.register("r").is_set
    assert document.own("o")[author] == "here"
    assert document.dump()["counter:c"] == 7
    assert [one.entries for one in document.authors()] == [1]


def test_a_block_that_raises_writes_nothing(document: SyncDocument) -> None:
    before = document.frontier()

    def write_half() -> None:
        with document.transaction():
            document.map("m")["a"] = 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert document.frontier() == before
    assert dict(document.map("m")) == {}
    with document.transaction():
        document.map("m")["a"] = 2
    assert dict(document.map("m")) == {"a": 2}


def test_errors_are_raised_where_they_are_made(node: SyncNode, document: SyncDocument) -> None:
    with pytest.raises(StoreUsageError, match="outside of a transaction"):
        document.map("m")["a"] = 1
    with document.transaction():
        with pytest.raises(StoreValueError):
            document.map("m")["a"] = 2**64
        with pytest.raises(KeyError):
            document.map("m")["a"]
        with pytest.raises(StoreUsageError, match="in a transaction"), document.transaction():
            pass
        for wait_for_it in (
            partial(document.revoke, document.genesis.owner),
            document.compact,
            partial(node.store.forget, document.namespace),
        ):
            with pytest.raises(StoreUsageError, match="in a transaction"):
                wait_for_it()
        document.map("m")["b"] = 1
    assert dict(document.map("m")) == {"b": 1}
    assert document.compact()
    with pytest.raises(StoreUsageError):
        document.map("a\nb")


def test_one_threads_transaction_is_not_anothers(document: SyncDocument) -> None:
    with document.transaction(), ThreadPoolExecutor(1) as other:
        document.map("m")["a"] = 1

        def write() -> None:
            document.map("m")["b"] = 1

        with pytest.raises(StoreUsageError, match="outside of a transaction"):
            other.submit(write).result()
        assert other.submit(lambda: document.list("l").to_list()).result() == []  # reading waits for nobody


def test_threads_take_turns(document: SyncDocument) -> None:
    def add(_: int) -> None:
        for _ in range(10):
            with document.transaction():
                counter = document.register("sum")
                value = counter.get(0)
                assert isinstance(value, int)
                counter.set(value + 1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(4)))
    assert document.register("sum").get() == 40
    assert document.authors()[0].entries == 40


def test_changes_are_told_from_the_call_on(document: SyncDocument) -> None:
    changes = document.changes()
    for number in range(3):
        with document.transaction():
            document.map("m")[f"k{number}"] = number
    keys = [[place.key for place in next(changes).places] for _ in range(3)]
    assert keys == [["k0"], ["k1"], ["k2"]]


def test_a_thread_that_watches_ends_with_the_document(node: SyncNode, document: SyncDocument) -> None:
    seen: list[bool] = []
    first = threading.Event()

    def watch() -> None:
        for change in changes:
            seen.append(change.local)
            first.set()

    changes = document.changes()
    watching = threading.Thread(target=watch)
    watching.start()
    with document.transaction():
        document.counter("c").add(1)
    assert first.wait(10)
    node.store.close(document.namespace)
    watching.join(10)
    assert not watching.is_alive()
    assert seen == [True]
    again = node.store.open(str(document.namespace))
    assert again is not document
    assert again.counter("c").value == 1
    assert node.store.open(document.namespace) is again
    node.store.forget(document.namespace)
    assert node.store.namespaces == []


def test_two_nodes_share_a_document_by_right(tmp_path: Path) -> None:
    with lattica.sync.open_node(config(tmp_path / "one")) as one:
        bootstrap = str(one.addresses[0])
        with lattica.sync.open_node(config(tmp_path / "two", bootstrap)) as two:
            ours = one.store.create("notes")
            ours.grant(two.peer_id)
            theirs = two.store.open(ours.namespace)
            wait_until(lambda: theirs.frontier().digest() == ours.frontier().digest(), "the grant's arrival")
            with theirs.transaction():
                theirs.list("log").append("hello")
            arrivals = ours.changes()
            while not ours.list("log"):
                next(arrivals)
            assert ours.list("log").to_list() == ["hello"]
            ours.revoke(two.peer_id)
            assert [author.role for author in ours.authors()] == ["owner", ""]


def test_a_member_is_one_as_long_as_its_block_lasts(node: SyncNode, document: SyncDocument) -> None:
    changes = document.watch_members("workers")
    with document.hold("workers", {"load": 1}) as lease:
        assert dict(next(changes).joined) == {node.peer_id: {"load": 1}}
        lease.update({"load": 2})
        assert document.members("workers") == {node.peer_id: {"load": 2}}
        assert lease.lost is None
        with pytest.raises(StoreUsageError, match="is held already"), document.hold("workers", 1):
            pass
    assert document.members("workers") == {}

    document.presence.set("here")
    assert document.presence.values() == {node.peer_id: "here"}
    assert dict(next(document.presence.changes()).joined) == {node.peer_id: "here"}


@pytest.mark.timeout(30)
def test_a_node_that_closes_ends_membership(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with lattica.sync.open_node(config(tmp_path / "node")) as node:
            document = node.store.create()
            stack.enter_context(document.hold("workers", 1))
        with pytest.raises(UsageError, match="closed"):
            document.members("workers")
    with lattica.sync.open_node(config(tmp_path / "node")) as node:
        assert node.store.open(document.namespace).members("workers") == {}


@pytest.mark.timeout(30)
def test_a_node_that_closes_abandons_a_thread_that_is_writing(tmp_path: Path) -> None:
    writing, closed = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def write(document: SyncDocument) -> None:
        try:
            with document.transaction():
                document.map("m")["a"] = 1
                writing.set()
                closed.wait()
                document.map("m")["b"] = 1
        except UsageError as error:
            errors.append(error)

    with lattica.sync.open_node(config(tmp_path / "node")) as node:
        document = node.store.create()
        thread = threading.Thread(target=write, args=(document,))
        thread.start()
        assert writing.wait(10)
    closed.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in str(errors[0])
    with lattica.sync.open_node(config(tmp_path / "node")) as node:
        assert node.store.open(document.namespace).dump() == {}
