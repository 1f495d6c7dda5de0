"""multistream-select below a connection's streams, without waiting for its answers.

The proposal travels with the first bytes of what it proposes, and the answer is checked when the other side's first
bytes come. That saves a round trip for each of Noise and yamux. Every multistream implementation accepts it.
"""

from __future__ import annotations

from typing import Any, Protocol

from libp2p.io.exceptions import ConnectionClosedError

from lattica.errors import RemoteProtocolError
from lattica.identity.varint import encode_varint
from lattica.swarm.multistream import HEADER


class ByteConnection(Protocol):
    """What Noise and yamux read and write."""

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes, or fewer at the end."""

    async def write(self, data: bytes) -> None:
        """Send all of ``data``."""


class ProposedConnection:
    """A connection on which we propose one protocol, and go on as if it were agreed; otherwise the inner one."""

    def __init__(self, inner: ByteConnection, protocol: str) -> None:
        line = protocol.encode() + b"\n"
        self._inner = inner
        self._protocol = protocol
        self._unconfirmed = [HEADER, line]
        self._unsent = b"".join(encode_varint(len(one)) + one for one in self._unconfirmed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, after the proposal."""
        proposal, self._unsent = self._unsent, b""
        await self._inner.write(proposal + data)

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes (``None``: at least one), or fewer at the end, after the answer.

        Raises:
            RemoteProtocolError: The other side does not agree.
        """
        while self._unconfirmed:
            await self._confirm(self._unconfirmed[0])
            del self._unconfirmed[0]
        return await self._inner.read(n)

    async def _confirm(self, line: bytes) -> None:
        length = await self._inner.read(1)
        if not length:
            raise ConnectionClosedError("the connection ended during protocol negotiation")
        if length[0] != len(line) or await self._inner.read(len(line)) != line:
            raise RemoteProtocolError(f"the other side does not speak {self._protocol}")
