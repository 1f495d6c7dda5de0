"""Nodes with documents in the lab: what each has known when, and a picture of it."""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import store_node
from lab_nodes import ROOT, LabNode

STORE = f"env PYTHONPATH={ROOT} {{python}} {store_node.__file__} {{home}} {{port}} [{{first}}] [{{second}}]"
"""A program that opens a node, and documents as it is told."""
POLL_S = 0.05
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 1040, 520, 80, 84, 150, 56
COLOURS = ("#14614a", "#3b7fc4", "#c5303a", "#e58a3c", "#8d7bb8", "#1d232b")


@dataclass
class Trace:
    """What a node knew when: for each moment, the number of the last entry of each author."""

    node: LabNode
    moments: list[float] = field(default_factory=list)
    known: list[Mapping[str, int]] = field(default_factory=list)
    _read: int = 0

    def read_on(self) -> None:
        """Read what the node has noted since."""
        path = self.node.home / store_node.TRACE
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            noted = json.loads(line)
            self.moments.append(noted["at"])
            self.known.append(noted["heads"])

    def heads(self) -> Mapping[str, int]:
        """What it knows now."""
        self.read_on()
        return self.known[-1] if self.known else {}

    def since(self, heads: Mapping[str, int]) -> float | None:
        """The first moment at which it knew all of this."""
        self.read_on()
        for moment, known in zip(self.moments, self.known, strict=True):
            if all(known.get(author, 0) >= seq for author, seq in heads.items()):
                return moment
        return None

    def total(self, moment: float) -> int:
        """How many entries it knew at a moment."""
        at = bisect_right(self.moments, moment)
        return sum(self.known[at - 1].values()) if at else 0


async def wait_known(traces: Sequence[Trace], heads: Mapping[str, int], began: float, seconds: float) -> float:
    """Wait until all know this; the seconds from ``began`` that the last one took."""
    while True:
        moments = [trace.since(heads) for trace in traces]
        if all(moment is not None for moment in moments):
            return max(0.0, max(moment for moment in moments if moment is not None) - began)
        if time.monotonic() - began > seconds:
            lacking = [trace.node.name for trace, moment in zip(traces, moments, strict=True) if moment is None]
            raise AssertionError(f"{lacking} do not know all after {seconds:.0f} s")
        await asyncio.sleep(POLL_S)


def acknowledged(node: LabNode) -> list[int]:
    """The numbers of the writes that the node has called durable."""
    path = node.home / store_node.ACKNOWLEDGED
    return [int(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@dataclass(frozen=True, slots=True)
class Span:
    """A time at which something was so, in seconds of the monotonic clock."""

    begin: float
    end: float
    label: str


def picture(traces: Sequence[Trace], spans: Sequence[Span], notes: Sequence[str]) -> str:
    """How many entries each node knew, over time, as SVG."""
    begin = min(trace.moments[0] for trace in traces)
    end = max(trace.moments[-1] for trace in traces)
    most = max(trace.total(end) for trace in traces)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(moment: float) -> float:
        return LEFT + width * (min(max(moment, begin), end) - begin) / (end - begin)

    def y(count: float) -> float:
        return TOP + height * (1 - count / most)

    font = "DejaVu Sans, Verdana, Arial, sans-serif"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{font}" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="30" font-size="18" font-weight="bold">Entries known to each node</text>',
        *(f'<text x="{LEFT}" y="{50 + 16 * line}">{note}</text>' for line, note in enumerate(notes)),
    ]
    for span in spans:
        box = f'x="{x(span.begin):.1f}" y="{TOP}" width="{x(span.end) - x(span.begin):.1f}" height="{height}"'
        parts.append(f'<rect {box} fill="#eef0f3"/>')
        parts.append(f'<text x="{x(span.begin) + 4:.1f}" y="{TOP + 14}" fill="#5a6470">{span.label}</text>')
    seconds = range(0, int(end - begin) + 1, 10)
    parts += [_text(x(begin + second), HEIGHT - BOTTOM + 18, "middle", f"{second} s") for second in seconds]
    counts = range(0, most + 1, max(1, most // 5))
    parts += [_text(LEFT - 8, y(count) + 4, "end", f"{count}") for count in counts]
    for number, trace in enumerate(traces):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x(moment):.1f},{y(total):.1f}" for moment, total in _steps(trace))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        label = TOP + 20 + 18 * number
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{label}" fill="{colour}">{trace.node.name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(left: float, top: float, anchor: str, text: str) -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{text}</text>'


def _steps(trace: Trace) -> Iterator[tuple[float, int]]:
    total = 0
    for moment, known in zip(trace.moments, trace.known, strict=True):
        yield moment, total
        total = sum(known.values())
        yield moment, total


def write_picture(drawing: str, folder: Path, name: str) -> Path:
    """Write the SVG, and the PNG where it can be drawn; the latter's path, or the former's."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.svg"
    target.write_text(drawing, encoding="utf-8")
    try:
        import resvg_py
    except ImportError:
        return target
    target = folder / f"{name}.png"
    target.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=drawing, zoom=2.0)))
    return target
