"""A fetch goes on by a better way to its provider when there is one, and loses nothing by that."""

from __future__ import annotations

import random
from pathlib import Path

from content_peers import CHUNK, Content, ContentPeers, ScriptedProvider, wait_until

from lattica.content.provider_stream import Context
from lattica.content.provider_wire import Wanted

MODEL = Content.of({"model.bin": random.Random(2).randbytes(200 * CHUNK)})


class MovingProvider(ScriptedProvider):
    """Says, after some of its answers, that there is a better way to it; goes on when somebody takes it, or at once."""

    def __init__(self, content: Content, peers: ContentPeers, every: int, *, waits: bool) -> None:
        super().__init__(content)
        self._peers = peers
        self._every = every
        self._waits = waits

    async def answer(self, wanted: Wanted, context: Context) -> None:
        await super().answer(wanted, context)
        if len(self.served) % self._every == 0:
            calls = self.calls
            self._peers.channels.move()
            if self._waits:
                await wait_until(lambda: self.calls > calls)


async def test_a_fetch_asks_by_the_better_way_and_still_takes_what_comes_by_the_old(tmp_path: Path) -> None:
    async with ContentPeers(tmp_path) as peers:
        provider = MovingProvider(MODEL, peers, every=50, waits=True)
        fetcher, _ = peers.fetcher(await peers.serve(provider))
        result = await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
        assert provider.calls > 1
        assert len(provider.served) == len(set(provider.served)) == 200, "nothing was asked for twice"
        (source,) = result.sources
        assert (source.chunks, source.dropped) == (200, "")


async def test_a_way_that_moves_all_the_time_does_not_stop_a_fetch(tmp_path: Path) -> None:
    async with ContentPeers(tmp_path) as peers:
        provider = MovingProvider(MODEL, peers, every=1, waits=False)
        fetcher, _ = peers.fetcher(await peers.serve(provider))
        await fetcher.fetch(MODEL.cid, tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == MODEL.data
