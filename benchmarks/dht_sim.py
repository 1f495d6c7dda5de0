"""Lookups in simulated networks of growing size after a fifth of the nodes died at once.

Usage: python -m benchmarks.dht_sim [--large] [--lookups N] [--seed N]

Prints a table and writes `benchmarks/results/dht_sim.json`. One seed gives the same figures on every machine; its speed
shows only in how long the simulation takes (100 to 3,162 nodes: a minute; 10,000 with --large: another).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS, Row
from lattica.dht.simulation import LookupOutcome, Trial, run_trial

SIZES = (100, 316, 1000, 3162)
LARGE = 10_000
DEAD = 0.2
COLUMNS = ("nodes", "lookup", "found", "rounds", "p95", "mean", "log2 n", "messages", "p95", "seconds", "p95")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help=f"{LARGE} nodes, too")
    parser.add_argument("--lookups", type=int, default=1000, help="of each kind, per size (default: 1000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    table = Table(*COLUMNS, title=f"DHT lookups with {DEAD:.0%} of the nodes gone (seed {options.seed})")
    for column in table.columns:
        column.justify = "left" if column.header == "lookup" else "right"
    rows: list[Row] = []
    for size in (*SIZES, LARGE) if options.large else SIZES:
        started = time.perf_counter()
        trial = run_trial(size, seed=options.seed, dead=DEAD, lookups=options.lookups)
        elapsed = time.perf_counter() - started
        print(f"{size} nodes: {trial.table_peers:.0f} contacts each, simulated in {elapsed:.1f} s", flush=True)
        for kind, outcomes in lookups_of(trial).items():
            table.add_row(str(size), kind, *cells(size, outcomes))
            rows += rows_of(f"{kind}, {size} nodes, {DEAD:.0%} gone", outcomes)
        table.add_section()
    Console(width=120).print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "dht_sim.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print("seconds are simulated: 20 to 200 ms a request, and a dead peer holds its place for 2 s")


def lookups_of(trial: Trial) -> dict[str, list[LookupOutcome]]:
    return {
        "find_peer": trial.find_peer,
        "find_providers": trial.find_providers,
        "find_closest": trial.find_closest,
    }


def cells(size: int, outcomes: Sequence[LookupOutcome]) -> list[str]:
    rounds = [outcome.rounds for outcome in outcomes]
    messages = [outcome.messages for outcome in outcomes]
    seconds = [outcome.seconds for outcome in outcomes]
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


def rows_of(case: str, outcomes: Sequence[LookupOutcome]) -> list[Row]:
    rounds = Row.of(f"{case}: rounds", "lattica", "rounds", [outcome.rounds for outcome in outcomes])
    messages = Row.of(f"{case}: messages", "lattica", "messages", [outcome.messages for outcome in outcomes])
    return [
        replace(Row.of(f"{case}: found", "lattica", "%", [found(outcomes)]), runs=len(outcomes)),
        rounds,
        replace(rounds, case=f"{rounds.case}, p95", median=percentile_95([outcome.rounds for outcome in outcomes])),
        messages,
        replace(messages, case=f"{messages.case}, p95", median=percentile_95([o.messages for o in outcomes])),
        Row.of(f"{case}: simulated time", "lattica", "s", [outcome.seconds for outcome in outcomes]),
    ]


def found(outcomes: Sequence[LookupOutcome]) -> float:
    return 100 * sum(outcome.found for outcome in outcomes) / len(outcomes)


def percentile_95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()
