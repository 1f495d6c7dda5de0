"""Losing segments out of offloaded frames: what is left is what a cable would have carried."""

import random
import struct
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from netlab.delay_line import survivors
from netlab.frames import HEADER, KIND_NONE, KIND_TCP4, KIND_TCP6, KIND_UDP, NEEDS_CHECKSUM, ones_sum, segments, without

FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
ADDRESSES4 = bytes([11, 1, 0, 2, 11, 2, 0, 2])
ADDRESSES6 = bytes(range(32))


@dataclass(frozen=True)
class Packet:
    """One packet as it would be on the cable: the fields that cutting a frame sets."""

    sequence: int
    flags: int
    identification: int
    payload: bytes


def frame(
    payload: bytes,
    size: int,
    *,
    udp: bool = False,
    ipv6: bool = False,
    sequence: int = 0,
    ident: int = 0,
    options: int = 0,
) -> bytes:
    """What the kernel writes to a TAP device, as its own rules have it."""
    if udp:
        transport = struct.pack(">HHHH", 1000, 2000, 8 + len(payload), 0)
        offset, protocol = 6, 17
    else:
        words, flags = 5 + options, FIN | PSH | ACK | CWR
        transport = struct.pack(">HHIIBBHHH", 1000, 2000, sequence, 7, words << 4, flags, 500, 0, 0) + bytes(
            4 * options
        )
        offset, protocol = 16, 6
    length = len(transport) + len(payload)
    if ipv6:
        network = struct.pack(">IHBB", 6 << 28, length, protocol, 64) + ADDRESSES6
    else:
        network = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, ident, 0x4000, 64, protocol, 0) + ADDRESSES4
        network = network[:10] + struct.pack(">H", ~ones_sum(network) & 0xFFFF) + network[12:]
    kind = KIND_UDP if udp else KIND_TCP6 if ipv6 else KIND_TCP4
    if len(payload) <= size:
        kind, size = KIND_NONE, 0
    start = 14 + len(network)
    virtio = HEADER.pack(NEEDS_CHECKSUM, kind, start + len(transport), size, start, offset)
    seeded = bytearray(transport)
    addresses = ADDRESSES6 if ipv6 else ADDRESSES4
    struct.pack_into(">H", seeded, offset, ones_sum(addresses + struct.pack(">II", length, protocol)))
    return virtio + bytes(12) + (b"\x86\xdd" if ipv6 else b"\x08\x00") + network + bytes(seeded) + payload


def on_the_cable(data: bytes) -> list[Packet]:
    """Cut a frame as a network card does, checking every length and checksum on the way."""
    flags, kind, _, size, start, offset = HEADER.unpack_from(data)
    assert flags == NEEDS_CHECKSUM
    body = data[HEADER.size :]
    ipv6 = body[14] >> 4 == 6
    protocol = body[20] if ipv6 else body[23]
    addresses = body[22:54] if ipv6 else body[26:34]
    length = len(body) - start
    assert struct.unpack_from(">H", body, 18 if ipv6 else 16)[0] == (length if ipv6 else 20 + length)
    assert ipv6 or ones_sum(body[14:34]) == 0xFFFF
    (seed,) = struct.unpack_from(">H", body, start + offset)
    assert seed == ones_sum(addresses + struct.pack(">II", length, protocol))
    if protocol == 17:
        assert struct.unpack_from(">H", body, start + 4)[0] == length
        header, sequence, tcp_flags = 8, 0, 0
    else:
        header = (body[start + 12] >> 4) * 4
        (sequence,) = struct.unpack_from(">I", body, start + 4)
        tcp_flags = body[start + 13]
    payload = body[start + header :]
    ident = 0 if ipv6 else struct.unpack_from(">H", body, 18)[0]
    assert (kind == KIND_NONE) == (size == 0)
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] if size else [payload]
    return [
        Packet(
            (sequence + number * size) & 0xFFFFFFFF if protocol == 6 else 0,
            tcp_flags & ~(CWR if number else 0) & ~(FIN | PSH if number < len(parts) - 1 else 0),
            (ident + number) & 0xFFFF if not ipv6 else 0,
            part,
        )
        for number, part in enumerate(parts)
    ]


frames = st.builds(
    frame,
    st.integers(60, 300).map(lambda length: bytes(number % 251 for number in range(length))),
    st.integers(10, 80),
    udp=st.booleans(),
    ipv6=st.booleans(),
    sequence=st.integers(0, 0xFFFFFFFF),
    ident=st.integers(0, 0xFFFF),
    options=st.integers(0, 10),
)


@given(frames, st.data())
def test_what_is_left_of_a_frame_is_what_the_cable_would_have_carried(whole: bytes, data: st.DataObject) -> None:
    """Packets are the same, and in the same order, as if single ones had been taken out."""
    packets = on_the_cable(whole)
    assert segments(whole) == len(packets)
    lost = sorted(data.draw(st.sets(st.sampled_from(range(len(packets))), min_size=1)))
    kept = [packet for number, packet in enumerate(packets) if number not in lost]
    assert [packet for part in without(whole, lost) for packet in on_the_cable(part)] == kept


def test_a_frame_without_losses_stays_whole() -> None:
    whole = frame(bytes(5000), 1448)
    assert without(whole, []) == [whole]
    assert survivors(whole, 0.0, random.Random(1)) == [whole]


def test_each_segment_of_a_frame_is_lost_by_itself() -> None:
    chance, whole = random.Random(1), frame(bytes(45 * 100), 100)
    left = sum(segments(part) for _ in range(1000) for part in survivors(whole, 0.1, chance))
    assert abs(left / 45_000 - 0.9) < 0.01
    assert survivors(whole, 1.0, chance) == []
