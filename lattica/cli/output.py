"""What commands print: data on stdout, everything else on stderr; JSON when asked."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

PLAIN_INTERVAL_S = 2.0
"""Seconds between two lines of progress where there is no terminal."""


class Output:
    """Prints results and notes in one of two forms.

    Attributes:
        as_json: One JSON object a line instead of text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, data: dict[str, object], text: str | None = None) -> None:
        """A result: ``data`` as a line of JSON, or ``text``."""
        click.echo(json.dumps(data) if self.as_json or text is None else text)
        sys.stdout.flush()

    def rows(self, rows: Sequence[dict[str, object]], columns: Iterable[str], empty: str) -> None:
        """A table; as JSON a line for each row."""
        if self.as_json:
            for row in rows:
                self.result(row)
            return
        if not rows:
            self.note(empty)
            return
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*(str(row[column]) for column in columns))
        Console(width=None if sys.stdout.isatty() else 200).print(table)

    def note(self, text: str) -> None:
        """Something for a person to read, not part of the result."""
        click.echo(text, err=True)


class TransferProgress:
    """Shows a transfer on stderr: a bar on a terminal, a line now and then elsewhere, nothing with ``--json``."""

    def __init__(self, output: Output, title: str) -> None:
        self._output = output
        self._title = title
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._output.as_json:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, phase: str, done: int, total: int) -> None:
        """Show a step."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{self._title}: {phase}", completed=done, total=total or None)
        elif not self._output.as_json and time.monotonic() - self._printed_at >= PLAIN_INTERVAL_S:
            self._printed_at = time.monotonic()
            share = f" {100 * done // total}%" if total else ""
            self._output.note(f"{self._title}: {phase}{share} ({done / 1e6:.1f} MB)")


def size_text(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size} B"
