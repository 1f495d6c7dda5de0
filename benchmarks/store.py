"""How fast documents are written, replicated and opened, against plain pycrdt in memory, in one run.

Usage: python -m benchmarks.store [--only CASES] [--rounds N] [--synced N] [--opened N] [--edited N] [--replicas N ...]

All of ours is on disk, with an fsync before anything counts as written, and each entry is signed and checked. pycrdt is
the floor: the same edits, the same updates applied, without signatures, rules, disk or network. Cases are interleaved.
How many bytes a write costs is counted among replicas in one process, over a network in memory; the floor is the entry.
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from benchmarks import store_cases, store_sync
from benchmarks.report import Row, report
from benchmarks.store_documents import edits, open_genesis, plain_update, store_entries, write_document
from benchmarks.store_edits import TURNS, edited
from lattica.identity import IdentityKey
from lattica.node.home import DOCUMENTS_FILE
from lattica.store import Genesis
from lattica.store.testing import measure_traffic

ROUNDS = 7
SYNCED = 100_000
OPENED = 1_000_000
EDITED = 100_000
SYNC_ROUNDS = 3
AUTHORS = 3
GROUPS = ("alone", "sync", "open", "lists", "replicas")
REPLICAS = (5, 10, 20, 50)
WRITERS = 10
WRITE_ROUNDS = 10
MEMORY = Path("/dev/shm")
"""Where fsync takes no time: many replicas in one process would measure nothing else."""
KB, MB = 10**3, 10**6

Measure = Callable[[Path], float | Awaitable[float]]
CASES: dict[tuple[str, str], Measure] = {
    ("1 writer, durable", "lattica"): store_cases.one_writer,
    ("1 writer, durable", "pycrdt, in memory"): store_cases.plain_writes,
    ("1 writer, durable", "append + fdatasync"): store_cases.append_and_sync,
    ("100 writers, durable", "lattica"): store_cases.many_writers,
    ("100 writers, durable", "pycrdt, in memory"): store_cases.plain_writes,
    ("1,000 values a transaction", "lattica"): store_cases.together,
    ("1,000 values a transaction", "pycrdt, in memory"): store_cases.plain_together,
    ("apply another's entries", "lattica"): store_cases.apply,
    ("apply another's entries", "pycrdt, in memory"): store_cases.plain_apply,
}


class Series:
    """Measurements by case, system and unit; said aloud as they come."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, case: str, system: str, unit: str, value: float) -> None:
        """Take one."""
        self._values.setdefault((case, system, unit), []).append(value)
        print(f"{case}: {system} {value:,.3g} {unit}", file=sys.stderr, flush=True)

    def rows(self) -> Iterator[Row]:
        """One for each."""
        for (case, system, unit), values in self._values.items():
            yield Row.of(case, system, unit, values)


async def measure_alone(rounds: int, series: Series) -> None:
    """What one replica does by itself."""
    for _ in range(rounds):
        for (case, system), measure in CASES.items():
            with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder:
                found = measure(Path(folder))
                series.add(case, system, "/s", await found if inspect.isawaitable(found) else found)


async def measure_sync(count: int, series: Series) -> None:
    """An empty replica gets a document over loopback."""
    case = f"sync {count:,} writes to an empty replica"
    authors = [IdentityKey.generate() for _ in range(AUTHORS)]
    count -= count % AUTHORS
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder:
        home, copy = Path(folder) / "home", Path(folder) / "copy"
        genesis = await write_document(home / DOCUMENTS_FILE, authors, count)
        async with store_sync.process("serve", str(home), str(genesis.namespace)) as provider:
            for _ in range(SYNC_ROUNDS):
                series.add(case, "lattica", "s", await store_sync.sync_once(copy, provider["address"], genesis, count))
                shutil.rmtree(copy)
                series.add(case, "pycrdt, in memory", "s", store_cases.plain_apply_s(list(edits(1, count))))


async def measure_open(count: int, series: Series) -> None:
    """A large document is opened: the first time after it came to be there, again, and when it has been compacted."""
    case = f"open {count:,} entries"
    with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder:
        path = Path(folder) / DOCUMENTS_FILE
        print(f"{case}: writing them", file=sys.stderr, flush=True)
        authors = [store_sync.OWNER, *(IdentityKey.generate() for _ in range(AUTHORS - 1))]
        genesis = await write_document(path, authors, count)
        for time in ("first", *["again"] * SYNC_ROUNDS):
            opened = await store_sync.open_once(path, genesis)
            series.add(f"{case}, {time}", "lattica", "s", opened.seconds)
            series.add(f"{case}, {time}: memory", "lattica", "MB", opened.memory / MB)
        series.add(f"{case}: disk", "lattica", "MB", await store_sync.disk_size(path) / MB)
        series.add(f"{case}, first", "pycrdt, in memory", "s", store_cases.plain_apply_s(list(edits(1, count))))
        store_sync.plain_file(path).write_bytes(plain_update(authors, genesis, count))
        await measure_compacting(path, genesis, f"{count:,} entries, compacted", series)
        await measure_compacted(path, genesis, f"open {count:,} compacted entries", series)


async def measure_lists(count: int, series: Series) -> None:
    """A list and a text that three edit in turns are compacted again and again: what is left, and what that costs.

    A state has what was deleted since the one before as such. The next has a note of where it was, and the one after
    that nothing. A few writes are between.
    """
    for noun, turns in TURNS.items():
        case = f"{count:,} {noun}"
        with tempfile.TemporaryDirectory(prefix="lattica-bench-") as folder:
            path = Path(folder) / DOCUMENTS_FILE
            print(f"{case}: writing them", file=sys.stderr, flush=True)
            genesis = open_genesis(store_sync.OWNER)
            authors = [store_sync.OWNER, *(IdentityKey.generate() for _ in range(AUTHORS - 1))]
            entries, plain = edited(authors, genesis, turns(count))
            await store_entries(path, genesis, entries)
            store_sync.plain_file(path).write_bytes(plain)
            series.add(f"{case}: disk", "lattica", "KB", await store_sync.disk_size(path) / KB)
            await measure_compacting(path, genesis, f"{case}, compacted once", series)
            for time in ("twice", "3 times"):
                await store_sync.edit_once(path, genesis, count)
                await measure_compacting(path, genesis, f"{case}, compacted {time}", series)
            await measure_compacted(path, genesis, f"open {count:,} compacted {noun}", series)


async def measure_compacting(path: Path, genesis: Genesis, case: str, series: Series) -> None:
    """A document is compacted."""
    compacted = await store_sync.compact_once(path, genesis)
    series.add(case, "lattica", "s", compacted.seconds)
    series.add(f"{case}: writers wait", "lattica", "s", compacted.held)
    series.add(f"{case}: state", "lattica", "KB", compacted.state / KB)
    series.add(f"{case}: state", "pycrdt, one update", "KB", store_sync.plain_file(path).stat().st_size / KB)
    series.add(f"{case}: disk", "lattica", "KB", await store_sync.disk_size(path) / KB)


async def measure_compacted(path: Path, genesis: Genesis, case: str, series: Series) -> None:
    """It is opened by new processes; plain pycrdt opens its own document of the same writes."""
    for _ in range(SYNC_ROUNDS):
        for how, system in (("open", "lattica"), ("plain", "pycrdt, one update")):
            opened = await store_sync.open_once(path, genesis, how)
            series.add(case, system, "s", opened.seconds)
            series.add(f"{case}: memory at the peak", system, "MB", opened.memory / MB)
            series.add(f"{case}: memory then", system, "MB", opened.held / MB)


async def measure_swarm(replicas: int, series: Series) -> None:
    """What one replica sends for each write, of ten at a time, until all have it."""
    writers = min(WRITERS, replicas)
    case = f"{replicas} replicas, {writers} writers"
    with tempfile.TemporaryDirectory(prefix="lattica-bench-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        traffic = await measure_traffic(Path(folder), replicas, writers=writers, rounds=WRITE_ROUNDS)
    series.add(f"{case}: sent for a write by each", "lattica", "B", traffic.bytes_each)
    series.add(f"{case}: sent for a write by each", "the entry itself", "B", traffic.entry)
    series.add(f"{case}: frames for a write by each", "lattica", "frames", traffic.frames_each)
    series.add(f"{case}: until all have {writers} writes", "lattica", "s", traffic.seconds / WRITE_ROUNDS)


async def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of what one replica does by itself ({ROUNDS})")
    parser.add_argument("--synced", type=int, default=SYNCED, help=f"writes that are replicated ({SYNCED:,})")
    parser.add_argument("--opened", type=int, default=OPENED, help=f"entries of a document that is opened ({OPENED:,})")
    parser.add_argument("--edited", type=int, default=EDITED, help=f"edits of a list, and of a text ({EDITED:,})")
    parser.add_argument("--replicas", type=int, nargs="*", default=REPLICAS, help="in one process (5 10 20 50)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="CASES", help=" ".join(GROUPS))
    options = parser.parse_args()
    series = Series()
    if "alone" in options.only:
        await measure_alone(options.rounds, series)
    for group, measure, count in (
        ("sync", measure_sync, options.synced),
        ("open", measure_open, options.opened),
        ("lists", measure_lists, options.edited),
    ):
        if group in options.only and count:
            await measure(count, series)
    for replicas in options.replicas if "replicas" in options.only else ():
        await measure_swarm(replicas, series)
    report("store", list(series.rows()))


if __name__ == "__main__":
    uvloop.run(main())
