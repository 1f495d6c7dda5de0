"""A stream that starts over the relay, and a punched path that is found while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import pytest
from lab_nodes import SCRIPT, Homes, LabNodes, eventually, two_homes

from lattica._proto import control_pb2
from netlab import Lab

TICKS, PAUSE_S = 300, 0.1
"""Thirty seconds: the issue's."""
BLOCKED_S = 3.0
"""Seconds during which nothing passes between the two homes directly, so that the stream starts over the relay."""
MOVED_S = 25.0
"""Seconds from then until calls go by a punched path: attempts are 0, 1, 4 and 15 s apart."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@contextlib.contextmanager
def _blocked(homes: Homes) -> Iterator[None]:
    """Alice's router passes nothing to or from bob's."""
    (router,) = homes.alice.host.routers
    other = homes.bob.host.public_address
    table = f"""table ip blocked {{
        chain passing {{
            type filter hook forward priority -50
            ip saddr {other} drop
            ip daddr {other} drop
        }}
    }}
    """
    router.run(["nft", "-f", "-"], stdin=table)
    try:
        yield
    finally:
        router.run(["nft", "delete", "table", "ip", "blocked"])


async def test_a_stream_over_the_relay_ends_there_while_new_calls_move_to_the_punched_path(
    lab: Lab, nodes: LabNodes
) -> None:
    homes = await two_homes(lab, nodes, template=SCRIPT)
    alice, bob = homes.alice, homes.bob
    async with alice.events(bob) as events, alice.pinging(bob) as pings:
        with _blocked(homes):
            await alice.wait_path(bob, "relayed")
            stream = alice.tell("stream", peer=bob.peer_id, count=TICKS, pause=PAUSE_S)
            await asyncio.sleep(BLOCKED_S)
        await eventually(lambda: pings.replies[-1].path == "punched-tcp", MOVED_S, "calls by a punched path")
        assert not alice.has_answered(stream), "the stream should run while the path changes"
        (old,) = [pipe for pipe in await alice.pipes(bob) if pipe.path == "relayed"]
        answer = await alice.answer(stream, TICKS * PAUSE_S)
        happened = _happened(events)
        print(answer, [(round(event.elapsed_s, 1), event.event, event.path) for event in events])
        await eventually(lambda: ("closed", "relayed") in _happened(events), 5.0, "the end of the old path")
    assert answer["error"] == ""
    assert answer["received"] == TICKS
    assert not pings.failures
    assert pings.paths == ["relayed", "punched-tcp"]
    assert old.received_bytes > 0
    steps = [step for step in happened if step[0] != "failed"]
    assert steps[:3] == [("opened", "relayed"), ("better", "punched-tcp"), ("opened", "punched-tcp")]


def _happened(events: Sequence[control_pb2.PathEvent]) -> list[tuple[str, str]]:
    return [(event.event, event.path) for event in events]
