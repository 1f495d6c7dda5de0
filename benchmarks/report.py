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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case on one system.

    Attributes:
        case: What was measured.
        system: On what: ``lattica``, ``grpc``, ``cp``, …
        unit: Of the three values.
        median: Over all runs.
        min: The smallest.
        max: The largest.
        runs: How many.
    """

    case: str
    system: str
    unit: str
    median: float
    min: float
    max: float
    runs: int

    @classmethod
    def of(cls, case: str, system: str, unit: str, values: Sequence[float]) -> Row:
        """The row of a series of measurements."""
        return cls(
            case=case,
            system=system,
            unit=unit,
            median=statistics.median(values),
            min=min(values),
            max=max(values),
            runs=len(values),
        )


def report(name: str, rows: Sequence[Row], *, ours: str = "lattica") -> None:
    """Print the rows, with ours as a multiple of each peer's, and write ``results/<name>.json``."""
    table = Table(title=name, pad_edge=False, title_justify="left")
    for column in ("case", "system", "median", "min", "max", "unit", "runs", f"{ours} / it"):
        table.add_column(column, justify="left" if column in {"case", "system", "unit"} else "right")
    reference = {row.case: row.median for row in rows if row.system == ours}
    for row in rows:
        ratio = reference.get(row.case, 0) / row.median if row.median and row.system != ours else None
        table.add_row(
            row.case,
            row.system,
            *(_number(value) for value in (row.median, row.min, row.max)),
            row.unit,
            str(row.runs),
            f"{ratio:.2f}" if ratio is not None and row.case in reference else "",
        )
    Console(width=130).print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
