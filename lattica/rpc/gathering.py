"""When a message waits a moment for what may go with it."""

from __future__ import annotations

import asyncio

CROWD = 64
"""Other calls under way from which on a message waits. A message costs both sides as much as ten calls or more, and
each call that ends at a moment of its own, and is followed by another, would split what could travel together."""
TURNS = 2
"""Turns of the event loop that it waits: one for those who have an answer to call again, one for what they call."""


async def wait_for_more() -> None:
    """Let what runs now come to what it has to send."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
