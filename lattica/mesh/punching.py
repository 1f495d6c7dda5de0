"""Hole punching between nodes: `punch` over a stream of a control connection, for the pipes of a link."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable

from lattica.errors import NetworkError, PeerUnreachableError, PunchFailedError
from lattica.identity import PeerAddress
from lattica.mesh.link_table import LinkTable
from lattica.mesh.links import Link
from lattica.mesh.paths import PathKind
from lattica.mesh.pipes import OpenPipe, describe, prove_pipe
from lattica.mesh.preface import LinkRefusedError
from lattica.mesh.punch import answer_punch, punch, refuse_punch
from lattica.mesh.punch_gate import PunchGate
from lattica.mesh.reach import Reach
from lattica.swarm import Stream, Swarm

logger = logging.getLogger(__name__)

PUNCH_PROTOCOL = "/lattica/punch/1.0.0"


class _StreamSignal:
    """A control stream as `lattica.mesh.punch.PunchSignal`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, message: bytes) -> None:
        """See `PunchSignal`."""
        await self._stream.write_message(message)

    async def receive(self, limit: int) -> bytes | None:
        """See `PunchSignal`."""
        return await self._stream.read_message(limit)


class Punching:
    """Punches holes to peers, and takes part when they do.

    Args:
        swarm: Our control connections.
        table: Connects to peers.
        reach: Knows STUN servers.
        accept: Takes the pipes that peers open.
    """

    def __init__(
        self,
        swarm: Swarm,
        table: LinkTable,
        reach: Reach,
        accept: Callable[[socket.socket, PeerAddress], Awaitable[None]],
    ) -> None:
        self._swarm = swarm
        self._table = table
        self._reach = reach
        self._accept = accept
        self._gate = PunchGate()

    def serve(self) -> None:
        """Take part in the punches of peers."""
        self._swarm.serve_streams(PUNCH_PROTOCOL, self._answer)

    async def punch(self, link: Link, attempts: dict[str, str]) -> OpenPipe | None:
        """A pipe through the NATs; ``None`` if that failed, and ``attempts`` says why."""

        async def prove(sock: socket.socket, remote: PeerAddress) -> OpenPipe:
            return await prove_pipe(link, sock, PathKind.PUNCHED_TCP, remote)

        attempts["punch"] = "no answer yet"
        try:
            await self._table.connect(link.peer_id, {})
            async with await self._swarm.open_stream(link.peer_id, PUNCH_PROTOCOL) as stream:
                pipe = await punch(
                    _StreamSignal(stream),
                    self._reach.stun_servers(),
                    prove,
                    local_host=self._reach.bound_host,
                    attempts=attempts,
                )
        except PunchFailedError as error:
            attempts.update(error.attempts)
        except LinkRefusedError as error:
            attempts["punch"] = str(error)
        except PeerUnreachableError as error:
            attempts["punch"] = "; ".join(error.attempts.values()) or "not connected"
        except (NetworkError, OSError) as error:
            attempts["punch"] = describe(error)
        else:
            attempts.clear()
            return pipe
        return None

    async def _answer(self, stream: Stream) -> None:
        signal = _StreamSignal(stream)
        reason = self._gate.enter(stream.peer_id, time.monotonic())
        if reason is not None:
            logger.info("punch refused peer=%s reason=%s", stream.peer_id, reason)
            await refuse_punch(signal, reason)
            return
        try:
            await answer_punch(signal, self._reach.stun_servers(), self._accept, local_host=self._reach.bound_host)
        finally:
            self._gate.leave(stream.peer_id)
