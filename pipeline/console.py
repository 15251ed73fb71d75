"""Events, tables and errors as words on a terminal; all of it on stderr but what is a result."""

from __future__ import annotations

import sys
import threading
import time
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


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


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
    Console(highlight=False).print(result)


def print_report(report: dict[str, Any]) -> None:
    """The tables of a report, on stderr."""
    from .reporting.tables import print_report

    print_report(report, _stderr())


def print_benchmark(records: Sequence[dict[str, Any]]) -> None:
    """One row per measured model, on stdout."""
    rows = []
    for record in records:
        latency, accuracy = record["latency_ms"], record["golden_accuracy"]
        low, high = latency["ci95"]
        rows.append(
            (
                record["name"],
                record["target"],
                f"{record['runtime']} {record['version']}, {record['precision']}",
                f"{latency['p50']:.4f} ms",
                f"{low:.4f} to {high:.4f}",
                f"{latency['min']:.4f}",
                _milliseconds(latency["p90"]),
                _milliseconds(latency["p99"]),
                latency["verdict"],
                "-" if accuracy is None else f"{accuracy:.0%} of {record['golden_samples']}",
                record["evidence"],
            )
        )
    heads = (
        "model",
        "target",
        "runtime",
        "p50",
        "95 % interval",
        "min",
        "p90",
        "p99",
        "verdict",
        "golden",
        "evidence",
    )
    table(heads, rows)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


class Progress:
    """Shows events: a bar with rate and time left on a terminal, lines elsewhere."""

    def __init__(self, stages: int) -> None:
        self._console = _stderr()
        self._stages, self._finished = stages, 0
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}
        self._began: dict[str, float] = {}
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
        self._began[event.stage] = self._spoken[event.stage] = time.monotonic()
        if not self._bar.disable:
            self._tasks[event.stage] = self._bar.add_task(
                "", total=None, stage=event.stage, rate=""
            )

    def _advance(self, event: Event) -> None:
        now = time.monotonic()
        began = self._began.setdefault(event.stage, now)
        rate = f"{event.done / (now - began):.1f}/s" if now > began else ""
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
            left = (event.total - event.done) * (now - began) / max(1, event.done)
            self._print(
                f"  {event.stage}: {event.done}/{event.total}, {rate}, {left:.0f} s left,"
                f" {event.message}"
            )

    def _finish(self, event: Event) -> None:
        if event.stage in self._tasks and event.kind not in ("waiting", "damaged"):
            self._bar.remove_task(self._tasks.pop(event.stage))
        if event.kind in ("cached", "done", "failed", "skipped"):
            self._finished += 1
        took = f" in {event.seconds:.1f} s" if event.kind == "done" else ""
        note = f": {event.message}" if event.message else ""
        count = f"[{self._finished}/{self._stages}]"
        self._print(f"{MARKS[event.kind]} {count:>8} {event.stage} {event.kind}{took}{note}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)
