"""Who may go on writing, and whether that has changed."""

from __future__ import annotations

from ledger_replicas import SimReplica, key_of

from lattica.store.control import Role
from lattica.store.namespace import Genesis, Policy, create_genesis
from lattica.store.writers import may_write, rights_stamp

OWNER, ADMIN, WRITER = (key_of(number) for number in range(3))


def owner_of(policy: Policy = Policy.ALLOW_LIST) -> tuple[Genesis, SimReplica]:
    genesis = create_genesis(OWNER, policy=policy)
    return genesis, SimReplica(genesis, OWNER)


def may(replica: SimReplica, name: str | None = None) -> bool:
    return may_write(replica.replica.ledger, WRITER.peer_id.raw, name)


def test_who_was_granted_nothing_may_not_write() -> None:
    _, owner = owner_of()

    assert not may(owner)
    assert may_write(owner.replica.ledger, OWNER.peer_id.raw, "anything")


def test_everybody_may_write_an_open_namespace_until_revoked() -> None:
    _, owner = owner_of(Policy.OPEN)
    assert may(owner, "workers")

    owner.revoke(WRITER)

    assert not may(owner, "workers")


def test_a_right_to_a_part_is_none_to_the_rest() -> None:
    _, owner = owner_of()
    owner.grant(WRITER, paths=("jobs", "workers/gpu"))

    assert may(owner)
    assert may(owner, "jobs")
    assert may(owner, "workers/gpu/1")
    assert not may(owner, "workers")


def test_a_stamp_changes_with_rights_and_with_nothing_else() -> None:
    genesis, owner = owner_of()
    made, to_write = owner.grant(ADMIN, Role.ADMIN), owner.grant(ADMIN)
    assert made
    assert to_write
    admin = SimReplica(genesis, ADMIN)
    admin.receive([made, to_write])
    written, granted = admin.write(1), admin.grant(WRITER)
    assert written
    assert granted
    ledger = owner.replica.ledger
    stamp = rights_stamp(ledger)

    assert owner.receive([written])
    assert owner.replica.ledger is ledger
    assert rights_stamp(ledger) == stamp
    assert owner.receive([granted])
    assert owner.replica.ledger is ledger
    assert rights_stamp(ledger) != stamp
    assert may(owner)
