"""What a link does to packets, and how to tell `tc`."""

from collections.abc import Iterator
from dataclasses import dataclass

MTU = 1514  # bytes of the largest frame on a link
BURST_TIME = 0.002  # seconds at full rate that may pass at once
MIN_BURST = 2 * MTU
NETEM_QUEUE = 1_000_000  # packets in flight; its default of 1000 would be a second, hidden limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a link treats the packets of each direction; the default is a perfect link.

    Attributes:
        delay: Seconds from end to end, one way: a round trip takes twice as long.
        jitter: Each packet's delay varies by up to this many seconds either way. Order is kept.
        loss: Share of packets that vanish, 0 to 1; each is drawn by itself.
        rate_mbit: Megabits (10**6) per second, Ethernet headers included; ``None`` is unlimited.
        queue: Seconds of traffic that wait before a limited link when it is full; what is beyond is dropped.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate_mbit: float | None = None
    queue: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.loss <= 1.0:
            raise ValueError(f"loss {self.loss} is no share between 0 and 1")
        if not 0.0 <= self.jitter <= self.delay:
            raise ValueError(f"jitter {self.jitter} is not between 0 and the delay, {self.delay}")
        if self.queue <= 0.0 or (self.rate_mbit is not None and self.rate_mbit <= 0.0):
            raise ValueError("queue and rate must be more than 0")

    @property
    def impaired(self) -> bool:
        """Whether the link needs more than a rate limit."""
        return self.delay > 0.0 or self.loss > 0.0


def qdiscs(device: str, shape: Shape, *, netem: bool) -> Iterator[str]:
    """`tc` commands that give ``device``, which has no qdisc, the shape for what it sends.

    Without ``netem`` only the rate is theirs, and something else delays and loses.
    """
    parent = "root"
    if netem and shape.impaired:
        # A rate, however high, is what makes netem keep the order of packets with jitter.
        yield (
            f"qdisc add dev {device} root handle 1: netem limit {NETEM_QUEUE} rate 100gbit "
            f"delay {_us(shape.delay)}us {_us(shape.jitter)}us loss {shape.loss * 100:.6f}%"
        )
        parent = "parent 1:1"
    if shape.rate_mbit is not None:
        yield f"qdisc add dev {device} {parent} handle 10: {_bucket(shape.rate_mbit, shape.queue)}"


def _bucket(rate_mbit: float, queue: float) -> str:
    per_second = rate_mbit * 1e6 / 8  # bytes
    # A packet of many segments that is larger than the bucket is cut up, so that small links stay smooth.
    burst = max(MIN_BURST, round(per_second * BURST_TIME))
    limit = burst + max(MIN_BURST, round(per_second * queue))
    return f"tbf rate {round(rate_mbit * 1e6)}bit burst {burst} limit {limit}"


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
