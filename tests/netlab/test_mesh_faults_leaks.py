"""What is left of paths that were opened, bettered and closed: nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from lab_nodes import SCRIPT, Homes, LabNode, LabNodes, eventually, two_homes

from netlab import Lab

ROUNDS = 3
SLACK = {"sockets": 0, "descriptors": 2, "threads": 2, "tasks": 0}
"""How many more there may be: gRPC and executors have threads, and descriptors for them, by the load. Less than
`ROUNDS`, so that one that stays each time is seen."""
GONE_S = 15.0
"""Seconds until what belonged to a closed path is gone: a pipe that nobody took waits 5 s, a punch's socket 10 s."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_a_path_that_is_opened_punched_and_closed_leaves_nothing(lab: Lab, nodes: LabNodes) -> None:
    homes = await two_homes(lab, nodes, template=SCRIPT)
    await _call_and_hang_up(homes)  # whatever is made once, for good, is made now: threads, a control connection
    everybody = (homes.relay, homes.alice, homes.bob)
    before = {node.name: await _wait_steady(node) for node in everybody}
    print(before)
    for _ in range(ROUNDS):
        await _call_and_hang_up(homes)
    for node in everybody:
        seen: list[Mapping[str, int]] = []

        async def as_before(node: LabNode = node, seen: list[Mapping[str, int]] = seen) -> bool:
            seen.append(await _counts(node))
            return all(seen[-1][what] <= count + SLACK[what] for what, count in before[node.name].items())

        try:
            await eventually(as_before, GONE_S, f"{node.name} as before")
        except AssertionError as error:
            raise AssertionError(f"{error}: it was {before[node.name]} and is {seen[-1]}") from None


async def _call_and_hang_up(homes: Homes) -> None:
    await homes.alice.wait_path(homes.bob)
    answer = await homes.alice.do("hang_up", peer=homes.bob.peer_id)
    assert answer["closed"]

    async def no_pipe() -> bool:
        return not await homes.alice.pipes(homes.bob) and not await homes.bob.pipes(homes.alice)

    await eventually(no_pipe, GONE_S, "the end of the pipes")


async def _counts(node: LabNode) -> Mapping[str, int]:
    counts = {"sockets": node.sockets(), "descriptors": node.descriptors(), "threads": node.threads()}
    return {**counts, "tasks": int(str((await node.do("tasks"))["tasks"]))}


async def _wait_steady(node: LabNode) -> Mapping[str, int]:
    """What it has when nothing changes any more."""
    last: list[Mapping[str, int]] = [{}]
    same = 0

    async def steady() -> bool:
        nonlocal same
        now = await _counts(node)
        same = same + 1 if now == last[0] else 0
        last[0] = now
        return same >= 40

    await eventually(steady, 2 * GONE_S, f"{node.name} at rest")
    return last[0]
