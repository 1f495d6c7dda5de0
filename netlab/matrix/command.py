"""The command: ``python -m netlab matrix``."""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import chain
from pathlib import Path

from netlab.errors import LabError
from netlab.lab import open_lab
from netlab.matrix.kinds import KINDS, Pair, all_pairs, batches, find_kind, parse_pair
from netlab.matrix.picture import write_pictures
from netlab.matrix.programs import Programs
from netlab.matrix.rows import Row
from netlab.matrix.table import failures, line, summary, table
from netlab.matrix.trial import CancelledTrialError, Trials

DELAY = 0.01
"""Seconds, one way, of each site's link: with none, two TCP SYNs cannot cross, and simultaneous open never happens."""
RESULTS = Path("netlab/results")
PAIRS_PER_RELAY = 12
"""Pairs that one relay's node serves: it remembers those that are gone, which should not become a crowd."""

INTERRUPTED = 130
"""Exit code, as a shell gives it for SIGINT."""

Batch = Sequence[Pair]


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add, programs = command.add_argument, Programs()
    add("--kinds", nargs="+", metavar="KIND", help=f"every pair of these; all by default: {', '.join(KINDS)}")
    add("--pairs", nargs="+", metavar="A:B", help="just these pairs; A calls B")
    add("--rounds", type=_positive, default=1, metavar="N", help="try everything so many times (1)")
    add("--delay", type=float, default=DELAY, metavar="SECONDS", help=f"of each site's link, one way ({DELAY})")
    add("--jobs", type=_positive, default=1, metavar="N", help="pairs at once, which slows their times (1)")
    add("--out", type=Path, default=RESULTS, metavar="FOLDER", help=f"for matrix.json, .svg and .png ({RESULTS})")
    add("--node-command", default=programs.node, metavar="COMMAND", help="starts a node (see README.md)")
    add(
        "--status-command",
        default=programs.status,
        metavar="COMMAND",
        help="tells if a node is ready; may be empty",
    )
    add("--probe-command", default=programs.probe, metavar="COMMAND", help="calls the other node (see README.md)")
    add("--relayed", default=programs.relayed, metavar="TEXT", help="in the address that an unreachable node needs")


def run_matrix(options: argparse.Namespace) -> int:
    """Try every pair of NAT kinds with a program, by default lattica; 0 if all connect, else 1."""
    programs = Programs(
        node=options.node_command,
        status=options.status_command,
        probe=options.probe_command,
        relayed=options.relayed,
    )
    try:
        programs.check()
        pairs = _chosen(options)
        options.out.mkdir(parents=True, exist_ok=True)
    except (LabError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    rows: list[Row] = []
    try:
        _try_all(batches(pairs, options.rounds, PAIRS_PER_RELAY), programs, options, _Reporter(rows))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the results are those of the pairs above", file=sys.stderr)
        return INTERRUPTED
    finally:
        _write(rows, options.out)
    return 1 if any(not row.ok for row in rows) else 0


class _Reporter:
    """Takes rows from all jobs."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._lock = threading.Lock()

    def __call__(self, row: Row) -> None:
        with self._lock:
            self._rows.append(row)
            print(line(row), file=sys.stderr, flush=True)


def _chosen(options: argparse.Namespace) -> list[Pair]:
    if options.kinds and options.pairs:
        raise LabError("give --kinds or --pairs, not both")
    if options.pairs:
        return [parse_pair(text) for text in options.pairs]
    names = options.kinds or list(KINDS)
    return all_pairs(find_kind(name) for name in dict.fromkeys(names))


def _try_all(
    work: Sequence[Batch], programs: Programs, options: argparse.Namespace, report: Callable[[Row], None]
) -> None:
    """Work through the batches, each job with a lab of its own; the first error ends all."""
    remaining, cancelled, taking = iter(work), threading.Event(), threading.Lock()

    def take() -> Batch | None:
        with taking:
            return next(remaining, None)

    def job() -> None:
        with tempfile.TemporaryDirectory(prefix="netlab-") as folder, open_lab() as lab:
            trials = Trials(
                lab,
                programs,
                delay=options.delay,
                folder=Path(folder),
                keep=options.out / "logs",
                cancelled=cancelled,
            )
            for batch in iter(take, None):
                trials.run(batch, report)

    with ThreadPoolExecutor(min(options.jobs, len(work)), thread_name_prefix="matrix") as pool:
        jobs: list[Future[None]] = [pool.submit(job) for _ in range(min(options.jobs, len(work)))]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            cancelled.set()
    errors = [error for done in jobs if (error := done.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, CancelledTrialError)):
        raise error


def _write(rows: Sequence[Row], folder: Path) -> None:
    if not rows:
        return
    results = folder / "matrix.json"
    results.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")
    print(table(rows))
    print()
    for sentence in chain([summary(rows), f"wrote {results}"], write_pictures(rows, folder)):
        print(sentence)
    for failure in failures(rows):
        print(failure, file=sys.stderr)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is less than 1")
    return number
