"""Rights follow from the control entries that are known, in whatever order they came."""

from __future__ import annotations

import random

import pytest
from effort import lines_run
from entry_forge import ADMIN, NOTHING, OTHER, OWNER, STRANGER, WRITER, Forge, value
from hypothesis import given
from hypothesis import strategies as st
from ledger_replicas import key_of
from msgspec.structs import replace

from lattica.errors import EntryRefusedError
from lattica.identity import IdentityKey
from lattica.store.control import (
    EVERYBODY,
    MAX_GRANTS_EACH,
    MAX_PATHS,
    Control,
    Grant,
    Revoke,
    Right,
    Rights,
    Role,
    Scope,
    encode_action,
)
from lattica.store.entry import MAX_SEQ, Kind
from lattica.store.ledger import Verdict
from lattica.store.namespace import Policy

names = st.text("ab/", min_size=1, max_size=8)


# who may write


def test_the_owner_writes_without_a_grant() -> None:
    Forge().write(OWNER)


def test_a_stranger_may_not_write() -> None:
    forge = Forge()

    with pytest.raises(EntryRefusedError, match="no right to write"):
        forge.add(forge.data(STRANGER))


def test_a_writer_may_write_what_has_seen_its_grant() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER)

    with pytest.raises(EntryRefusedError, match="no right to write"):
        forge.add(forge.data(WRITER))
    first = forge.write(WRITER, deps=[grant])
    forge.write(WRITER)
    assert first.body.seq == 1


def test_who_has_seen_a_later_entry_has_seen_the_grant() -> None:
    forge = Forge()
    forge.grant(OWNER, WRITER)
    later = forge.grant(OWNER, OTHER)

    forge.write(WRITER, deps=[later])


def test_a_grant_gives_only_its_author_the_right() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER)

    with pytest.raises(EntryRefusedError, match="no right to write"):
        forge.add(forge.data(OTHER, deps=[grant]))


def test_everybody_may_write_in_an_open_namespace() -> None:
    Forge(Policy.OPEN).write(STRANGER)


def test_everybodys_right_can_be_revoked_for_one() -> None:
    forge = Forge(Policy.OPEN)
    forge.write(STRANGER)
    forge.revoke(OWNER, STRANGER, None)

    assert forge.add(forge.data(STRANGER)) is Verdict.MOOT
    forge.write(OTHER)


# paths


def test_a_grant_of_paths_covers_these_and_what_is_below() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER, paths=("notes", "maps/mars"))
    forge.write(WRITER, value("list:notes"), deps=[grant])

    for root in ("list:notes/today", "map:maps/mars", "register:maps/mars/polar"):
        key = None if root.startswith("list") else "k"
        forge.write(WRITER, value(root, key))
    for name in ("note", "notesbook", "maps", "maps/marsh", "maps/venus", "log", "Notes", "notes\u0301"):
        with pytest.raises(EntryRefusedError, match="may not write"):
            forge.add(forge.data(WRITER, value(f"list:{name}")))


def test_paths_of_several_grants_add_up() -> None:
    forge = Forge()
    deps = [forge.grant(OWNER, WRITER, paths=(path,)) for path in ("a", "b")]

    forge.write(WRITER, value("list:a"), value("list:b"), deps=deps[1:])


def test_an_entry_that_is_covered_in_part_does_not_count_at_all() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER, paths=("a",))

    with pytest.raises(EntryRefusedError, match="may not write 'list:b'"):
        forge.add(forge.data(WRITER, value("list:a"), value("list:b"), deps=[grant]))
    forge.write(WRITER, value("list:a"), deps=[grant])


def test_deletions_are_held_against_the_paths_too() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER, paths=("a",))
    theirs = forge.write(OWNER, value("list:b"))
    deletion = forge.update(WRITER, deletions={forge.client(OWNER): [(0, 1)]})

    with pytest.raises(EntryRefusedError, match="may not write 'list:b'"):
        forge.add(forge.data(WRITER, payload=deletion, deps=[grant, theirs]))


def test_when_the_wider_grant_ends_the_narrow_one_still_holds() -> None:
    forge = Forge()
    wide, narrow = forge.grant(OWNER, WRITER), forge.grant(OWNER, WRITER, paths=("a",))
    forge.write(WRITER, value("list:b"), deps=[narrow])
    forge.revoke(OWNER, WRITER, wide)

    assert forge.add(forge.data(WRITER, value("list:b"))) is Verdict.MOOT, "it need not know, nor whoever passes it on"
    forge.write(WRITER, value("list:a"))


@given(st.lists(st.lists(names, max_size=3), min_size=1, max_size=3), names)
def test_a_scope_covers_what_one_of_its_rights_covers(grants: list[list[str]], name: str) -> None:
    scope = Scope(Right(b"", number, b"", tuple(paths), MAX_SEQ) for number, paths in enumerate(grants))

    expected = any(not paths or any(name == path or name.startswith(f"{path}/") for path in paths) for paths in grants)
    assert scope.covers(name) is expected


@pytest.mark.parametrize("paths", [("",), ("x" * 257,), ("x",) * (MAX_PATHS + 1)])
def test_a_grant_of_odd_paths_is_malformed(paths: tuple[str, ...]) -> None:
    forge = Forge()

    with pytest.raises(EntryRefusedError, match="malformed"):
        forge.add(forge.action(OWNER, Grant(WRITER.peer_id.raw, Role.WRITER, paths)))


# revocations


def test_what_the_revoked_wrote_beyond_does_not_count_and_what_came_before_does() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[grant])
    forge.write(WRITER)
    forge.write(WRITER)

    assert forge.add(forge.revocation(OWNER, WRITER, grant, last=2)) is Verdict.CUTS
    assert forge.ledger.rights_of(WRITER.peer_id.raw)[0].last == 2


def test_a_revocation_of_what_has_not_come_yet_cuts_nothing() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[grant])

    assert forge.add(forge.revocation(OWNER, WRITER, grant, last=2)) is Verdict.ADDED
    forge.write(WRITER)
    assert forge.add(forge.data(WRITER)) is Verdict.MOOT


@pytest.mark.parametrize("knows", [True, False])
def test_a_revoked_writer_writes_no_more_whether_it_knows_or_not(knows: bool) -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[grant])
    revocation = forge.revoke(OWNER, WRITER, grant)

    assert forge.add(forge.data(WRITER, deps=[revocation] if knows else [])) is Verdict.MOOT


def test_a_revoked_writer_whose_first_entry_comes_late_writes_nothing() -> None:
    forge = Forge()
    grant = forge.grant(OWNER, WRITER)
    forge.revoke(OWNER, WRITER, grant)

    assert forge.add(forge.data(WRITER, deps=[grant])) is Verdict.MOOT


def test_of_two_revocations_of_one_right_the_earlier_end_counts() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    grant = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[grant])
    forge.revoke(ADMIN, WRITER, grant, last=5, deps=[admin])
    forge.revoke(OWNER, WRITER, grant, last=3)
    forge.revoke(OWNER, WRITER, grant, last=4)

    assert [right.last for right in forge.ledger.rights_of(WRITER.peer_id.raw)] == [3]


def test_a_grant_that_the_revoker_did_not_know_stays() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    first = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[first])
    second = forge.grant(ADMIN, WRITER, deps=[admin])
    forge.revoke(OWNER, WRITER, first)

    forge.write(WRITER, deps=[second])


def test_a_revoked_writer_goes_on_with_a_new_grant() -> None:
    forge = Forge()
    first = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[first])
    forge.revoke(OWNER, WRITER, first)
    again = forge.grant(OWNER, WRITER)

    assert forge.add(forge.data(WRITER)) is Verdict.MOOT
    forge.write(WRITER, deps=[again])
    assert forge.ledger.chain(again.chain).head == 3


def test_a_writer_whose_last_entries_were_cut_off_goes_on_with_a_new_grant_and_a_new_client() -> None:
    forge = Forge()
    first = forge.grant(OWNER, WRITER)
    one = forge.write(WRITER, deps=[first])
    forge.revoke(OWNER, WRITER, first, last=1)
    again = forge.grant(OWNER, WRITER)

    assert forge.add(forge.resumed(WRITER, one, 4, deps=[again])) is Verdict.ADDED
    epochs = forge.ledger.chain(one.chain).epochs
    assert [(epoch.first, epoch.client) for epoch in epochs] == [
        (first_, forge.client(WRITER, first_)) for first_ in (1, 4)
    ]


def test_nobody_revokes_the_owner() -> None:
    forge = Forge(Policy.OPEN)
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    given_to_itself = forge.grant(OWNER, OWNER)
    forge.write(OWNER)
    for right in (given_to_itself, None):
        forge.revoke(ADMIN, OWNER, right, last=0, last_control=0, deps=[admin] if right else [])
        forge.revoke(OWNER, OWNER, right, last=0, last_control=0)

    forge.write(OWNER)
    forge.grant(OWNER, WRITER)


# admins


def test_an_admin_grants_and_writes_and_revokes() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    grant = forge.grant(ADMIN, WRITER, deps=[admin])
    forge.write(ADMIN, deps=[admin])
    forge.write(WRITER, deps=[grant])
    forge.revoke(ADMIN, WRITER, grant)

    assert forge.add(forge.data(WRITER)) is Verdict.MOOT


@pytest.mark.parametrize("who", [STRANGER, WRITER, ADMIN])
def test_only_who_has_seen_that_it_was_made_an_admin_controls(who: IdentityKey) -> None:
    forge = Forge(Policy.OPEN)
    grant = forge.grant(OWNER, WRITER)
    forge.grant(OWNER, ADMIN, Role.ADMIN)
    deps = [] if who is ADMIN else [grant]

    for action in (Grant(OTHER.peer_id.raw, Role.WRITER), Revoke(OTHER.peer_id.raw, EVERYBODY, 0)):
        with pytest.raises(EntryRefusedError, match="no admin"):
            forge.add(forge.action(who, action, deps))


def test_an_admin_makes_no_admins() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)

    for whom in (WRITER, ADMIN):
        with pytest.raises(EntryRefusedError, match="only the owner makes admins"):
            forge.add(forge.action(ADMIN, Grant(whom.peer_id.raw, Role.ADMIN), [admin]))


def test_admins_do_not_revoke_each_other() -> None:
    forge = Forge()
    rights = [forge.grant(OWNER, whom, Role.ADMIN) for whom in (ADMIN, OTHER)]
    forge.write(OTHER, deps=[rights[1]])
    forge.revoke(ADMIN, OTHER, rights[1], last=0, last_control=0, deps=[rights[1]])
    forge.revoke(OTHER, ADMIN, rights[0], last=0, last_control=0, deps=[rights[1]])

    forge.grant(ADMIN, WRITER)
    forge.grant(OTHER, WRITER)
    forge.write(OTHER)


def test_a_revoked_admins_entries_count_up_to_the_one_that_the_owner_names() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    first = forge.grant(ADMIN, WRITER, deps=[admin])
    forge.grant(ADMIN, OTHER)
    cut = forge.revocation(OWNER, ADMIN, admin, last_control=1)

    assert forge.add(cut) is Verdict.CUTS
    assert forge.ledger.rights.counting[ADMIN.peer_id.raw] == 1
    assert [right.mark for right in forge.ledger.rights_of(WRITER.peer_id.raw)] == [first.mark]
    assert forge.ledger.rights_of(OTHER.peer_id.raw) == []


def test_a_revoked_admin_controls_no_more_whether_it_knows_or_not() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    forge.grant(ADMIN, WRITER, deps=[admin])
    cut = forge.revoke(OWNER, ADMIN, admin)

    for deps in ([], [cut]):
        assert forge.add(forge.action(ADMIN, Grant(OTHER.peer_id.raw, Role.WRITER), deps)) is Verdict.MOOT


def test_an_admin_that_is_made_one_again_goes_on() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    forge.grant(ADMIN, WRITER, deps=[admin])
    forge.revoke(OWNER, ADMIN, admin)
    again = forge.grant(OWNER, ADMIN, Role.ADMIN)

    assert forge.add(forge.action(ADMIN, Grant(OTHER.peer_id.raw, Role.WRITER))) is Verdict.MOOT
    forge.grant(ADMIN, OTHER, deps=[again])


def test_what_an_admin_revokes_beyond_its_own_end_is_not_revoked() -> None:
    forge = Forge()
    admin = forge.grant(OWNER, ADMIN, Role.ADMIN)
    grant = forge.grant(OWNER, WRITER)
    forge.write(WRITER, deps=[grant])
    forge.revoke(ADMIN, WRITER, grant, deps=[admin])
    assert forge.add(forge.data(WRITER)) is Verdict.MOOT
    forge.revoke(OWNER, ADMIN, admin, last_control=0)

    forge.write(WRITER)


# the form of control entries


def test_a_control_entry_depends_on_the_owners_only() -> None:
    forge = Forge()
    admin, other = (forge.grant(OWNER, whom, Role.ADMIN) for whom in (ADMIN, OTHER))
    theirs = forge.grant(OTHER, WRITER, deps=[other])
    data = forge.write(OWNER)

    for extra in (theirs, data):
        with pytest.raises(EntryRefusedError, match="must not depend on"):
            forge.add(forge.action(ADMIN, Grant(WRITER.peer_id.raw, Role.WRITER), [admin, extra]))


def test_a_payload_of_the_other_kind_is_malformed() -> None:
    forge = Forge()
    grant = Grant(WRITER.peer_id.raw, Role.WRITER)
    revoke = Revoke(WRITER.peer_id.raw, bytes(16), 0)

    for kind, action in ((Kind.GRANT, revoke), (Kind.REVOKE, grant)):
        with pytest.raises(EntryRefusedError, match="malformed"):
            forge.add(forge.action(OWNER, action, kind=kind))
    with pytest.raises(EntryRefusedError, match="malformed"):
        forge.add(forge.action(OWNER, grant, payload=encode_action(grant) + b"\0"))
    with pytest.raises(EntryRefusedError, match="malformed"):
        forge.add(forge.action(OWNER, grant, payload=NOTHING))


# cost


def test_one_gives_another_so_many_rights_and_no_more() -> None:
    forge = Forge()
    for _ in range(MAX_GRANTS_EACH):
        forge.grant(OWNER, WRITER)

    with pytest.raises(EntryRefusedError, match=f"given that one {MAX_GRANTS_EACH} rights"):
        forge.grant(OWNER, WRITER)
    forge.grant(OWNER, OTHER)


def test_thousands_of_grants_take_no_longer_each_than_some() -> None:
    def effort(count: int) -> int:
        rights = Rights(Forge().genesis)

        def grant() -> None:
            for seq in range(1, count + 1):
                author = seq.to_bytes(38)
                rights.add(OWNER.peer_id.raw, Control(seq, author[-16:], 0, Grant(author, Role.WRITER)))
                assert len(rights.of(author)) == 1

        return lines_run(grant)

    assert effort(8000) < 12 * effort(1000)


controls = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 5), st.integers(0, 8)), max_size=30)


@given(controls, st.randoms(use_true_random=False))
def test_rights_follow_from_the_entries_and_not_from_their_order(
    history: list[tuple[int, int, int, int]], chance: random.Random
) -> None:
    """Added one by one, each author's in order, they give what evaluating all at once gives."""
    authors = [key_of(number).peer_id.raw for number in (1, 2, 3)]
    chains: dict[bytes, list[Control]] = {author: [] for author in authors}
    for who, whom, what, seen in history:
        chain = chains[authors[who]]
        seq = len(chain) + 1
        named = chains[authors[seen % 3]]
        mark = named[seen % len(named)].mark if named else EVERYBODY
        actions = (
            Grant(authors[whom], Role.WRITER),
            Grant(authors[whom], Role.ADMIN),
            Revoke(authors[whom], mark, seen, seen // 2),
        )
        action = actions[what % 3]
        if who and isinstance(action, Grant):
            action = replace(action, role=Role.WRITER)
        chain.append(Control(seq, bytes([who, seq]) * 8, seen, action))
    genesis = Forge().genesis
    at_once, one_by_one = Rights(genesis, chains), Rights(genesis)

    left = {author: list(chain) for author, chain in chains.items() if chain}
    while left:
        author = chance.choice(sorted(left))
        one_by_one.add(author, left[author].pop(0))
        if not left[author]:
            del left[author]

    for author in authors:
        assert one_by_one.counting.get(author, 0) == at_once.counting.get(author, 0)
        assert sorted(one_by_one.of(author)) == sorted(at_once.of(author))
        for seq in range(8):
            assert one_by_one.may_control(author, seq, seq) == at_once.may_control(author, seq, seq)
