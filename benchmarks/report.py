"""What benchmarks print and write: a table with a ratio after each peer's row, and rows of JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_OPTIONAL = {"failed", "reason"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case on one system.

    Attributes:
        case: What was measured.
        system: On what: ``lattica``, ``grpc``, ``cp``, …
        unit: Of the three values.
        median: Over all runs; ``None`` if none came to a value.
        min: The smallest.
        max: The largest.
        runs: How many came to a value.
        failed: What failed within them, such as calls, in all; ``None`` where nothing is counted.
        reason: Why there are fewer runs than were tried, or the first failure within one.
    """

    case: str
    system: str
    unit: str
    median: float | None
    min: float | None
    max: float | None
    runs: int
    failed: int | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls,
        case: str,
        system: str,
        unit: str,
        values: Sequence[float],
        *,
        failed: int | None = None,
        reason: str | None = None,
    ) -> Row:
        """The row of a series of measurements."""
        return cls(
            case=case,
            system=system,
            unit=unit,
            median=statistics.median(values) if values else None,
            min=min(values, default=None),
            max=max(values, default=None),
            runs=len(values),
            failed=failed,
            reason=reason,
        )

    def as_json(self) -> dict[str, str | float | int | None]:
        """Its fields; those that only some benchmarks have are left out of the others' rows."""
        return {key: value for key, value in asdict(self).items() if value is not None or key not in _OPTIONAL}


def report(name: str, rows: Sequence[Row], *, ours: str = "lattica") -> None:
    """Print the rows, with ours as a multiple of each peer's, and write ``results/<name>.json``."""
    counted = any(row.failed is not None for row in rows)
    columns = ["case", "system", "median", "min", "max", "unit", "runs", *["failed"] * counted, f"{ours} / it"]
    table = Table(title=name, pad_edge=False, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in {"case", "system", "unit"} else "right")
    reference = {row.case: row.median for row in rows if row.system == ours}
    for row in rows:
        mine = reference.get(row.case)
        table.add_row(
            row.case,
            row.system,
            *(_number(value) for value in (row.median, row.min, row.max)),
            row.unit,
            str(row.runs),
            *[_number(row.failed)] * counted,
            f"{mine / row.median:.2f}" if mine is not None and row.median and row.system != ours else "",
        )
    console = Console(width=130)
    console.print(table)
    for row in rows:
        if row.reason is not None:
            console.print(f"{row.case}, {row.system}: {row.reason}", markup=False, highlight=False)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
