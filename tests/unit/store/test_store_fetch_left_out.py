"""What was not asked for with the rest, since another peer was asked for it, is asked for when that has ended."""

from __future__ import annotations

from ledger_replicas import SimReplica, converge, key_of

from lattica.store.entry import ChainId, Lane
from lattica.store.namespace import Policy, create_genesis
from lattica.store.sync_state import LinkState, offer_of

ANN, BOB = (ChainId(key_of(number).peer_id.raw, Lane.DATA) for number in (1, 2))


def test_a_chain_that_builds_on_one_fetched_elsewhere_is_asked_for_again_with_it() -> None:
    genesis = create_genesis(key_of(1), policy=Policy.OPEN)
    ann, bob, new = (SimReplica(genesis, key_of(number)) for number in (1, 2, 3))
    for replica in (ann, bob, ann):
        replica.write(0)
        converge([ann, bob])
    state = LinkState()
    state.hear({chain: offer_of(head) for chain, head in ann.replica.ledger.frontier().heads.items()})

    assert state.to_fetch(new.replica.ledger, {BOB}, 0.0).keys() == {ANN}
    new.receive([entry for entry in ann.counting if entry.chain == ANN])
    assert new.replica.ledger.chain(ANN).head == 1
    state.answered(new.replica.ledger, 0.0)
    assert not state.to_fetch(new.replica.ledger, {BOB}, 1000.0)

    assert state.to_fetch(new.replica.ledger, (), 0.0).keys() == {ANN, BOB}
    state.answered(new.replica.ledger, 0.0)
    assert not state.to_fetch(new.replica.ledger, (), 1000.0), "it was asked for all that it has, and does not have it"
