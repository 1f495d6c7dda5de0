"""Inbound pipes: proven by their preface, then joined with our gRPC server."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

from lattica.errors import NetworkError
from lattica.identity import PeerAddress, PeerId
from lattica.mesh.live_pipes import LivePipe, PipeTable
from lattica.mesh.pipes import accept_pipe
from lattica.mesh.preface import TicketOffice

logger = logging.getLogger(__name__)

MAX_PIPES = 4096
"""Inbound pipes of a node."""
MAX_PIPES_PER_PEER = 64
"""Inbound pipes of one peer. A peer needs one for each channel, and a second while paths change."""


class Inbound:
    """Takes the pipes that peers open to us, whatever way they come.

    Args:
        office: Recognises our tickets.
        table: Gets the pipes.

    Attributes:
        server: Unix socket of the gRPC server; ``None`` until it is known, and no pipe is taken.
    """

    def __init__(self, office: TicketOffice, table: PipeTable) -> None:
        self.server: Path | None = None
        self._office = office
        self._table = table

    async def accept(self, sock: socket.socket, remote: PeerAddress) -> None:
        """Take a connected socket, first byte unread; closed unless it becomes a pipe.

        Raises:
            NetworkError: It does not prove a link, or there are too many pipes.
        """
        peer, server = await accept_pipe(sock, self._office, self._connect_server)
        logger.debug("pipe accepted peer=%s remote=%s", peer, remote)
        self._table.join(server, sock, LivePipe(peer, None), lambda: None)

    async def _connect_server(self, peer: PeerId) -> socket.socket:
        if self.server is None or self._table.count >= MAX_PIPES:
            raise NetworkError("the node takes no pipes now")
        if len(self._table.of(peer)) >= MAX_PIPES_PER_PEER:
            raise NetworkError(f"{peer} has {MAX_PIPES_PER_PEER} pipes open")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(self.server))
        except OSError as error:
            sock.close()
            raise NetworkError("the node is closing") from error
        except BaseException:
            sock.close()
            raise
        return sock
