"""Lookups in simulated networks of growing size after a fifth of the nodes died at once.

Prints a table and writes `benchmarks/results/dht_sim.json`. Deterministic for a seed; the machine's speed shows in
nothing but the time that it takes (100 to 3,162 nodes: half a minute; 10,000 with --large: two minutes more).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lattica.dht.simulation import LookupOutcome, Trial, run_trial

RESULTS = Path(__file__).resolve().parent / "results" / "dht_sim.json"
SIZES = (100, 316, 1000, 3162)
LARGE = 10_000
DEAD = 0.2
Row = dict[str, str | float | int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help=f"{LARGE} nodes, too")
    parser.add_argument("--lookups", type=int, default=1000, help="of each kind, per size (default: 1000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    table = Table(title=f"DHT lookups with {DEAD:.0%} of the nodes gone, seed {options.seed}")
    for heading in ("nodes", "lookup", "found", "rounds", "p95", "mean", "log2 n", "messages", "p95", "seconds", "p95"):
        table.add_column(heading, justify="left" if heading == "lookup" else "right")
    rows: list[Row] = []
    for size in (*SIZES, LARGE) if options.large else SIZES:
        started = time.perf_counter()
        trial = run_trial(size, seed=options.seed, dead=DEAD, lookups=options.lookups)
        for kind, outcomes in lookups_of(trial).items():
            table.add_row(str(size), kind, *cells(size, outcomes))
            rows += rows_of(size, kind, outcomes)
        table.add_section()
        elapsed = time.perf_counter() - started
        print(f"{size} nodes: {trial.table_peers:.0f} contacts each, simulated in {elapsed:.1f} s", flush=True)
    Console(width=120).print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"seconds are simulated; written to {RESULTS}")


def lookups_of(trial: Trial) -> dict[str, list[LookupOutcome]]:
    return {
        "find_peer": trial.find_peer,
        "find_providers": trial.find_providers,
        "find_closest": trial.find_closest,
    }


def cells(size: int, outcomes: Sequence[LookupOutcome]) -> list[str]:
    rounds, messages, seconds = measures(outcomes)
    return [
        f"{found(outcomes):.1f}%",
        f"{statistics.median(rounds):g}",
        f"{percentile_95(rounds):g}",
        f"{statistics.mean(rounds):.2f}",
        f"{math.log2(size):.1f}",
        f"{statistics.median(messages):g}",
        f"{percentile_95(messages):g}",
        f"{statistics.median(seconds):.2f}",
        f"{percentile_95(seconds):.2f}",
    ]


def rows_of(size: int, kind: str, outcomes: Sequence[LookupOutcome]) -> list[Row]:
    rounds, messages, seconds = measures(outcomes)
    case = f"{kind}, {size} nodes, {DEAD:.0%} gone"
    percent = found(outcomes)
    return [
        {
            "case": f"{case}: found", "system": "lattica", "unit": "%",
            "median": percent, "min": percent, "max": percent, "runs": len(outcomes),
        },
        row(f"{case}: rounds", "rounds", rounds),
        row(f"{case}: messages", "messages", messages),
        row(f"{case}: time", "s (simulated)", seconds),
        {**row(f"{case}: rounds, p95", "rounds", rounds), "median": percentile_95(rounds)},
        {**row(f"{case}: messages, p95", "messages", messages), "median": percentile_95(messages)},
    ]  # fmt: skip


def row(case: str, unit: str, values: Sequence[float]) -> Row:
    return {
        "case": case, "system": "lattica", "unit": unit,
        "median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values),
    }  # fmt: skip


def measures(outcomes: Sequence[LookupOutcome]) -> tuple[list[float], list[float], list[float]]:
    return (
        [outcome.rounds for outcome in outcomes],
        [outcome.messages for outcome in outcomes],
        [outcome.seconds for outcome in outcomes],
    )


def found(outcomes: Sequence[LookupOutcome]) -> float:
    return 100 * sum(outcome.found for outcome in outcomes) / len(outcomes)


def percentile_95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()
