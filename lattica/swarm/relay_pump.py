"""Carries one circuit: bytes from each of two streams to the other, within limits."""

from __future__ import annotations

from collections.abc import Callable

import trio

from lattica.errors import StreamError
from lattica.swarm.mux import MAX_CIRCUIT_FRAME, MuxStream
from lattica.swarm.relay_wire import CircuitLimit

HALF_CLOSED_S = 30.0
"""Seconds that a circuit lives on after one side has said that it will send no more."""
_READ_SIZE = MAX_CIRCUIT_FRAME


async def carry(one: MuxStream, other: MuxStream, limit: CircuitLimit, rate: int, count: Callable[[int], None]) -> str:
    """Carry bytes both ways until the circuit ends, and return why it did. Both streams are given back, always.

    A side whose reader stalls makes the other wait; nothing is collected here but one frame.

    Args:
        one: One end.
        other: The other end.
        limit: Seconds that it may last, and bytes in each direction; 0 without limit.
        rate: Bytes/s in each direction; 0 without limit.
        count: Told the size of whatever was carried.
    """
    reasons: list[str] = []
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            if limit.duration:
                scope.deadline = trio.current_time() + limit.duration

            async def copy(source: MuxStream, sink: MuxStream) -> None:
                try:
                    await _copy(source, sink, limit.data, rate, count)
                except StreamError as error:
                    reasons.append(str(error))
                    scope.cancel()
                else:
                    reasons.append("closed")
                    scope.deadline = min(scope.deadline, trio.current_time() + HALF_CLOSED_S)

            nursery.start_soon(copy, one, other)
            nursery.start_soon(copy, other, one)
        if reasons == ["closed", "closed"]:
            await one.finish()
            await other.finish()
    finally:
        await one.reset()  # no effect on what is finished
        await other.reset()
    return next((reason for reason in reasons if reason != "closed"), "closed" if reasons else "its time is over")


async def _copy(source: MuxStream, sink: MuxStream, most: int, rate: int, count: Callable[[int], None]) -> None:
    carried, started = 0, trio.current_time()
    while data := await source.read_some(min(_READ_SIZE, rate) if rate else _READ_SIZE):
        carried += len(data)
        if most and carried > most:
            raise StreamError(f"more than {most} bytes through one circuit")
        await sink.write(data)
        count(len(data))
        if rate:
            # What was not used is gone after a second: a burst has a second's bytes at most.
            started = max(started + len(data) / rate, trio.current_time() - 1)
            await trio.sleep_until(started)
    await sink.close()
