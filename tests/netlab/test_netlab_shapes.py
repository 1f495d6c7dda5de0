"""What `tc` is told, for kernels with netem and without."""

import pytest

from netlab.shape import Shape, qdiscs

RATE = "qdisc add dev w1l {} handle 10: tbf rate 100000000bit burst 25000 limit 1275000"
NETEM = "qdisc add dev w1l root handle 1: netem limit 1000000 rate 100gbit delay 40000us 5000us loss 2.000000%"


@pytest.mark.parametrize(
    ("shape", "netem", "expected"),
    [
        (Shape(), True, []),
        (Shape(rate_mbit=100), True, [RATE.format("root")]),
        (Shape(rate_mbit=100), False, [RATE.format("root")]),
        (Shape(delay=0.04, jitter=0.005, loss=0.02), True, [NETEM]),
        (Shape(delay=0.04, jitter=0.005, loss=0.02), False, []),
        (Shape(delay=0.04, jitter=0.005, loss=0.02, rate_mbit=100), True, [NETEM, RATE.format("parent 1:1")]),
        (Shape(delay=0.04, jitter=0.005, loss=0.02, rate_mbit=100), False, [RATE.format("root")]),
    ],
)
def test_tc_commands(shape: Shape, netem: bool, expected: list[str]) -> None:
    assert list(qdiscs("w1l", shape, netem=netem)) == expected


def test_a_slow_link_still_passes_whole_packets() -> None:
    (line,) = qdiscs("w1l", Shape(rate_mbit=0.1), netem=False)
    assert "burst 3028 limit 6056" in line
