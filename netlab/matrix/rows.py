"""What a run of a pair comes to: one row of the results, judged from the replies that the probe printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

PATHS = ("lan", "direct", "punched-tcp", "punched-udp", "relayed", "circuit")
"""Best first. A word that is not among them is worse than all of these."""
THROUGH_RELAY = frozenset({"relayed", "circuit"})

FIRST_REPLY_LIMIT = 20.0
"""Seconds from the probe's start to its first reply; long enough for a program's own, clearer, words to come first."""
SETTLED = 3.0
"""Seconds without a better path after which none is expected."""
WATCH_LIMIT = 10.0
"""Seconds from the first reply during which a better path counts."""


def rank(path: str) -> int:
    """Position of a path among all, best first."""
    return PATHS.index(path) if path in PATHS else len(PATHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of a pair.

    Attributes:
        a: Kind of the caller.
        b: Kind of the called.
        path: The best path that a call took; empty if none came through.
        first_byte_s: Seconds from the request to the first answer, finding the peer included.
        best_path_s: Seconds from the request to the first answer over ``path``.
        ok: Whether all calls were answered.
        reason: Why not; or what else was remarkable. Empty if nothing was.
    """

    a: str
    b: str
    path: str = ""
    first_byte_s: float | None = None
    best_path_s: float | None = None
    ok: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        """As in ``matrix.json``."""
        return asdict(self)


class Observation:
    """The replies of one probe: when to stop watching, and what they come to. All times are monotonic.

    Args:
        now: When the probe was started.
    """

    def __init__(self, now: float) -> None:
        self.deadline = now + FIRST_REPLY_LIMIT  # when to stop watching
        self._watch_until = self.deadline
        self._replies: list[tuple[str, float]] = []
        self._best: tuple[str, float] | None = None

    def receive(self, message: Mapping[str, object], now: float) -> None:
        """Take a line that the probe printed; what is no reply is ignored."""
        path, elapsed = message.get("path"), message.get("elapsed_s")
        if not isinstance(path, str) or not isinstance(elapsed, int | float):
            return
        if not self._replies:
            self._watch_until = now + WATCH_LIMIT
        self._replies.append((path, float(elapsed)))
        if self._best is None or rank(path) < rank(self._best[0]):
            self._best = path, float(elapsed)
            self.deadline = min(now + SETTLED, self._watch_until)

    def verdict(self, pair: tuple[str, str], failure: str = "") -> Row:
        """The row; ``failure`` says why the probe ended, if it did so by itself and badly."""
        a, b = pair
        if self._best is None:
            reason = failure or f"no reply within {FIRST_REPLY_LIMIT:.0f} s"
            return Row(a=a, b=b, reason=reason)
        path, best_path_s = self._best
        return Row(
            a=a,
            b=b,
            path=path,
            first_byte_s=self._replies[0][1],
            best_path_s=best_path_s,
            ok=not failure,
            reason=failure or self._fall(path),
        )

    def _fall(self, best: str) -> str:
        last = self._replies[-1][0]
        return "" if rank(last) <= rank(best) else f"fell back from {best} to {last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All runs of one pair together.

    Attributes:
        a: Kind of the caller.
        b: Kind of the called.
        runs: How many there were.
        failed: How many of them failed.
        path: The worst of the paths that the runs reached; empty if none reached any.
        first_byte_s: Median of the runs that had one.
        best_path_s: The same.
        reasons: Each different one.
    """

    a: str
    b: str
    runs: int
    failed: int
    path: str
    first_byte_s: float | None
    best_path_s: float | None
    reasons: tuple[str, ...]

    @property
    def direct(self) -> bool:
        """Whether every run got through without a relay in between."""
        return not self.failed and self.path not in THROUGH_RELAY


def cells(rows: Sequence[Row]) -> list[Cell]:
    """One for each pair, in the order of their first runs."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row.a, row.b), []).append(row)
    return [_cell(a, b, runs) for (a, b), runs in by_pair.items()]


def _cell(a: str, b: str, runs: Sequence[Row]) -> Cell:
    first = [run.first_byte_s for run in runs if run.first_byte_s is not None]
    best = [run.best_path_s for run in runs if run.best_path_s is not None]
    return Cell(
        a=a,
        b=b,
        runs=len(runs),
        failed=sum(not run.ok for run in runs),
        path=max((run.path for run in runs if run.path), key=rank, default=""),
        first_byte_s=median(first) if first else None,
        best_path_s=median(best) if best else None,
        reasons=tuple(dict.fromkeys(run.reason for run in runs if run.reason)),
    )
