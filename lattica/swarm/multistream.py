"""multistream-select on a new stream: which protocol it is for.

The opener sends header, protocol and its first bytes at once, which saves two round trips; every multistream
implementation accepts that. Source: https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from collections.abc import Container

from lattica.errors import RemoteProtocolError, StreamError
from lattica.identity.varint import encode_varint
from lattica.swarm.mux import MuxStream

HEADER = b"/multistream/1.0.0\n"
MAX_LINE = 1024
"""Bytes of one line; the specification's own limit for protocol names is 1024."""
MAX_PROPOSALS = 32
"""Protocols that an opener may propose before we give up on the stream."""


async def propose(stream: MuxStream, protocol: str, first: bytes = b"") -> None:
    """Open ``stream`` for ``protocol`` with ``first`` as its first bytes; `confirm` reads the answer."""
    line = protocol.encode() + b"\n"
    await stream.write(encode_varint(len(HEADER)) + HEADER + encode_varint(len(line)) + line + first)


async def confirm(stream: MuxStream, protocol: str) -> None:
    """Read the other side's answer to `propose`.

    Raises:
        StreamError: It does not serve the protocol, or the stream was lost.
        RemoteProtocolError: It answered something else.
    """
    await _expect_header(stream)
    answer = await _read_line(stream)
    if answer == "na":
        raise StreamError(f"the peer does not serve {protocol}")
    if answer != protocol:
        raise RemoteProtocolError("unexpected answer in protocol negotiation", stream.peer)


async def negotiate(stream: MuxStream, served: Container[str]) -> str | None:
    """Answer the opener of ``stream``; the protocol that both agreed on, or ``None`` if we serve none of its own."""
    await stream.write_message(HEADER)
    await _expect_header(stream)
    for attempt in range(MAX_PROPOSALS):
        try:
            proposal = await _read_line(stream)
        except RemoteProtocolError:
            if attempt == 0:
                raise
            return None  # an opener that was sure of its protocol sent its first bytes along
        if proposal in served:
            await stream.write_message(proposal.encode() + b"\n")
            return proposal
        await stream.write_message(b"na\n")
    raise RemoteProtocolError(f"more than {MAX_PROPOSALS} protocols proposed", stream.peer)


async def _expect_header(stream: MuxStream) -> None:
    if await _read_line(stream) != HEADER[:-1].decode():
        raise RemoteProtocolError("no multistream header", stream.peer)


async def _read_line(stream: MuxStream) -> str:
    line = await stream.read_message(MAX_LINE)
    if line is None:
        raise StreamError("the stream ended during protocol negotiation")
    if not line.endswith(b"\n"):
        raise RemoteProtocolError("negotiation line without a newline", stream.peer)
    return line[:-1].decode(errors="replace")
