"""The results as text."""

from collections import Counter
from collections.abc import Iterator, Sequence

from netlab.matrix.rows import Cell, Row, cells, rank


def line(row: Row) -> str:
    """One run, for a person who watches."""
    what = f"{row.path}  {seconds(row.first_byte_s)}  {seconds(row.best_path_s)}" if row.path else "no path"
    state = "" if row.ok else "FAILED  "
    return f"{row.a} : {row.b}  {state}{what}{f'  ({row.reason})' if row.reason else ''}"


def table(rows: Sequence[Row]) -> str:
    """All pairs: path reached, seconds to the first byte and to the best path; medians where there are several runs."""
    lines = [("from", "to", "path", "first byte", "best path", "failed", "remarks")]
    lines += [
        (
            cell.a,
            cell.b,
            cell.path or "-",
            seconds(cell.first_byte_s),
            seconds(cell.best_path_s),
            f"{cell.failed}/{cell.runs}" if cell.failed else "",
            "; ".join(cell.reasons),
        )
        for cell in cells(rows)
    ]
    widths = [max(len(text[column]) for text in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(map(str.ljust, text, widths)).rstrip() for text in lines)


def seconds(value: float | None) -> str:
    """A time for people."""
    return "-" if value is None else f"{value:.2f} s"


def summary(rows: Sequence[Row]) -> str:
    """How many pairs connected, and how."""
    all_cells = cells(rows)
    connected = [cell for cell in all_cells if not cell.failed]
    direct = [cell for cell in all_cells if cell.direct]
    runs = f" in {len(rows)} runs" if len(rows) > len(all_cells) else ""
    by_path = ", ".join(_by_path(connected)) or "no path"
    return (
        f"{len(connected)} of {len(all_cells)} pairs connected{runs} ({_percent(connected, all_cells)}), "
        f"{len(direct)} without a relay ({_percent(direct, all_cells)}): {by_path}"
    )


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each pair that failed."""
    for cell in cells(rows):
        if cell.failed:
            yield f"{cell.a}:{cell.b} failed in {cell.failed} of {cell.runs} runs: {'; '.join(cell.reasons)}"


def _by_path(connected: Sequence[Cell]) -> Iterator[str]:
    counts = Counter(cell.path for cell in connected)
    for path in sorted(counts, key=lambda path: (rank(path), path)):
        yield f"{counts[path]} {path}"


def _percent(part: Sequence[Cell], whole: Sequence[Cell]) -> str:
    # Rounded down: "100%" must not hide a pair that failed.
    return f"{100 * len(part) // len(whole)}%" if whole else "0%"
