"""How fast a model gets from one home to another, and how soon the first call does: real nodes in the NAT lab.

Usage: python -m benchmarks.mesh FILE [--runs N] [--rounds N] [--only WORD ...]

As root. Both peers are behind NATs of their own. Each fetch has nodes of its own, with new homes and thus new
identities, and routers that have forgotten everything. They meet at a third node, their relay, on a public host whose
link adds neither delay nor limit. **cold** is what a user sees who types `lattica fetch` first of all: its seconds
include finding the peer, a start over the relay and the move to the punched path. **warm** is after calls to the
peer have reached the path in question. Seconds are those of `lattica fetch`: found, fetched, each byte verified, on
disk, synced, exported. The yardstick, interleaved with them, is one plain TCP connection between two public hosts
with the same links, its connecting included, into memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mesh_site import MeasurementError, Pair, PlainPair
from benchmarks.report import Row, report
from netlab import LabError, Nat, Shape, open_lab
from netlab.matrix.kinds import KINDS
from netlab.matrix.nodes import TrialError
from netlab.matrix.programs import Programs
from netlab.matrix.rows import Row as Round
from netlab.matrix.trial import Trials

MB = 10**6
MEGABIT = MB / 8
RUNS = 3
ROUNDS = 20
ROUND_DELAY = 0.01
"""Seconds, one way, of each site's link in the rounds of first calls, as in `make lab`: 40 ms from peer to peer."""
ROUNDS_PER_RELAY = 10


@dataclass(frozen=True)
class Net:
    """Links to measure on.

    Attributes:
        name: For the table.
        link: Each site's. From site to site the round trip is four times its delay.
        nats: Of both homes, by the path that they lead to.
    """

    name: str
    link: Shape
    nats: Mapping[str, Nat]


NETS = (
    Net(
        "500 Mbit/s, 10 ms",
        Shape(delay=0.0025, rate_mbit=500),
        {"punched-tcp": Nat.EIM_APDF, "relayed": Nat.APDM_APDF_RANDOM},
    ),
    Net("no limit, no delay", Shape(), {"punched-tcp": Nat.EIM_APDF}),
    Net("100 Mbit/s, 80 ms", Shape(delay=0.02, rate_mbit=100), {"punched-tcp": Nat.EIM_APDF}),
)


class Series:
    """Measurements by case, system and unit; said aloud as they come."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, str], list[float]]] = {}

    def add(self, case: str, system: str, unit: str, value: float) -> None:
        """Take one."""
        self._values.setdefault(case, {}).setdefault((system, unit), []).append(value)
        print(f"{case}: {system} {value:.3g} {unit}", file=sys.stderr, flush=True)

    def rows(self) -> Iterator[Row]:
        """One for each system of each case, ours first."""
        for case, systems in self._values.items():
            for (system, unit), values in systems.items():
                yield Row.of(case, system, unit, values)


def measure_net(net: Net, model: Path, runs: int, series: Series) -> None:
    """Fetch over each path, cold and warm, and by plain TCP, in turns."""
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder, open_lab() as lab:
        plain = PlainPair(lab, net.link, model)
        pairs = {
            path: Pair(lab, f"{number}", nat, net.link, model, Path(folder) / path)
            for number, (path, nat) in enumerate(net.nats.items())
        }
        for _ in range(runs):
            rate = plain.fetch() / MB
            for path, pair in pairs.items():
                for state in ("warm", "cold"):
                    case = f"{net.name}, {path}, {state}"
                    fetched = pair.fetch(path, warm=state == "warm") / MB
                    series.add(case, "lattica", "MB/s", fetched)
                    series.add(case, "tcp", "MB/s", rate)
                    if net.link.rate_mbit is not None:
                        series.add(case, "the limit", "MB/s", net.link.rate_mbit * MEGABIT / MB)


def measure_first_calls(rounds: int, series: Series) -> int:
    """Make first calls between two homes of the commonest kind; how many did not come to a punched path."""
    kind, failed = KINDS["EIM_APDF"], 0

    def take(row: Round) -> None:
        nonlocal failed
        failed += not (row.ok and row.path == "punched-tcp")
        if row.first_byte_s is not None and row.best_path_s is not None:
            series.add("first call, EIM/APDF both, 40 ms: first byte", "lattica", "s", row.first_byte_s)
            series.add("first call, EIM/APDF both, 40 ms: best path", "lattica", "s", row.best_path_s)
        if row.reason:
            print(f"first call: {row.reason}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder, open_lab() as lab:
        trials = Trials(
            lab,
            Programs(),
            delay=ROUND_DELAY,
            folder=Path(folder),
            keep=Path(folder) / "logs",
            cancelled=threading.Event(),
        )
        for start in range(0, rounds, ROUNDS_PER_RELAY):
            trials.run([(kind, kind)] * min(ROUNDS_PER_RELAY, rounds - start), take)
    return failed


def main(arguments: Sequence[str]) -> int:
    """Measure and report; 0 if all that was tried worked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesh")
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=RUNS, help=f"fetches of each kind ({RUNS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"first calls ({ROUNDS})")
    parser.add_argument("--only", default="", metavar="TEXT", help="links with this in their name")
    options = parser.parse_args(arguments)
    series = Series()
    failed = 0
    try:
        for net in NETS:
            if options.only in net.name:
                measure_net(net, options.model.absolute(), options.runs, series)
        if options.rounds:
            failed = measure_first_calls(options.rounds, series)
    except (LabError, MeasurementError, TrialError) as error:
        print(f"bench-mesh: {error}", file=sys.stderr)
        failed += 1
    rows = list(series.rows())
    if rows:
        report("mesh", rows)
    if failed:
        print(f"{failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
