"""Who is present is told to all replicas, over whatever streams there are, and kept nowhere."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from lattica.store.document import Document
from lattica.store.namespace import Policy
from lattica.store.presence_spread import BURST, PresenceOutlet
from lattica.store.testing import MemoryNetwork, key_of


async def sees(document: Document, expected: dict[object, object]) -> None:
    async with asyncio.timeout(20):
        while document.presence.values() != expected:
            await asyncio.sleep(0.01)


async def test_all_see_who_comes_changes_and_goes(tmp_path: Path) -> None:
    network = MemoryNetwork()
    keys = [key_of(number) for number in range(1, 7)]
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(network.open(key, tmp_path)) for key in keys]
        first = await stores[0].create(policy=Policy.OPEN)
        documents = [first, *[await store.open(first.namespace) for store in stores[1:5]]]

        await first.presence.set({"cursor": 1})
        await documents[4].presence.set("here")
        for document in documents:
            await sees(document, {keys[0].peer_id: {"cursor": 1}, keys[4].peer_id: "here"})
        late = await stores[5].open(first.namespace)
        await sees(late, {keys[0].peer_id: {"cursor": 1}, keys[4].peer_id: "here"})

        await first.presence.set({"cursor": 2})
        await documents[4].presence.set(None)
        for document in [*documents, late]:
            await sees(document, {keys[0].peer_id: {"cursor": 2}})
        assert not await stores[1].disk.records(first.namespace.raw)


def test_a_peer_cannot_tell_more_than_its_share() -> None:
    outlet = PresenceOutlet(lambda: None)
    assert sum(outlet.may_tell(1000.0) for _ in range(5000)) == BURST
    assert not outlet.may_tell(1000.0)
    assert sum(outlet.may_tell(1001.0) for _ in range(5000)) == 200


def test_a_slow_peer_gets_the_newest() -> None:
    outlet = PresenceOutlet(lambda: None)
    for number in range(5000):
        outlet.put(number.to_bytes(4))
    taken = []
    while some := outlet.take():
        assert len(some) <= 64
        taken += some
    assert taken[-1] == (4999).to_bytes(4)
    assert len(taken) == 1024
