"""An entry counts if it goes on its author's chain, has seen what it builds on, and writes what is its author's."""

from __future__ import annotations

from typing import Any

import pytest
from effort import lines_run
from entry_forge import ADMIN, NOTHING, OTHER, OWNER, STRANGER, WRITER, Forge, dep, value
from msgspec.structs import replace
from yjs_bytes import item, text, update

from lattica.errors import DocumentUpdateError, EntryRefusedError
from lattica.store import ledger
from lattica.store.chain import client_id
from lattica.store.control import Grant, Role
from lattica.store.entry import Dep, Lane
from lattica.store.ledger import Ledger, Verdict
from lattica.store.namespace import Policy

ME, THEM = str(WRITER.peer_id), str(OTHER.peer_id)


@pytest.fixture
def forge() -> Forge:
    """A namespace in which two write."""
    forge = Forge()
    for writer in (WRITER, OTHER):
        grant = forge.grant(OWNER, writer)
        forge.write(writer, deps=[grant])
    return forge


def add_again(forge: Forge) -> Ledger:
    again = Ledger(forge.genesis)
    for entry in forge.entries:
        assert again.add(entry) is Verdict.ADDED
    return again


# chains


def test_an_entry_that_comes_again_changes_nothing(forge: Forge) -> None:
    before = forge.ledger.frontier()

    assert [forge.ledger.add(entry) for entry in forge.entries] == [Verdict.KNOWN] * len(forge.entries)
    assert forge.ledger.frontier() == before


def test_an_entry_after_one_that_is_not_here_waits(forge: Forge) -> None:
    first, second = forge.write(WRITER), forge.data(WRITER)
    late = Ledger(forge.genesis)
    for entry in forge.entries[:-1]:
        late.add(entry)

    assert late.add(second) is Verdict.MISSING
    late.add(first)
    assert late.add(second) is Verdict.ADDED


@pytest.mark.parametrize("prev", [bytes(32), b"\xff" * 32])
def test_an_entry_after_another_than_the_last_one_waits(forge: Forge, prev: bytes) -> None:
    assert forge.ledger.add(forge.data(WRITER, prev=prev)) is Verdict.MISSING


def test_an_entry_after_another_authors_is_none(forge: Forge) -> None:
    theirs = forge.write(OTHER)

    assert forge.ledger.add(forge.data(WRITER, prev=theirs.hash, after=2, seq=3)) is Verdict.MISSING
    assert forge.ledger.add(forge.data(WRITER, prev=theirs.hash)) is Verdict.MISSING


def test_a_first_entry_comes_after_the_namespace_and_nothing_else() -> None:
    forge = Forge()

    assert forge.ledger.add(forge.data(OWNER, prev=Forge().namespace.raw)) is Verdict.MISSING
    assert forge.ledger.add(forge.data(OWNER)) is Verdict.ADDED


def test_chains_of_data_and_control_do_not_mix(forge: Forge) -> None:
    control = forge.grant(OWNER, STRANGER)

    assert forge.ledger.add(forge.data(OWNER, prev=control.hash, after=3, seq=4)) is Verdict.MISSING
    assert forge.write(OWNER).body.seq == 1


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_time_that_is_not_later_is_refused(forge: Forge, earlier: int) -> None:
    last = forge.ledger.chain(forge.data(WRITER).chain).time

    with pytest.raises(EntryRefusedError, match="not later"):
        forge.ledger.add(forge.data(WRITER, time=last - earlier))


def test_a_time_may_be_before_other_authors_times(forge: Forge) -> None:
    forge.write(OTHER, time=1 << 50)

    forge.write(WRITER, deps=[forge.entries[-1]])


def test_an_entry_as_long_as_the_namespace_takes_is_taken_and_one_byte_more_is_not() -> None:
    forge = Forge(limit=1000)

    def entry_of(size: int) -> Any:
        return forge.data(OWNER, item(8, b"\x01\x77" + text("x" * size), root="list:log"))

    size = 1000 - len(entry_of(700).raw) + 700
    with pytest.raises(EntryRefusedError, match="it has 1001 bytes of at most 1000"):
        forge.add(entry_of(size + 1))
    assert forge.add(entry_of(size)) is Verdict.ADDED


def test_what_was_refused_leaves_no_trace(forge: Forge) -> None:
    before = forge.ledger.frontier()
    for bad in (forge.data(STRANGER), forge.data(WRITER, value("nonsense")), forge.data(WRITER, payload=b"junk")):
        with pytest.raises(EntryRefusedError):
            forge.ledger.add(bad)

    assert forge.ledger.frontier() == before
    forge.write(WRITER)


# what an entry has seen


def test_an_entry_waits_for_what_it_has_seen(forge: Forge) -> None:
    theirs = forge.data(OTHER)
    mine = forge.data(WRITER, deps=[theirs])

    assert forge.ledger.add(mine) is Verdict.MISSING
    forge.add(theirs)
    assert forge.ledger.add(mine) is Verdict.ADDED


@pytest.mark.parametrize("changes", [{"mark": bytes(16)}, {"seq": 2}, {"author": STRANGER.peer_id.raw}])
def test_an_entry_that_has_seen_what_does_not_exist_waits_for_ever(forge: Forge, changes: dict[str, Any]) -> None:
    entry = forge.data(WRITER, deps=())
    odd = replace(dep(forge.entries[-1]), **changes)

    assert forge.ledger.add(forge.sign(WRITER, entry.body, deps=(odd,))) is Verdict.MISSING


def test_an_entry_does_not_depend_on_its_own_chain(forge: Forge) -> None:
    mine = forge.write(WRITER)

    with pytest.raises(EntryRefusedError, match="must not depend on"):
        forge.ledger.add(forge.data(WRITER, deps=[mine]))


def test_an_entry_may_depend_on_its_authors_control_chain() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    given_by_itself = forge.grant(ADMIN, WRITER, deps=[admin])

    forge.write(ADMIN, deps=[admin, given_by_itself])


def test_what_was_seen_before_need_not_be_said_again(forge: Forge) -> None:
    theirs = forge.write(OTHER)
    forge.write(WRITER, deps=[theirs])

    forge.write(WRITER, value(origin=(forge.client(OTHER), 1)))


@pytest.mark.parametrize("where", ["origin", "right", "deletion"])
def test_references_to_what_was_not_declared_seen_are_refused(forge: Forge, where: str) -> None:
    theirs = forge.write(OTHER)
    client = forge.client(OTHER)
    if where == "deletion":
        payload = forge.update(WRITER, deletions={client: [(1, 1)]})
    else:
        item_id = (client, 1)
        payload = forge.update(WRITER, value(origin=item_id) if where == "origin" else value(right=item_id))

    with pytest.raises(EntryRefusedError, match="not declared to have seen"):
        forge.ledger.add(forge.data(WRITER, payload=payload))
    with pytest.raises(EntryRefusedError, match="not declared to have seen"):
        forge.ledger.add(forge.data(WRITER, payload=payload, deps=[forge.entries[-2]]))
    forge.write(WRITER, payload=payload, deps=[theirs])


def test_references_to_a_client_that_nobody_has_are_refused(forge: Forge) -> None:
    with pytest.raises(EntryRefusedError, match="not declared to have seen"):
        forge.ledger.add(forge.data(WRITER, value(origin=(12345, 0))))


def test_references_to_ones_own_later_items_are_refused(forge: Forge) -> None:
    with pytest.raises(DocumentUpdateError):
        forge.ledger.add(forge.data(WRITER, value(origin=(forge.client(WRITER), 5))))


# clients


def test_structs_of_another_client_are_refused(forge: Forge) -> None:
    for client in (forge.client(OTHER), forge.client(WRITER, 2), 1):
        with pytest.raises(DocumentUpdateError, match="it holds structs of client"):
            forge.ledger.add(forge.data(WRITER, payload=update({client: (1, [value()])})))


def test_structs_of_two_clients_are_refused(forge: Forge) -> None:
    both = update({forge.client(WRITER): (1, [value()]), forge.client(OTHER): (1, [value()])})

    with pytest.raises(DocumentUpdateError, match="it holds structs of client"):
        forge.ledger.add(forge.data(WRITER, payload=both))


@pytest.mark.parametrize("clock", [0, 2, 1 << 31])
def test_clocks_that_do_not_go_on_where_they_were_are_refused(forge: Forge, clock: int) -> None:
    with pytest.raises(DocumentUpdateError):
        forge.ledger.add(forge.data(WRITER, payload=forge.update(WRITER, value(), clock=clock)))


def test_entries_without_structs_are_taken_and_clocks_stay(forge: Forge) -> None:
    forge.write(WRITER, payload=NOTHING)

    forge.write(WRITER, payload=forge.update(WRITER, value(), clock=1))


def test_who_leaves_numbers_out_goes_on_as_another_client(forge: Forge) -> None:
    chain = forge.write(WRITER).chain

    with pytest.raises(DocumentUpdateError, match="it holds structs of client"):
        forge.ledger.add(forge.data(WRITER, seq=4))
    forge.write(WRITER, payload=forge.update(WRITER, value(), first=4, clock=0), seq=4)
    assert [epoch.first for epoch in forge.ledger.chain(chain).epochs] == [1, 4]
    assert forge.ledger.chain(chain).mark(3) is None


def test_an_author_that_has_begun_anew_too_often_can_only_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_EPOCHS", 3)
    forge = Forge()
    for seq in (1, 3, 5):
        forge.write(OWNER, payload=forge.update(OWNER, value(), first=seq, clock=0), seq=seq)

    with pytest.raises(EntryRefusedError, match="begun anew 3 times"):
        forge.write(OWNER, payload=forge.update(OWNER, value(), first=7, clock=0), seq=7)
    forge.write(OWNER, payload=forge.update(OWNER, value(), first=5))


def test_a_clients_clock_is_known_at_every_entry() -> None:
    forge = Forge()
    for structs in (1, 2, 0, 3):
        forge.write(OWNER, payload=forge.update(OWNER, *[value()] * structs) if structs else NOTHING)
    forge.write(OWNER, payload=forge.update(OWNER, value(), first=9, clock=0), seq=9)
    chain = forge.ledger.chain(forge.entries[0].chain)
    first, second = forge.client(OWNER), forge.client(OWNER, 9)

    assert [chain.clock_at(first, seq) for seq in range(12)] == [0, 1, 3, 3, 6, 6, 6, 6, 6, 6, 6, 6]
    assert [chain.clock_at(second, seq) for seq in (0, 8, 9, 10)] == [0, 0, 1, 1]
    assert chain.clock_at(7, 9) == 0


def test_client_ids_differ_by_namespace_author_and_first_entry() -> None:
    one, two = Forge().namespace, Forge().namespace
    ids = {
        client_id(namespace, key.peer_id.raw, first)
        for namespace in (one, two)
        for key in (OWNER, WRITER)
        for first in range(1, 500)
    }
    assert len(ids) == 4 * 499
    assert all(0 < client < 1 << 53 for client in ids)


# places


@pytest.mark.parametrize("root", ["counter:hits", "own:cursors"])
def test_everybody_has_an_own_part_of_counters_and_own_maps(forge: Forge, root: str) -> None:
    forge.write(WRITER, value(root, ME))

    for key in (THEM, "", ME.lower(), ME + " ", None):
        with pytest.raises(EntryRefusedError, match="another author's part"):
            forge.ledger.add(forge.data(WRITER, value(root, key)))


def test_nobody_deletes_from_anothers_own_part(forge: Forge) -> None:
    theirs = forge.write(OTHER, value("counter:hits", THEM))
    deletion = forge.update(WRITER, deletions={forge.client(OTHER): [(1, 1)]})

    with pytest.raises(EntryRefusedError, match="another author's part"):
        forge.ledger.add(forge.data(WRITER, payload=deletion, deps=[theirs]))


def test_nobody_replaces_anothers_part_by_way_of_its_neighbour(forge: Forge) -> None:
    theirs = forge.write(OTHER, value("counter:hits", THEM))

    with pytest.raises(EntryRefusedError, match="another author's part"):
        forge.ledger.add(forge.data(WRITER, value(origin=(forge.client(OTHER), 1)), deps=[theirs]))


@pytest.mark.parametrize("kind", ["list", "map", "text", "counter", "own", "set", "register"])
def test_the_area_of_a_peer_is_its_own(forge: Forge, kind: str) -> None:
    key = {"list": None, "text": None}.get(kind, ME)
    struct = item(4, text("a"), root=f"text:~{ME}/x") if kind == "text" else value(f"{kind}:~{ME}/x", key)
    forge.write(WRITER, struct)

    for name in (f"~{THEM}/x", f"~{THEM}", "~", "~/x", f"~{ME}x/x", "~nobody/x"):
        struct = item(4, text("a"), root=f"text:{name}") if kind == "text" else value(f"{kind}:{name}", key)
        with pytest.raises(EntryRefusedError, match="belongs to another author"):
            forge.ledger.add(forge.data(WRITER, struct))


def test_the_owner_does_not_write_in_others_areas() -> None:
    forge = Forge()

    with pytest.raises(EntryRefusedError, match="belongs to another author"):
        forge.add(forge.data(OWNER, value(f"list:~{ME}/x")))


@pytest.mark.parametrize("root", ["", "log", "xml:page", "List:log", "list:", "list:\x00", "list:" + "x" * 201, ":log"])
def test_roots_that_tell_no_kind_are_refused(forge: Forge, root: str) -> None:
    with pytest.raises(DocumentUpdateError, match="a root is named"):
        forge.ledger.add(forge.data(WRITER, value(root)))


@pytest.mark.parametrize("payload", [b"", b"\0", b"\1\1\0\0", b"\0\0\0", b"\xff" * 20, b"\1\1\1\0\x08\0"])
def test_malformed_updates_are_refused(forge: Forge, payload: bytes) -> None:
    body = forge.data(WRITER).body

    with pytest.raises(DocumentUpdateError):
        forge.ledger.add(forge.sign(WRITER, body, payload=payload))


# frontiers


def test_a_ledger_is_the_same_whichever_order_its_entries_came_in(forge: Forge) -> None:
    theirs = forge.write(OTHER)
    forge.write(WRITER, deps=[theirs])
    late = Ledger(forge.genesis)
    left = forge.entries[::-1]
    while left:
        left = [entry for entry in left if late.add(entry) is Verdict.MISSING]

    assert late.frontier() == forge.ledger.frontier() == add_again(forge).frontier()
    assert late.frontier().digest() == forge.ledger.frontier().digest()


def test_frontiers_tell_authors_lanes_numbers_and_hashes_apart() -> None:
    forge = Forge(Policy.OPEN)
    digests = [forge.ledger.frontier().digest(), Forge().ledger.frontier().digest()]
    for key in (OWNER, WRITER, OWNER):
        forge.write(key)
        digests.append(forge.ledger.frontier().digest())
    forge.grant(OWNER, WRITER)
    digests.append(forge.ledger.frontier().digest())

    assert len(set(digests)) == len(digests)


# cost


def test_each_entry_takes_as_long_however_many_epochs_there_are() -> None:
    def effort(epochs: int) -> int:
        forge = Forge()
        for number in range(epochs):
            seq = 2 * number + 1
            forge.write(OWNER, payload=forge.update(OWNER, value(), first=seq, clock=0), seq=seq)
        deletions = {forge.client(OWNER, 2 * number + 1): [(0, 1)] for number in range(100)}
        payload = forge.update(OWNER, first=2 * epochs - 1, deletions=deletions)
        entry = forge.data(OWNER, payload=payload)
        return lines_run(lambda: forge.add(entry))

    assert effort(1600) < 1.5 * effort(200)


def test_an_entry_that_has_seen_many_chains_takes_as_long_for_each_of_them() -> None:
    def effort(count: int) -> int:
        forge = Forge(limit=1 << 20)
        deps = tuple(Dep(number.to_bytes(38), Lane.DATA, 1, bytes(16)) for number in range(count))
        entry = forge.sign(OWNER, forge.data(OWNER).body, deps=deps)
        verdicts: list[Verdict] = []
        lines = lines_run(lambda: verdicts.append(forge.ledger.add(entry)))
        assert verdicts == [Verdict.MISSING]
        return lines

    assert effort(4096) < 6 * effort(1024)


def test_a_stranger_costs_no_memory() -> None:
    forge = Forge()
    for action in (forge.data(STRANGER), forge.action(STRANGER, Grant(STRANGER.peer_id.raw, Role.WRITER))):
        with pytest.raises(EntryRefusedError):
            forge.add(action)

    assert not forge.ledger.chains
