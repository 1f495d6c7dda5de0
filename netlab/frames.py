"""Ethernet frames of many segments, as the kernel hands them to a TAP device, and losing some of the segments.

With segmentation offload one frame carries up to 64 KiB of a TCP or UDP flow, and a header (`virtio_net_hdr`) that
says how it would be cut. A link that loses packets must lose segments: what is left of a frame are the runs
between them.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

HEADER = struct.Struct("<BBHHHH")  # flags, kind, header length, segment size, checksum start, checksum offset
NEEDS_CHECKSUM = 1  # the checksum field holds the sum of the pseudo-header only
KIND_NONE, KIND_TCP4, KIND_TCP6, KIND_UDP, KIND_ECN = 0, 1, 4, 5, 0x80
ETHERNET = 14
IPV4, IPV6 = 4, 6
TCP_ONLY_FIRST = 0x80  # CWR
TCP_ONLY_LAST = 0x09  # FIN, PSH


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a frame, counted from after its virtio header."""

    flags: int
    kind: int
    segment: int
    transport: int
    checksum: int
    payload: int
    total: int

    @classmethod
    def of(cls, frame: bytes) -> "Layout":
        """Read it off a frame with its virtio header."""
        flags, kind, _, segment, transport, checksum = HEADER.unpack_from(frame)
        is_udp = kind & ~KIND_ECN == KIND_UDP
        header = 8 if is_udp else (frame[HEADER.size + transport + 12] >> 4) * 4
        total = len(frame) - HEADER.size
        return cls(flags, kind, segment, transport, checksum, transport + header, total)

    @property
    def is_udp(self) -> bool:
        """UDP, else TCP."""
        return self.kind & ~KIND_ECN == KIND_UDP


def segments(frame: bytes) -> int:
    """How many packets the frame stands for."""
    if frame[1] == KIND_NONE:
        return 1
    layout = Layout.of(frame)
    return max(1, -(-(layout.total - layout.payload) // layout.segment))


def without(frame: bytes, lost: Sequence[int]) -> list[bytes]:
    """The frames that are left when the segments at these positions, in rising order, are lost."""
    count = segments(frame)
    if not lost:
        return [frame]
    if count == 1:
        return []
    edges = [-1, *lost, count]
    runs = [(before + 1, after) for before, after in pairwise(edges)]
    layout = Layout.of(frame)
    return [_run(frame, layout, first, end, end == count) for first, end in runs if first < end]


def _run(frame: bytes, layout: Layout, first: int, end: int, is_last: bool) -> bytes:
    """A frame of its own for the segments ``first`` up to, not including, ``end``."""
    body = memoryview(frame)[HEADER.size :]
    headers = bytearray(body[: layout.payload])
    start = layout.payload + first * layout.segment
    payload = body[start : min(layout.payload + end * layout.segment, layout.total)]
    if not layout.is_udp:
        _fix_tcp(headers, layout.transport, first * layout.segment, first == 0, is_last)
    _fix_lengths(headers, layout, len(payload), first)
    several = end - first > 1
    virtio = HEADER.pack(
        layout.flags,
        layout.kind if several else KIND_NONE,
        layout.payload,
        layout.segment if several else 0,
        layout.transport,
        layout.checksum,
    )
    return b"".join((virtio, headers, payload))


def _fix_tcp(headers: bytearray, transport: int, skipped: int, is_first: bool, is_last: bool) -> None:
    (sequence,) = struct.unpack_from(">I", headers, transport + 4)
    struct.pack_into(">I", headers, transport + 4, (sequence + skipped) & 0xFFFFFFFF)
    if not is_first:
        headers[transport + 13] &= ~TCP_ONLY_FIRST & 0xFF
    if not is_last:
        headers[transport + 13] &= ~TCP_ONLY_LAST & 0xFF


def _fix_lengths(headers: bytearray, layout: Layout, payload: int, first: int) -> None:
    """Lengths and checksums of IP and UDP, and the seed of the transport's checksum."""
    length = len(headers) - layout.transport + payload
    if layout.is_udp:
        struct.pack_into(">H", headers, layout.transport + 4, length)
    if headers[ETHERNET] >> 4 == IPV4:
        (identification,) = struct.unpack_from(">H", headers, ETHERNET + 4)
        struct.pack_into(">H", headers, ETHERNET + 2, layout.transport - ETHERNET + length)
        struct.pack_into(">H", headers, ETHERNET + 4, (identification + first) & 0xFFFF)
        struct.pack_into(">H", headers, ETHERNET + 10, 0)
        checksum = ~ones_sum(headers[ETHERNET : layout.transport]) & 0xFFFF
        struct.pack_into(">H", headers, ETHERNET + 10, checksum)
        addresses = headers[ETHERNET + 12 : ETHERNET + 20]
    else:
        struct.pack_into(">H", headers, ETHERNET + 4, layout.transport - ETHERNET - 40 + length)
        addresses = headers[ETHERNET + 8 : ETHERNET + 40]
    protocol = 17 if layout.is_udp else 6
    seed = ones_sum(addresses + struct.pack(">II", length, protocol))
    struct.pack_into(">H", headers, layout.transport + layout.checksum, seed)


def ones_sum(data: bytes | bytearray) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071), without the final inversion."""
    padded = bytes(data) + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
