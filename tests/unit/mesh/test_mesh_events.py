"""The stream of events: every reader gets every event, and a slow one knows what it has missed."""

from __future__ import annotations

import asyncio

from lattica.identity import PeerId
from lattica.mesh.events import MAX_EVENTS, PathEvent, PathEventKind, PathEvents

ALICE = PeerId(bytes((0x12, 0x20)) + bytes(32))


def event(number: int) -> PathEvent:
    return PathEvent(peer_id=ALICE, kind=PathEventKind.FAILED, reason=str(number))


async def test_every_reader_gets_every_event_in_order() -> None:
    events = PathEvents()
    with events.subscribe() as first, events.subscribe() as second:
        for number in range(3):
            events.emit(event(number))
        for reader in (first, second):
            assert [(await anext(reader)).reason for _ in range(3)] == ["0", "1", "2"]


async def test_a_reader_waits_for_the_next_event() -> None:
    events = PathEvents()
    with events.subscribe() as reader:
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        assert not waiting.done()
        events.emit(event(7))
        assert (await waiting).reason == "7"


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    events = PathEvents()
    with events.subscribe() as reader:
        for number in range(MAX_EVENTS + 5):
            events.emit(event(number))
        first, second = await anext(reader), await anext(reader)
    assert (first.reason, first.missed) == ("5", 5)
    assert (second.reason, second.missed) == ("6", 0)


async def test_nothing_is_kept_for_a_reader_that_has_left() -> None:
    events = PathEvents()
    with events.subscribe():
        pass
    events.emit(event(1))
    assert not events._readers
