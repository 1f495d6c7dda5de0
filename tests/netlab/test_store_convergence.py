"""Replicas behind different NATs write while the network is split, and agree soon after it is whole again."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

import pytest
from lab_nodes import HOME, LINK, ROOT, LabNode, LabNodes, two_homes
from store_lab import STORE, Span, Trace, acknowledged, picture, wait_known, write_picture

from netlab import Lab, Nat

NATS = {
    "ann": Nat.EIM_APDF,
    "bob": Nat.EIM_EIF,
    "cyd": Nat.EIM_ADF,
    "dan": Nat.APDM_APDF_RANDOM,
    "eve": Nat.APDM_APDF_SEQUENTIAL,
}
EAST = ("ann", "bob", "dan")
"""The others are on a network in the west, with a relay of its own; what is cut is the link between the two."""
WRITES = 1000
PAUSE_S = 0.08
SPLIT_S = 15.0
"""Seconds of a split: longer than replicas, calls and paths wait before they give each other up."""
WHOLE_S = 15.0
HEALED_S = 5.0
"""Seconds from healing in which everything written before should be everywhere: printed, not asserted, as all times."""
PATIENCE_S = 60.0
"""Seconds after which it is taken for lost."""
WRITTEN_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_document_is_opened_by_its_id_alone_and_a_write_is_there_at_once(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes, nat=HOME, template=STORE)
    namespace = (await homes.alice.do("create"))["namespace"]
    opened = await homes.bob.do("open", namespace=namespace)
    print(f"opened by its ID alone in {float(str(opened['seconds'])):.2f} s")
    latencies = []
    for number in range(20):
        seeing = homes.bob.tell("seen", namespace=namespace, key=f"{number}")
        wrote = await homes.alice.do("touch", namespace=namespace, key=f"{number}")
        saw = await homes.bob.answer(seeing)
        latencies.append(float(str(saw["seen"])) - float(str(wrote["begun"])))
    latency, slowest = statistics.median(latencies), max(latencies)
    print(f"a write is read in the other home after {latency * 1000:.0f} ms (median), {slowest * 1000:.0f} ms at most")


async def test_five_homes_agree_after_two_splits_and_a_crash(lab: Lab, nodes: LabNodes) -> None:
    west = lab.network("west", link=LINK)
    relay = await nodes.start("relay", lab.host("relay", link=LINK), template=STORE)
    near = relay.at(relay.host.ipv4)
    other = await nodes.start("relay-west", lab.host("relay-west", upstream=west, link=LINK), near, template=STORE)
    far = other.at(other.host.ipv4)
    hosts = [
        lab.host(name, nat=nat, upstream=lab.internet if name in EAST else west, link=LINK)
        for name, nat in NATS.items()
    ]
    homes = await asyncio.gather(*(nodes.start(host.name, host, near, far, template=STORE) for host in hosts))
    namespace = str((await homes[0].do("create"))["namespace"])
    opened = await asyncio.gather(*(home.do("open", namespace=namespace) for home in homes[1:]))
    print("opened after", [f"{float(str(answer['seconds'])):.1f} s" for answer in opened])
    traces = [Trace(home) for home in homes]
    story = _Story(homes, traces, namespace, (near, far))
    assert west.link is not None
    for crash in (False, True):
        await story.whole()
        west.link.down()
        await story.split(crash=crash)
        west.link.up()
        await story.healed()
    await story.end()


class _Story:
    """What happens to the homes."""

    def __init__(
        self, homes: Sequence[LabNode], traces: Sequence[Trace], namespace: str, bootstrap: tuple[str, str]
    ) -> None:
        self._homes = homes
        self._traces = traces
        self._namespace = namespace
        self._bootstrap = bootstrap
        self._writing = {home.name: self._write(home) for home in homes}
        self._spans: list[Span] = []
        self._took: list[float] = []

    def _write(self, home: LabNode) -> int:
        done = acknowledged(home)
        first = done[-1] + 1 if done else 1
        return home.tell("write", namespace=self._namespace, first=first, last=WRITES, pause=PAUSE_S)

    async def whole(self) -> None:
        await asyncio.sleep(WHOLE_S)

    async def split(self, *, crash: bool) -> None:
        """The network is split; one of the homes may crash meanwhile, and come back."""
        begun = time.monotonic()
        await asyncio.sleep(SPLIT_S / 3)
        if crash:
            home = self._homes[0]
            await home.kill()
            await home.start(*self._bootstrap)
            await home.do("open", namespace=self._namespace)
            self._writing[home.name] = self._write(home)
        await asyncio.sleep(max(0.0, begun + SPLIT_S - time.monotonic()))
        totals = [sum(trace.heads().values()) for trace in self._traces]
        print("entries known at the end of the split:", totals)
        assert len(set(totals)) > 1, "the network was not split"
        label = "split, a crash" if crash else "split"
        self._spans.append(Span(begun, time.monotonic(), label))

    async def healed(self) -> None:
        """What was written until now gets everywhere."""
        began = time.monotonic()
        written: dict[str, int] = {}
        for trace in self._traces:
            for author, seq in trace.heads().items():
                written[author] = max(seq, written.get(author, 0))
        try:
            self._took.append(await wait_known(self._traces, written, began, PATIENCE_S))
        finally:
            self._draw()
        took = self._took[-1]
        print(f"all know what was written before the healing after {took:.1f} s ({HEALED_S:.0f} s wanted)")

    async def end(self) -> None:
        """All have written all, and agree."""
        await asyncio.gather(*(home.answer(self._writing[home.name], WRITTEN_S) for home in self._homes))
        began = time.monotonic()
        last = {home.peer_id: WRITES for home in self._homes}
        took = await wait_known(self._traces, last, began, PATIENCE_S)
        print(f"all know the last write after {took:.1f} s")
        self._draw()
        states = [await home.do("state", namespace=self._namespace) for home in self._homes]
        assert len({str(state["frontier"]) for state in states}) == 1
        expected = sorted(f"{home.peer_id}/{number}" for home in self._homes for number in acknowledged(home))
        for state in states:
            assert state["writes"] == expected, "an acknowledged write is lost"
            assert isinstance(state["counted"], dict)
            for home in self._homes:
                assert WRITES <= state["counted"][home.peer_id] <= WRITES + 1

    def _draw(self) -> None:
        notes = [f"{WRITES} writes each; everywhere {', '.join(f'{took:.1f} s' for took in self._took)} after healing"]
        drawing = picture(self._traces, self._spans, notes)
        print("see", write_picture(drawing, ROOT / "netlab" / "results", "store_convergence"))
