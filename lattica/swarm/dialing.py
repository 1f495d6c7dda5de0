"""Dial all addresses of a peer at once, a little apart; the first that proves to be the peer wins."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from lattica.errors import NetworkError
from lattica.identity import PeerAddress, PeerId

DIAL_STAGGER_S = 0.25
"""Seconds between two dials of one race; RFC 8305 (happy eyeballs) recommends 250 ms."""
CONNECT_TIMEOUT_S = 5.0
"""Seconds for one TCP connection."""
MAX_RACE = 16
"""Addresses of one peer that are dialled at most."""
MAX_CIRCUIT_RACE = 4
"""Of those, addresses through relays; a node has a relay or two."""

T = TypeVar("T")


def dialable(us: PeerId, peer: PeerId, addresses: Sequence[PeerAddress], *, direct: bool) -> list[PeerAddress]:
    """Those of ``addresses`` at which ``peer`` may answer us, in their order; no circuits if ``direct``."""
    named = [address for address in dict.fromkeys(addresses) if address.peer_id in {None, peer}]
    circuits = [one for one in named if one.relay is not None and one.relay.peer_id not in {us, peer} and not direct]
    circuits = circuits[:MAX_CIRCUIT_RACE]
    chosen = {*circuits, *[one for one in named if one.is_tcp][: MAX_RACE - len(circuits)]}
    return [one for one in named if one in chosen]


async def connect_tcp(address: PeerAddress) -> socket.socket:
    """A connected TCP socket; DNS names are resolved.

    Raises:
        NetworkError: In the words of the operating system.
    """
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(address.host, address.port, happy_eyeballs_delay=DIAL_STAGGER_S)
    except trio.TooSlowError as error:
        raise NetworkError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s") from error
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        raise NetworkError(_reason(error)) from error
    return socket.socket(fileno=stream.socket.detach())


async def race(
    attempt: Callable[[PeerAddress], Awaitable[T]], addresses: Sequence[PeerAddress]
) -> tuple[T | None, dict[str, str]]:
    """The first result of ``attempt`` over ``addresses`` and, per failed address, the reason; losers are cancelled."""
    failures: dict[str, str] = {}
    winners: list[T] = []
    async with trio.open_nursery() as nursery:
        failed = trio.Event()

        async def run(address: PeerAddress) -> None:
            nonlocal failed
            try:
                winner = await attempt(address)
            except NetworkError as error:
                failures[address.text] = str(error)
                failed.set()
                failed = trio.Event()
            else:
                winners.append(winner)
                nursery.cancel_scope.cancel()

        for address in addresses[:MAX_RACE]:
            nursery.start_soon(run, address)
            with trio.move_on_after(DIAL_STAGGER_S):
                await failed.wait()
    return (winners[0] if winners else None), failures


def _reason(error: BaseException) -> str:
    """The operating system's words, out of trio's wrapping."""
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno).lower()
    if isinstance(error, BaseExceptionGroup):
        return _reason(error.exceptions[0])
    return _reason(error.__cause__) if error.__cause__ is not None else str(error).lower()
