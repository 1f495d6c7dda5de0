"""Local TCP ports that listen and dial at one time, as hole punching needs: one, and perhaps another for IPv6.

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

IPv6 is not translated, mostly, and firewalls are NATs that drop: where the machine has a global address, a port of it
is offered beside the IPv4 one, and no STUN server is needed for it.
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

from lattica.background import Background, background_tasks
from lattica.errors import NetworkError
from lattica.identity import PeerAddress
from lattica.mesh.accepting import accept
from lattica.mesh.congestion import avoid_delay_based
from lattica.mesh.own_ipv6 import outbound_ipv6
from lattica.mesh.paths import host_candidates, is_local
from lattica.mesh.pipes import configure, describe
from lattica.mesh.punch_candidates import PunchPlan
from lattica.mesh.punch_messages import MAX_HOSTS, Offer
from lattica.mesh.stun import Endpoint
from lattica.mesh.stun_client import ANY_IPV4, ANY_IPV6, LearnedPort, bind_shared, learn_from_many, stun_host

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
STAGGER_S = 0.005
"""Seconds between two dials through a NAT that counts: SYNs at one time may overtake each other on a busy machine."""

HandOver = Callable[[socket.socket, Endpoint], Coroutine[Any, Any, None]]
"""Takes over a connected, non-blocking socket, and closes it if cancelled. Raises nothing."""


class PunchPort:
    """Made by `open_punch_port`.

    Args:
        listeners: On the ports to punch from, one of a family.
        offer: The ports, for the peer.
    """

    def __init__(self, listeners: Sequence[socket.socket], offer: Offer) -> None:
        self.offer = offer
        self._listeners = listeners
        self._local = {listener.family: listener.getsockname()[:2] for listener in listeners}
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

            for listener in self._listeners:
                tasks.start(self._accept(listener, plan, take))
            await asyncio.sleep(at - time.monotonic())
            tasks.start(self._dial_all(plan, take, attempts, tasks))
            await asyncio.sleep(until - time.monotonic())
            tasks.cancel_all()
            if handed:
                await asyncio.wait(handed)

    async def _accept(
        self, listener: socket.socket, plan: PunchPlan, take: Callable[[socket.socket, Endpoint], None]
    ) -> None:
        while True:
            try:
                sock, name = await accept(listener)
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

    async def _dial_all(
        self,
        plan: PunchPlan,
        take: Callable[[socket.socket, Endpoint], None],
        attempts: dict[str, str],
        tasks: Background,
    ) -> None:
        for target in plan.targets:
            tasks.start(self._dial(target, take, attempts))
            if plan.is_counted:
                await asyncio.sleep(STAGGER_S)

    async def _dial(
        self, target: Endpoint, take: Callable[[socket.socket, Endpoint], None], attempts: dict[str, str]
    ) -> None:
        """Dial until it connects, or has been refused often enough."""
        loop, name = asyncio.get_running_loop(), PeerAddress.tcp(*target).text
        family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
        attempts[name] = "no answer"
        for refusals in range(1, MAX_DIALS + 1):
            started = time.monotonic()
            sock = bind_shared(*self._local[family])
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

    If ``local_host`` is a wildcard, there is one of our IPv6 address as well, or alone if no STUN server answers.

    Raises:
        NetworkError: No STUN server answered.
        OSError: From the system.
    """
    host = stun_host(servers, local_host)
    async with contextlib.AsyncExitStack() as stack:
        ipv6 = _listen_ipv6(stack) if local_host in {ANY_IPV4, ANY_IPV6} and host == ANY_IPV4 else None
        try:
            learned = await stack.enter_async_context(learn_from_many(servers, local_host=host, attempts=attempts))
        except NetworkError:
            if ipv6 is None:
                raise
            learned = None
        listeners = [] if ipv6 is None else [ipv6]
        if learned is not None:
            listeners.append(_listen(stack, host, learned.local.port))
        yield PunchPort(listeners, _offer(host, learned, ipv6))


def _offer(host: str, learned: LearnedPort | None, ipv6: socket.socket | None) -> Offer:
    beside = [] if ipv6 is None else [Endpoint(*ipv6.getsockname()[:2])]
    if learned is None:
        return Offer(mapped=beside[0], mapping=None, port_step=None)
    report = learned.report
    hosts = (*beside, *_hosts(host, learned.local))[:MAX_HOSTS]
    return Offer(mapped=report.mapped, mapping=report.mapping, port_step=report.port_step, hosts=hosts)


def _hosts(local_host: str, local: Endpoint) -> tuple[Endpoint, ...]:
    """Our interfaces' addresses, the one that leads to the servers first."""
    others = (Endpoint(one.host, local.port) for one in host_candidates(local_host, local.port))
    same_family = (one for one in others if (":" in one.host) == (":" in local.host))
    return tuple(one for one in dict.fromkeys((local, *same_family)) if not is_local(one.host))


def _listen(stack: contextlib.AsyncExitStack, host: str, port: int) -> socket.socket:
    listener = stack.enter_context(contextlib.closing(bind_shared(host, port)))
    listener.listen(BACKLOG)
    return listener


def _listen_ipv6(stack: contextlib.AsyncExitStack) -> socket.socket | None:
    host = outbound_ipv6()
    try:
        return None if host is None else _listen(stack, host, 0)
    except OSError as error:  # the address has gone this moment
        logger.debug("cannot punch by ipv6 host=%s reason=%s", host, error)
        return None
