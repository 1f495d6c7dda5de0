"""A second TCP port for STUN, so that one node is enough to tell whether, and how, a NAT gives out ports.

RFC 5780 wants two addresses for that, which few machines have. Two ports of one address show less: not the NAT whose
mappings depend on the address alone. Such NATs are rare, and of them as little is known as with one port.
"""

from __future__ import annotations

import asyncio
import logging

from lattica.background import Background
from lattica.errors import ConfigError, PortInUseError
from lattica.mesh.listener import Unproven, open_listener
from lattica.mesh.reachability import Reachability
from lattica.mesh.stun import STUN_FIRST_BYTE
from lattica.mesh.stun_server import answer_stun

logger = logging.getLogger(__name__)


class SecondStunPort:
    """Open while we believe that others can dial us; nothing but STUN is answered there.

    Args:
        host: The address to bind, that of our one port.
        port: TCP port; 0 for any free one.
        unproven: Those of our one port: whoever comes to the second takes a place there.
        tasks: Run what goes on in the background.

    Attributes:
        number: The port; ``None`` while it is not open, or cannot be had.
    """

    def __init__(self, host: str, port: int, unproven: Unproven, tasks: Background) -> None:
        self.number: int | None = None
        self._host, self._port = host, port
        self._unproven = unproven
        self._tasks = tasks
        self._serving: asyncio.Task[None] | None = None
        self._closed = asyncio.Lock()  # held while it is open: it closes slowly, and may be wanted again at once

    def changed(self, state: Reachability) -> None:
        """We have learnt how we can be reached."""
        if state is Reachability.PUBLIC and self._serving is None:
            self._serving = self._tasks.start_unless_ending(self._serve())
        elif state is not Reachability.PUBLIC and self._serving is not None:
            self._serving.cancel()
            self._serving = None

    async def _serve(self) -> None:
        routes = {STUN_FIRST_BYTE: answer_stun}
        try:
            async with (
                self._closed,
                open_listener(self._host, self._port, routes, unproven=self._unproven) as listener,
            ):
                listener.start()
                self.number = listener.port
                logger.debug("second stun port open port=%d", listener.port)
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self.number = None
        except (PortInUseError, ConfigError) as error:
            logger.warning("no second stun port host=%s port=%d reason=%s", self._host, self._port, error)
