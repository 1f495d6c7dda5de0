"""How fast calls are: Lattica, plain gRPC, and the original Lattica, side by side in one run.

Usage: python -m benchmarks.rpc [--quick] [--rounds N] [--no-lab] [--systems NAME ...] [--cases TEXT ...]

**lattica**: two nodes, a plain Python service (`lattica.rpc`), loopback, mutual TLS to the server's native port.
**grpc**: `grpc.aio`, bytes in and out without any encoding, mutual TLS over one TCP connection; no batches.
**original**: PyPI `lattica` 1.0.21 in a virtual environment of its own (`make bench-rpc` makes it); libp2p with Noise.

The same for all: payloads, a server and a client process that stay up, uvloop where there is an event loop, one
connection, seconds of warming up and of measuring, 30 s for a call. The cases take turns: in each round every case
goes once through all systems, another one first each time; the values are medians over the rounds. Rates count the
calls that were answered rightly, each answer compared with its request; those that failed are a column.

Not the same: on lattica and grpc, N in flight are N tasks, each of which calls again when it is answered. The original
has blocking futures: one thread keeps a window of N, and waits for the oldest before it makes another call. Its
requests have no streams, only an argument that it sends in pieces itself, here of the whole size. It is not asked for
what it has not: tensors (it would pickle them), and 10,000 callers of a handler that sleeps (its handlers block).

**The tensor**: with new processes; their memory at its peak while the call lasts, beyond what they held before it. The
caller held the tensor before; at the server it is a part of what is counted.
**Asleep**: so many callers of a handler that sleeps 5 s. Their calls begin evenly over one sleep, and are made again
and again. Then 100 others, who echo 128 B in turn, are measured over two sleeps; just before, the same 100 alone.
**50 and 150 ms away**: on two hosts of the lab, as root. The round trip is that of their link, which a Python process
delays; its speed is what that process manages, beside the others on the machine's processors.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.report import Row, report
from benchmarks.rpc_cases import ALL, Case, all_cases
from benchmarks.rpc_load import Value
from benchmarks.rpc_systems import Place, System, SystemFailedError
from netlab import LabError, Shape, open_lab, unavailable_reason

ROUNDS = 3
MAX_REASON = 160
"""Characters of it in the table; some libraries add their whole stack."""


@dataclass(slots=True)
class Measured:
    """What the rounds have come to, of one value on one system."""

    values: list[float] = field(default_factory=list)
    failed: int = 0
    reason: str | None = None


class Series:
    """Values by case, system and unit; said aloud as they come."""

    def __init__(self) -> None:
        self._cases: dict[str, dict[tuple[str, str], Measured]] = {}

    def add(self, case: Case, system: str, value: Value) -> None:
        """Take one."""
        name = f"{case.name}{value.name}"
        measured = self._measured(name, system, value.unit)
        measured.values.append(value.value)
        measured.failed += value.failed
        if value.reason is not None:
            measured.reason = measured.reason or _short(value.reason)
        failed = f", {value.failed} failed" if value.failed else ""
        _say(f"{name}: {system} {value.value:.4g} {value.unit}{failed}")

    def fail(self, case: Case, system: str, reason: str) -> None:
        """Take a measurement that came to nothing."""
        measured = self._measured(case.name, system, case.unit)
        measured.reason = measured.reason or _short(reason)
        _say(f"{case.name}: {system} failed: {_short(reason)}")

    def rows(self) -> Iterator[Row]:
        """One for each system of each case."""
        for name, systems in self._cases.items():
            for (system, unit), measured in sorted(systems.items(), key=lambda item: ALL.index(item[0][0])):
                yield Row.of(name, system, unit, measured.values, failed=measured.failed, reason=measured.reason)

    def _measured(self, name: str, system: str, unit: str) -> Measured:
        return self._cases.setdefault(name, {}).setdefault((system, unit), Measured())


def measure(cases: Sequence[Case], names: Sequence[str], rounds: int, place: Place, series: Series) -> None:
    """Measure all cases on all systems at one place, in turns."""
    with ExitStack() as ending:
        systems = [ending.enter_context(System(name, place)) for name in names]
        for number in range(rounds):
            first = number % len(systems)
            for case in cases:
                for system in (*systems[first:], *systems[:first]):
                    if system.name in case.systems:
                        _measure_one(case, system, series)


def _measure_one(case: Case, system: System, series: Series) -> None:
    try:
        values = system.measure(case)
    except SystemFailedError as error:
        series.fail(case, system.name, str(error))
    else:
        for value in values:
            series.add(case, system.name, value)


def measure_away(cases: Sequence[Case], names: Sequence[str], rounds: int, series: Series) -> None:
    """The same on hosts of the lab, so far away from each other as the cases, which agree in it, say."""
    away = Shape(delay=cases[0].round_trip_ms / 2000)
    with open_lab() as lab:
        place = Place(server=lab.host("server", link=away), client=lab.host("client"))
        measure(cases, names, rounds, place, series)


def run(cases: Sequence[Case], names: Sequence[str], rounds: int) -> list[Row]:
    """The rows of these cases; without those in the lab, if none can run here."""
    series = Series()
    for round_trip_ms in dict.fromkeys(case.round_trip_ms for case in cases):
        here = [case for case in cases if case.round_trip_ms == round_trip_ms]
        if round_trip_ms == 0:
            measure(here, names, rounds, Place(), series)
        elif reason := unavailable_reason():
            _say(f"nothing is measured {round_trip_ms} ms away, there is no lab: {reason}")
        else:
            try:
                measure_away(here, names, rounds, series)
            except LabError as error:
                _say(f"{round_trip_ms} ms away: {error}")
    return list(series.rows())


def end_at_signal() -> None:
    """From now on SIGTERM unwinds the stack, so that what was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _short(reason: str) -> str:
    words = " ".join(reason.split())
    return words if len(words) <= MAX_REASON else f"{words[:MAX_REASON]}…"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and report; 0 if ours, or whatever was asked for, failed nowhere."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rpc")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works; rpc-quick.json")
    parser.add_argument("--rounds", type=int, help=f"medians are over so many ({ROUNDS}; quick: 1)")
    parser.add_argument("--no-lab", action="store_true", help="loopback only")
    parser.add_argument("--systems", nargs="+", choices=ALL, default=ALL, metavar="NAME", help=", ".join(ALL))
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="TEXT", help="those with one of these in their name"
    )
    options = parser.parse_args(arguments)
    cases = [
        case
        for case in all_cases(quick=options.quick)
        if any(text in case.name for text in options.cases) and not (options.no_lab and case.round_trip_ms)
    ]
    end_at_signal()
    rows = run(cases, options.systems, options.rounds or (1 if options.quick else ROUNDS))
    if not rows:
        _say("nothing was measured")
        return 1
    report("rpc-quick" if options.quick else "rpc", rows)
    judged = "lattica" if "lattica" in options.systems else None
    return 1 if any(row.runs == 0 for row in rows if judged in {None, row.system}) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
