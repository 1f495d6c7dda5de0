"""A link in user space, for kernels without netem: two TAP devices, and packets that take their time between.

It runs as a process of its own, ``python -m netlab.delay_line NAME_A NAME_B``, in the lab's namespace of links. Each
line on standard input is a shape from then on; the end of standard input, which the end of the lab brings about
however it comes, ends it. Frames keep their segmentation offload, so that one read and one write move up to 64 KiB.
"""

import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence

from netlab.frames import HEADER, segments, without
from netlab.shape import Shape

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
OFFLOAD_CHECKSUM, OFFLOAD_TCP, OFFLOAD_UDP = 0x01, 0x0E, 0x60  # TSO4, TSO6, TSO_ECN; USO4, USO6
MAX_FRAME = HEADER.size + 14 + 65_536 + 64
BATCH = 64  # frames read from one side before the other gets its turn
MAX_QUEUED = 256 * 1024 * 1024  # bytes in flight in one direction; what is beyond is dropped


def open_tap(name: str) -> int:
    """A new TAP device of this name, which vanishes when its descriptor is closed."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    fcntl.ioctl(tap, TUNSETIFF, request)
    try:
        fcntl.ioctl(tap, TUNSETOFFLOAD, OFFLOAD_CHECKSUM | OFFLOAD_TCP | OFFLOAD_UDP)
    except OSError:  # before Linux 6.2 the kernel cuts up UDP itself
        fcntl.ioctl(tap, TUNSETOFFLOAD, OFFLOAD_CHECKSUM | OFFLOAD_TCP)
    return tap


class Direction:
    """Frames on their way from one TAP device to the other."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self._frames: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._latest = 0.0

    def accept(self, shape: Shape, random_: random.Random) -> None:
        """Read what the source has, up to a batch, and decide when each frame arrives, if it does."""
        for _ in range(BATCH):
            try:
                frame = os.read(self.source, MAX_FRAME)
            except BlockingIOError:
                return
            now = time.monotonic()
            due = now + shape.delay + random_.uniform(-shape.jitter, shape.jitter)
            self._latest = max(self._latest, due)  # keeps the order
            for part in survivors(frame, shape.loss, random_):
                self._enqueue(part)

    def _enqueue(self, frame: bytes) -> None:
        if self._queued + len(frame) <= MAX_QUEUED:
            self._queued += len(frame)
            self._frames.append((self._latest, frame))

    def deliver(self) -> float | None:
        """Write the frames whose time has come; returns when the next is due, if there is one."""
        now = time.monotonic()
        while self._frames and self._frames[0][0] <= now:
            _, frame = self._frames.popleft()
            self._queued -= len(frame)
            os.write(self.sink, frame)
        return self._frames[0][0] if self._frames else None


def survivors(frame: bytes, loss: float, random_: random.Random) -> list[bytes]:
    """What of the frame a link with this loss lets through."""
    if loss == 0.0:
        return [frame]
    lost = [position for position in range(segments(frame)) if random_.random() < loss]
    return without(frame, lost)


def pump(left: int, right: int, control: int) -> None:
    """Move frames between two TAP devices until ``control`` ends."""
    there, back = Direction(left, right), Direction(right, left)
    by_source = {left: there, right: back}
    random_ = random.Random()
    shape = Shape()
    while True:
        due = [moment for way in (there, back) if (moment := way.deliver()) is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([left, right, control], [], [], timeout)
        for source in ready:
            if source == control:
                lines = os.read(control, 65_536).splitlines()
                if not lines:
                    return
                shape = Shape(**json.loads(lines[-1]))
            else:
                by_source[source].accept(shape, random_)


def main(argv: Sequence[str]) -> int:
    """Make the two devices, say so on standard output, and carry frames."""
    left, right = (open_tap(name) for name in argv)
    print("ready", flush=True)
    pump(left, right, sys.stdin.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
