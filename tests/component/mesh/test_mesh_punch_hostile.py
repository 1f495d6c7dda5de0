"""A peer that asks for a thousand punches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest
from call_services import Services, echo, echo_stub
from descriptors import count_descriptors
from mesh_rooms import Rooms, open_rooms
from waiting import until

from lattica.errors import NetworkError
from lattica.mesh.punch_gate import MAX_PER_PEER_AND_MINUTE, MAX_PUNCHES_PER_PEER, MINUTE_S
from lattica.mesh.punch_messages import MAX_PUNCH_MESSAGE, Result, decode_punch
from lattica.mesh.punching import PUNCH_PROTOCOL

PUNCHES = 1000
AT_ONCE = 100
ALL_S = 150.0
"""Seconds for all of them: one costs both sides a stream and a message, some 5 ms together."""
CALL_S = 30.0
"""Seconds for another peer's call meanwhile, its connection included."""
REFUSALS = (
    f"{MAX_PUNCHES_PER_PEER} punches with you are running",
    f"you may begin {MAX_PER_PEER_AND_MINUTE} punches a minute",
)
QUIET_S = 60.0
"""Seconds until those that were admitted are over and nothing of them is left."""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_thousand_punches_are_refused_cheaply_and_cost_the_others_nothing() -> None:
    async with open_rooms() as victim, open_rooms() as hostile, open_rooms() as other:
        services = Services(victim.rpc)
        for peer in (hostile, other):
            await echo_stub(peer.knows(victim)).Echo(echo("hello"), timeout=CALL_S)
        await until(lambda: services.echo.calls == 2)
        await asyncio.sleep(0)
        before = _held()
        outcomes: Counter[str] = Counter()
        started = time.monotonic()
        async with asyncio.timeout(ALL_S), asyncio.TaskGroup() as tasks:
            gate = asyncio.Semaphore(AT_ONCE)
            asking = [tasks.create_task(_ask(hostile, victim, gate, outcomes)) for _ in range(PUNCHES)]
            calls, slowest = 0, 0.0
            while not all(task.done() for task in asking):
                called = time.monotonic()
                await echo_stub(other.rpc.channel(victim.peer_id)).Echo(echo("hello"), timeout=CALL_S)
                calls, slowest = calls + 1, max(slowest, time.monotonic() - called)
                await asyncio.sleep(0.02)
        print(f"{dict(outcomes)} in {time.monotonic() - started:.1f} s; {calls} calls, slowest {slowest:.2f} s")
        assert sum(outcomes.values()) == PUNCHES
        refused = sum(outcomes[reason] for reason in REFUSALS)
        admitted = MAX_PER_PEER_AND_MINUTE * (1 + int((time.monotonic() - started) // MINUTE_S))
        assert PUNCHES - admitted <= refused < PUNCHES, "the gate has to admit some, and refuse most"
        assert calls
        await until(lambda: all(now <= then for now, then in zip(_held(), before, strict=True)), QUIET_S)
        assert (await echo_stub(hostile.rpc.channel(victim.peer_id)).Echo(echo("still"), timeout=CALL_S)).payload


async def _ask(hostile: Rooms, victim: Rooms, gate: asyncio.Semaphore, outcomes: Counter[str]) -> None:
    """Ask for a punch, and say nothing; what the victim answers first."""
    async with gate:
        try:
            async with await hostile.swarm.open_stream(victim.peer_id, PUNCH_PROTOCOL) as stream:
                answer = await stream.read_message(MAX_PUNCH_MESSAGE)
        except NetworkError as error:
            outcomes[str(error)] += 1
            return
        message = decode_punch(answer) if answer is not None else None
        outcomes[message.reason if isinstance(message, Result) else "admitted"] += 1  # a silent one fails in the end


def _held() -> tuple[int, int, int]:
    return count_descriptors("socket"), len(asyncio.all_tasks()), threading.active_count()
