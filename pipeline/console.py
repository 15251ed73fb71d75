"""Events, tables and errors as words on a terminal; all of it on stderr but what is a result."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .run import Event

QUIET_SECONDS = 10.0  # between two lines of progress where there is no terminal
MARKS = {
    "cached": "=",
    "done": "+",
    "failed": "x",
    "skipped": "-",
    "damaged": "!",
    "waiting": "~",
}


FILE_WIDTH = 110  # of tables that go to a file or a pipe, which has no width of its own


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as a result, on stdout."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        result.add_column(head, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    _console(stderr=False).print(result)


def print_report(report: dict[str, Any]) -> None:
    """The tables of a report, on stderr."""
    from .reporting.tables import print_report

    print_report(report, _console(stderr=True))


def print_benchmark(records: Sequence[dict[str, Any]]) -> None:
    """One row per measured model, on stdout."""
    from .reporting.tables import print_benchmark

    print_benchmark(records, _console(stderr=False))


class Progress:
    """Shows events: a bar with rate and time left on a terminal, lines elsewhere.

    Args:
        stages: how many there will be.
        verbose: show the traceback of a failed stage.
    """

    def __init__(self, stages: int, verbose: bool = False) -> None:
        self._console, self._verbose = _console(stderr=True), verbose
        self._stages, self._finished = stages, 0
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}
        self._first: dict[str, tuple[int, float]] = {}  # a resumed stage does not begin at 0
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Show one event; may be called from any thread."""
        with self._lock:
            if event.kind == "started":
                self._start(event)
            elif event.kind == "progress":
                self._advance(event)
            else:
                self._finish(event)

    def _start(self, event: Event) -> None:
        self._spoken[event.stage] = time.monotonic()
        if not self._bar.disable:
            self._tasks[event.stage] = self._bar.add_task(
                "", total=None, stage=event.stage, rate=""
            )

    def _advance(self, event: Event) -> None:
        now = time.monotonic()
        first, began = self._first.setdefault(event.stage, (event.done, now))
        speed = (event.done - first) / (now - began) if now > began else 0.0
        rate = f"{speed:.1f}/s" if speed else ""
        if event.stage in self._tasks:
            self._bar.update(
                self._tasks[event.stage],
                completed=event.done,
                total=event.total,
                description=event.message,
                rate=rate,
            )
        elif self._bar.disable and now - self._spoken.setdefault(event.stage, now) > QUIET_SECONDS:
            self._spoken[event.stage] = now
            left = f"{(event.total - event.done) / speed:.0f} s left" if speed else ""
            known = (f"{event.done}/{event.total}", rate, left, event.message)
            self._print(f"  {event.stage}: {', '.join(filter(None, known))}")

    def _finish(self, event: Event) -> None:
        if event.stage in self._tasks and event.kind not in ("waiting", "damaged"):
            self._bar.remove_task(self._tasks.pop(event.stage))
        if event.kind in ("cached", "done", "failed", "skipped"):
            self._finished += 1
        took = f" in {event.seconds:.1f} s" if event.kind == "done" else ""
        note = f": {event.message}" if event.message else ""
        count = f"[{self._finished}/{self._stages}]"
        if event.error is not None and self._verbose:
            self._print("".join(traceback.format_exception(event.error)).rstrip())
        self._print(f"{MARKS[event.kind]} {count:>8} {event.stage} {event.kind}{took}{note}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)
