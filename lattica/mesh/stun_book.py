"""At which second ports the STUN servers that we know answer us."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from lattica.background import Background
from lattica.errors import NetworkError
from lattica.identity import PeerAddress
from lattica.mesh.pipes import describe
from lattica.mesh.punch_candidates import MIN_PORT
from lattica.mesh.stun_client import MAX_STUN_SERVERS, can_ask, learn_mapping, stun_host

logger = logging.getLogger(__name__)

RECHECK_S = 60.0
"""Seconds after which a server that is used is asked again: it may have got a second port, or another, or none."""


class StunBook:
    """Learns second ports before they are needed, so that a punch asks both at one time.

    Few servers are enough, so that only the first of them are ever asked for theirs.

    Args:
        tasks: Run what goes on in the background.
        clock: Seconds.
    """

    def __init__(self, tasks: Background, clock: Callable[[], float] = time.monotonic) -> None:
        self._tasks = tasks
        self._clock = clock
        self._seconds: dict[str, PeerAddress | None] = {}
        self._asked_at: dict[str, float] = {}

    def completed(self, servers: Sequence[PeerAddress]) -> list[PeerAddress]:
        """``servers``, and behind them second ports of theirs as far as they are too few, and known."""
        seconds = [self._seconds.get(server.text) for server in servers]
        return [*servers, *(second for second in seconds if second is not None)][: max(MAX_STUN_SERVERS, len(servers))]

    def learn(self, servers: Sequence[PeerAddress], local_host: str) -> None:
        """Begin to ask those whose second port is not known, or has been for long, if ``servers`` are too few."""
        names = {server.text for server in servers}
        for name in self._asked_at.keys() - names:
            self.forget(name)
        if len(servers) >= MAX_STUN_SERVERS:
            return
        for server in servers:
            due = self._clock() - self._asked_at.get(server.text, -RECHECK_S) >= RECHECK_S
            host = stun_host([server], local_host)
            if due and can_ask(server, host):
                self._asked_at[server.text] = self._clock()
                self._tasks.start_unless_ending(self._learn(server, host))

    def forget(self, name: str) -> None:
        """The server of this address (its text) may be another one now."""
        self._asked_at.pop(name, None)
        self._seconds.pop(name, None)

    async def _learn(self, server: PeerAddress, local_host: str) -> None:
        """A second port counts when it has answered: a firewall may be before it, and then it only costs time."""
        second = None
        try:
            with contextlib.closing(await learn_mapping(server, 0, local_host=local_host)) as held:
                if held.second_port is not None and held.second_port >= MIN_PORT:
                    second = PeerAddress.tcp(server.host, held.second_port)
                    (await learn_mapping(second, 0, local_host=local_host)).close()
        except (NetworkError, OSError) as error:
            logger.debug("second stun port not learnt server=%s reason=%s", server, describe(error))
            second = None
        if server.text in self._asked_at:
            self._seconds[server.text] = second
