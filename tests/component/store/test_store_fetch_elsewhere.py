"""A peer that was asked and does not answer, as one that is cut off, does not keep others from being asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from lattica.background import background_tasks
from lattica.store.namespace import Policy
from lattica.store.sync_session import ANSWER_S, LEASE_S, PING_S, SILENCE_S
from lattica.store.sync_state import offer_of
from lattica.store.sync_wire import FrameReader, FrameWriter, SyncMessage
from lattica.store.testing import MemoryLink, MemoryNetwork, converged, key_of

PATIENCE_S = 40.0
"""Less than anything else takes for which the mute peer would be given up."""


@pytest.mark.slow
async def test_what_a_peer_does_not_deliver_is_fetched_from_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattica.store.sync_session.SILENCE_S", 10 * PATIENCE_S)
    network, mute = MemoryNetwork(), key_of(3).peer_id
    async with network.open(key_of(1), tmp_path) as alice, network.open(key_of(2), tmp_path) as bob:
        written = await alice.create(policy=Policy.OPEN)
        copy = await bob.open(written.namespace)
        await converged([written, copy])
        network.partition([key_of(1).peer_id], [key_of(2).peer_id])
        async with written.transaction():
            written.register("r").set(1)

        replicator = bob.replicator_of(written.namespace)
        assert replicator is not None
        ours, theirs = MemoryLink(network, mute, key_of(2).peer_id), MemoryLink(network, key_of(2).peer_id, mute)
        ours.other, theirs.other = theirs, ours
        async with background_tasks() as tasks:
            tasks.start(replicator.serve(theirs))
            heads = {chain: offer_of(head) for chain, head in written.frontier().heads.items()}
            await ours.send(FrameWriter().write(SyncMessage(namespace=written.namespace.raw, heads=heads)))
            reader = FrameReader()
            while not reader.read(await ours.receive() or b"").wanted:
                pass
            network.heal()
            await converged([written, copy], timeout=PATIENCE_S)
            assert mute in replicator.peers, "it was not given up before"
    assert LEASE_S + PING_S < SILENCE_S < PATIENCE_S < ANSWER_S
