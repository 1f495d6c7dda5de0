"""Rights that travel with their holders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, key_of

from lattica.errors import EntryRefusedError, StoreUsageError
from lattica.store.capability import capability_text, parse_capability, read_capability, sign_capability
from lattica.store.entry import ChainId, Kind, Lane
from lattica.store.namespace import Policy, create_genesis

GENESIS = create_genesis(key_of(1), policy=Policy.CAPABILITY)
OWNER, HOLDER, OTHER = (key_of(number).peer_id.raw for number in (1, 2, 3))
CAPABILITY = sign_capability(key_of(1), GENESIS, HOLDER)


def open_three() -> list[SimReplica]:
    return [SimReplica(GENESIS, key_of(number)) for number in (1, 2, 3)]


def test_a_holder_writes_without_being_in_the_log() -> None:
    owner, holder, other = open_three()
    assert holder.write(0) is None
    assert holder.join(CAPABILITY)
    assert holder.write(0)
    converge([owner, holder, other])
    assert owner.state() == other.state() == holder.state()
    assert owner.state()["map:settings"] == {"k0": 0}


def test_a_capability_is_of_no_use_to_others() -> None:
    owner, _, other = open_three()
    assert other.join(CAPABILITY) is None
    entry = other.replica.join(other.key, CAPABILITY, 1)
    owner.receive([entry])
    assert [reason for _, reason in owner.refused] == ["its capability is somebody else's"]


@pytest.mark.parametrize("policy", [Policy.OPEN, Policy.ALLOW_LIST])
def test_other_policies_know_no_capabilities(policy: Policy) -> None:
    genesis = create_genesis(key_of(1), policy=policy)
    holder = SimReplica(genesis, key_of(2))
    assert holder.join(sign_capability(key_of(1), genesis, HOLDER)) is None


def test_a_capability_covers_its_paths_only() -> None:
    owner, holder, _ = open_three()
    assert holder.join(sign_capability(key_of(1), GENESIS, HOLDER, ("settings",)))
    assert holder.write(0)
    assert holder.write(1) is None
    converge([owner, holder])
    assert owner.state() == holder.state()


def test_a_revoked_capability_ends_where_the_owner_has_seen_its_holder() -> None:
    owner, holder, other = open_three()
    holder.join(CAPABILITY)
    holder.write(0)
    owner.hear(holder)
    right = read_capability(CAPABILITY, GENESIS, HOLDER)
    assert owner.revoke(key_of(2), right.mark)
    assert holder.write(3)
    converge([owner, holder, other])
    assert owner.state() == holder.state() == other.state()
    assert owner.state()["map:settings"] == {"k0": 0}
    assert holder.write(6) is None
    assert holder.join(CAPABILITY) is None


def test_one_that_was_revoked_before_it_was_used_never_counts() -> None:
    owner, holder, _ = open_three()
    assert owner.revoke(key_of(2), read_capability(CAPABILITY, GENESIS, HOLDER).mark)
    holder.join(CAPABILITY)
    holder.write(0)
    converge([owner, holder])
    assert owner.state() == holder.state()
    assert not owner.replica.ledger.chain(ChainId(HOLDER, Lane.DATA)).head


def test_holders_go_on_after_a_checkpoint_and_a_restart() -> None:
    owner, holder, other = open_three()
    holder.join(CAPABILITY)
    holder.write(0)
    converge([owner, holder])
    owner.compact()
    other.hear(owner)
    converge([owner, holder, other])
    assert holder.fold()
    for replica in (owner, holder, other):
        replica.restart()
        replica.reload()
    assert holder.write(5)
    converge([owner, holder, other])
    assert owner.state() == holder.state() == other.state()
    assert owner.state()["map:settings"] == {"k0": 0, "k2": 5}
    assert not [entry for entry in other.stored if entry.body.kind is Kind.JOIN]


def test_only_the_owner_gives_them() -> None:
    with pytest.raises(StoreUsageError, match="only the owner"):
        sign_capability(key_of(2), GENESIS, HOLDER)


def test_they_pass_as_text() -> None:
    assert parse_capability(capability_text(CAPABILITY)) == CAPABILITY
    with pytest.raises(StoreUsageError, match="no capability"):
        parse_capability("nonsense")


@given(st.integers(0, len(CAPABILITY) * 8 - 1))
def test_every_bit_is_signed(bit: int) -> None:
    forged = bytearray(CAPABILITY)
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EntryRefusedError):
        read_capability(bytes(forged), GENESIS, HOLDER)


@given(st.binary(max_size=200))
def test_garbage_is_no_capability(raw: bytes) -> None:
    with pytest.raises(EntryRefusedError):
        read_capability(raw, GENESIS, HOLDER)
