"""A local TCP port that listens and dials at one time, as hole punching needs.

What two NATs see decides how to dial. Each forgets nothing and admits whoever its own side has sent a SYN to:

- **One that drops** what is unsolicited needs no timing and no repetition. The first SYN is lost at the peer's NAT, but
  has opened ours; the peer's SYN, whenever it comes, enters by it, meets our socket in SYN-SENT (simultaneous open),
  and our SYN-ACK enters by theirs. So a dial that is not answered stays as it is: to close it and dial again would
  only put a new sequence number in the way of answers to the old one. SYNs that are lost for real are sent again by
  the kernel after 1 s.
- **One that answers with RST** makes our connect fail, and on its way back the RST closes what our SYN had opened
  (conntrack drops an entry whose only answer is a RST). So a dial that is refused is repeated after a short pause:
  the hole is open but for the pauses, one part in five of the time, and a peer's SYN that comes later than that first
  one finds it so. If it falls into a pause it is refused in its turn, and comes again one round trip later. Two sides
  that repeat with the same pauses could go on like that for ever; so pauses are random.
- Between our pauses, and where NATs filter less, the peer's SYN meets no dial; then the listener takes the
  connection. So does it when the peer's NAT has given the SYN a port that nobody could know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from lattica.background import background_tasks
from lattica.identity import PeerAddress
from lattica.mesh.congestion import avoid_delay_based
from lattica.mesh.paths import host_candidates, is_local
from lattica.mesh.pipes import configure, describe
from lattica.mesh.punch_candidates import PunchPlan
from lattica.mesh.punch_messages import MAX_HOSTS, Offer
from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_client import bind_shared, learn_from_many

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Connections of one round that are waited for or proven; twice as many as there are targets."""
BACKLOG = MAX_CONNECTIONS
MAX_DIALS = 32
"""Dials of one target in one round; `PAUSE_GROWTH_S` makes them last a second at least."""
PAUSE_SHARE = 0.25
"""The pause after a refused dial, on average, as a share of the time that the refusal took."""
PAUSE_GROWTH_S = 0.002
"""Seconds by which pauses get longer with each refusal, so that `MAX_DIALS` last on a LAN, too."""
MAX_PAUSE_S = 0.1

HandOver = Callable[[socket.socket, Endpoint], Coroutine[Any, Any, None]]
"""Takes over a connected, non-blocking socket, and closes it if cancelled. Raises nothing."""


class PunchPort:
    """Made by `open_punch_port`.

    Attributes:
        offer: The port, for the peer.
    """

    def __init__(self, local_host: str, listener: socket.socket, offer: Offer) -> None:
        self.offer = offer
        self._local = local_host, int(listener.getsockname()[1])
        self._listener = listener
        self._taken = 0

    async def run_round(
        self, plan: PunchPlan, at: float, until: float, hand_over: HandOver, attempts: dict[str, str]
    ) -> None:
        """Dial ``plan``'s targets from ``at`` until ``until`` (`time.monotonic`), and take connections all the while.

        Returns when all that have connected until then have been handed over. Cancelled, it leaves nothing open
        but what `hand_over` has taken. ``attempts`` gets what became of each target.
        """
        async with background_tasks() as handing, background_tasks() as tasks:
            handed: list[asyncio.Task[None]] = []

            def take(sock: socket.socket, remote: Endpoint) -> None:
                if self._taken >= MAX_CONNECTIONS:
                    sock.close()
                    return
                self._taken += 1
                task = handing.start(hand_over(sock, remote))
                # A task that is cancelled before its first step has not seen its socket.
                task.add_done_callback(lambda done: sock.close() if done.cancelled() or done.exception() else None)
                handed.append(task)

            tasks.start(self._accept(plan, take))
            await asyncio.sleep(at - time.monotonic())
            for target in plan.targets:
                tasks.start(self._dial(target, take, attempts))
            await asyncio.sleep(until - time.monotonic())
            tasks.cancel_all()
            if handed:
                await asyncio.wait(handed)

    async def _accept(self, plan: PunchPlan, take: Callable[[socket.socket, Endpoint], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, name = await loop.sock_accept(self._listener)
            except OSError as error:
                logger.info("punch cannot accept reason=%s", error)
                await asyncio.sleep(MAX_PAUSE_S)
                continue
            remote = Endpoint(name[0], name[1])
            if remote.host not in plan.hosts:
                logger.debug("punch ignores a stranger remote=%s", remote)
                sock.close()
                continue
            configure(sock)
            take(sock, remote)

    async def _dial(
        self, target: Endpoint, take: Callable[[socket.socket, Endpoint], None], attempts: dict[str, str]
    ) -> None:
        """Dial until it connects, or has been refused often enough."""
        loop, name = asyncio.get_running_loop(), PeerAddress.tcp(*target).text
        attempts[name] = "no answer"
        for refusals in range(1, MAX_DIALS + 1):
            started = time.monotonic()
            sock = bind_shared(*self._local)
            avoid_delay_based(sock)
            try:
                await loop.sock_connect(sock, tuple(target))
            except OSError as error:
                # Among others "address not available": the listener has just taken a connection with this very target.
                sock.close()
                attempts[name] = describe(error)
            except BaseException:
                sock.close()
                raise
            else:
                attempts[name] = "connected"
                take(sock, target)
                return
            pause = max((time.monotonic() - started) * PAUSE_SHARE, refusals * PAUSE_GROWTH_S)
            await asyncio.sleep(min(pause, MAX_PAUSE_S) * random.uniform(0.2, 1.8))  # noqa: S311 - guards nothing


@contextlib.asynccontextmanager
async def open_punch_port(
    servers: Sequence[PeerAddress], local_host: str, attempts: dict[str, str]
) -> AsyncIterator[PunchPort]:
    """A new local port that listens, and whose mappings are known and held while the block runs.

    Raises:
        NetworkError: No STUN server answered.
        OSError: From the system.
    """
    async with learn_from_many(servers, local_host=local_host, attempts=attempts) as learned:
        with contextlib.closing(bind_shared(local_host, learned.local.port)) as listener:
            listener.listen(BACKLOG)
            report = learned.report
            offer = Offer(
                mapped=report.mapped,
                mapping=report.mapping,
                port_step=report.port_step,
                hosts=_hosts(local_host, learned.local),
            )
            yield PunchPort(local_host, listener, offer)


def _hosts(local_host: str, local: Endpoint) -> tuple[Endpoint, ...]:
    """Our interfaces' addresses, the one that leads to the servers first."""
    others = (Endpoint(one.host, local.port) for one in host_candidates(local_host, local.port))
    usable = [one for one in dict.fromkeys((local, *others)) if not is_local(one.host)]
    return tuple(usable[:MAX_HOSTS])
