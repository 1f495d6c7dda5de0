"""The results as a heat map: rows call, columns are called; the colour is the path, the text the seconds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from netlab.matrix.rows import PATHS, Cell, Row, cells, rank
from netlab.matrix.table import seconds, summary

CELL_WIDTH, CELL_HEIGHT, GAP = 96, 58, 3
LEFT, TOP, MARGIN = 176, 176, 24
LINE = 15  # pixels between two lines of text
MIN_WIDTH = 1040  # for the explanation above
SCALE = 2.0  # pixels of the PNG for one of the SVG
FONT = "DejaVu Sans, Verdana, Arial, sans-serif"
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")

FILL: Mapping[str, str] = {
    "lan": "#14614a",
    "direct": "#2b9264",
    "punched-tcp": "#3b7fc4",
    "punched-udp": "#7fb2e5",
    "relayed": "#f2b84b",
    "circuit": "#e58a3c",
}
OTHER, FAILED, EMPTY = "#8d7bb8", "#c5303a", "#eef0f3"
DARK, LIGHT = "#1d232b", "#ffffff"
DARK_TEXT = frozenset({"punched-udp", "relayed", "circuit"})
"""Paths on whose colour dark text is read better."""


def svg(rows: Sequence[Row]) -> str:
    """The picture."""
    found = {(cell.a, cell.b): cell for cell in cells(rows)}
    callers, called = (list(dict.fromkeys(pair[side] for pair in found)) for side in (0, 1))
    width = max(LEFT + len(called) * CELL_WIDTH + MARGIN, MIN_WIDTH)
    height = TOP + len(callers) * CELL_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{FONT}">',
        f'<rect width="{width}" height="{height}" fill="{LIGHT}"/>',
        _text(MARGIN, 34, "Who reaches whom, over which path", size=20, weight="bold", anchor="start"),
        _text(MARGIN, 58, summary(rows), size=13, anchor="start"),
        *_legend(found.values()),
        _text(LEFT - 12, TOP - 12, "from ↓   to →", size=11, anchor="end"),
    ]
    for column, kind in enumerate(called):
        parts += _column_label(kind, LEFT + column * CELL_WIDTH + CELL_WIDTH / 2)
    for line, caller in enumerate(callers):
        top = TOP + line * CELL_HEIGHT
        parts += _row_label(caller, top)
        for column, kind in enumerate(called):
            parts += _cell(found.get((caller, kind)), LEFT + column * CELL_WIDTH, top)
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_pictures(rows: Sequence[Row], folder: Path) -> Iterator[str]:
    """Write ``matrix.svg`` and, where it can be drawn, ``matrix.png``; yields a sentence about each."""
    drawing = svg(rows)
    (folder / "matrix.svg").write_text(drawing, encoding="utf-8")
    yield f"wrote {folder / 'matrix.svg'}"
    target = folder / "matrix.png"
    if reason := _no_png_reason():
        target.unlink(missing_ok=True)  # one of an earlier run would show other results
        yield f"no PNG: {reason}"
        return
    import resvg_py

    target.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=drawing, zoom=SCALE)))
    yield f"wrote {target}"


def _no_png_reason() -> str:
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        return "resvg-py is not installed; `pip install resvg-py` draws it from the SVG"
    if not any(_fonts()):
        return "this machine has no fonts; install one, such as fonts-dejavu-core"
    return ""


def _fonts() -> Iterator[Path]:
    for folder in FONT_FOLDERS:
        for pattern in ("*.ttf", "*.otf", "*.ttc"):
            yield from Path(folder).expanduser().rglob(pattern)


def _label(kind: str) -> list[str]:
    """The name of a kind in short lines."""
    name, over = (kind.removeprefix("CGNAT_"), True) if kind.startswith("CGNAT_") else (kind, False)
    mapping, _, rest = name.partition("_")
    filtering, _, ports = rest.partition("_")
    lines = [f"{mapping}/{filtering}" if filtering else mapping, *([ports.lower()] if ports else [])]
    return ["CGNAT over", *lines] if over else lines


def _column_label(kind: str, middle: float) -> Iterator[str]:
    lines = _label(kind)
    for number, text in enumerate(lines):
        yield _text(middle, TOP - 10 - (len(lines) - 1 - number) * LINE, text, size=12, weight="bold")


def _row_label(kind: str, top: float) -> Iterator[str]:
    yield from _lines(_label(kind), LEFT - 12, top, weight="bold", anchor="end", size=12)


def _cell(cell: Cell | None, left: float, top: float) -> Iterator[str]:
    box = f'x="{left}" y="{top}" width="{CELL_WIDTH - GAP}" height="{CELL_HEIGHT - GAP}" rx="4"'
    if cell is None:
        yield f'<rect {box} fill="{EMPTY}"/>'
        return
    told = f"{cell.a} to {cell.b}: {cell.path or 'no path'} {'; '.join(cell.reasons)}".strip()
    yield f'<g><title>{escape(told)}</title><rect {box} fill="{_fill(cell)}"/>'
    colour = DARK if not cell.failed and cell.path in DARK_TEXT else LIGHT
    yield from _lines(_content(cell), left + (CELL_WIDTH - GAP) / 2, top, colour=colour, size=11.5)
    yield "</g>"


def _content(cell: Cell) -> list[str]:
    if cell.failed:
        counted = f"{cell.failed} of {cell.runs} failed" if cell.runs > 1 else "failed"
        return [counted, cell.path] if cell.path else [counted]
    lines = [cell.path, seconds(cell.first_byte_s)]
    if cell.first_byte_s is not None and cell.best_path_s is not None and cell.best_path_s > cell.first_byte_s:
        lines.append(f"best {seconds(cell.best_path_s)}")
    return lines


def _fill(cell: Cell) -> str:
    return FAILED if cell.failed else FILL.get(cell.path, OTHER)


def _legend(shown: Iterable[Cell]) -> Iterator[str]:
    paths = {cell.path for cell in shown if not cell.failed}
    entries = [(path, FILL[path]) for path in PATHS]
    entries += [(path, OTHER) for path in sorted(paths - set(PATHS), key=rank)]
    left = float(MARGIN)
    for name, colour in [*entries, ("failed", FAILED), ("not run", EMPTY)]:
        yield f'<rect x="{left}" y="74" width="14" height="14" rx="3" fill="{colour}"/>'
        yield _text(left + 20, 86, name, size=12, anchor="start")
        left += 44 + 7.4 * len(name)
    yield _text(
        MARGIN,
        108,
        "seconds to the first answer, finding the peer included; “best”: to the first one over the path named. "
        "none: a public address; others: NAT mapping/filtering (RFC 4787)",
        size=11,
        anchor="start",
    )


def _lines(
    lines: Sequence[str], x: float, top: float, *, size: float, colour: str = DARK, **style: str
) -> Iterator[str]:
    """Lines of text, one above the other, centred on a cell's height."""
    first = top + (CELL_HEIGHT - GAP) / 2 - (len(lines) - 1) * LINE / 2 + size * 0.36
    for number, text in enumerate(lines):
        yield _text(x, first + number * LINE, text, size=size, colour=colour, **style)


def _text(
    x: float, y: float, text: str, *, size: float, anchor: str = "middle", weight: str = "normal", colour: str = DARK
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
