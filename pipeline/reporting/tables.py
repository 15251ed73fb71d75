"""The report in the terminal: tables that stay readable at any width and without colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from . import headlines, views, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from .views import Report

_PAD = 2
_STYLES = {
    "yes": "green", "met": "green", "passed": "bold green", "no": "yellow", "warned": "bold yellow",
    "missed": "bold red", "failed": "bold red", "unclear": "dim",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One column of words.

    Attributes:
        title: its head.
        cells: one per row.
        rank: 0 always stays; the others come in by rising rank for as long as there is room.
        right: whether it holds figures, which stand at the right.
        marks: whether its words are verdicts, which get a colour.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    right: bool = True
    marks: bool = False

    @property
    def width(self) -> int:
        """Terminal cells that the column takes, with its padding."""
        return max(cell_len(cell) for cell in (self.title, *self.cells)) + _PAD


def fit(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into `width` cells: whole columns go, none is squeezed."""
    filled = [column for column in columns if any(cell != words.NONE for cell in column.cells)]
    kept = [column for column in filled if column.rank == 0]
    for column in sorted(filled, key=lambda column: column.rank):
        if column.rank and sum(c.width for c in [*kept, column]) - _PAD <= width:
            kept.append(column)
    return [column for column in filled if any(column is other for other in kept)]


def print_report(report: Report, console: Console) -> None:
    """Print the whole report: verdict, models, artefacts, attribution, goals, failures.

    Args:
        report: as in report.json.
        console: where to; its width decides which columns are shown.
    """
    outcome = headlines.verdict(report)
    _say(console, f"{report['name']}: {outcome.title}", _STYLES[outcome.state])
    _say(console, outcome.detail)
    _print_models(report, console)
    if report["artifacts"]:
        _print_artifacts(report, console)
    if report["attribution"]:
        _print_attribution(report, console)
    if report["goals"]:
        _print_goals(report, console)
    _print_failures(report, console)


def print_benchmark(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print measurements of `edgedistill benchmark`, one row per model and target.

    Args:
        records: as the command gives them with `--json`.
        console: where to; its width decides which columns are shown.
    """
    latencies = [record["latency_ms"] for record in records]
    columns = [
        Column("model", [record["name"] for record in records], right=False),
        Column("target", [record["target"] for record in records], rank=4, right=False),
        Column("runtime", [_runtime(record) for record in records], rank=3, right=False),
        Column("p50", [words.duration(latency["p50"]) for latency in latencies]),
        Column("95 %", [words.interval(x["ci95"], words.duration) for x in latencies], rank=2),
        *(
            Column(key, [words.duration(latency[key]) for latency in latencies], rank=5)
            for key in ("min", "p90", "p99")
        ),
        Column("verdict", [latency["verdict"] for latency in latencies], rank=1, right=False),
        Column("golden", [_golden(record) for record in records], rank=6),
    ]
    _print_table("Latency of one inference, batch 1, interleaved rounds", columns, console)
    for evidence in dict.fromkeys(record["evidence"] for record in records):
        _say(console, evidence, "dim")


def _runtime(record: Mapping[str, Any]) -> str:
    """Which runtime, and in which arithmetic."""
    return f"{record['runtime']} {record['version']}, {record['precision']}"


def _golden(record: Mapping[str, Any]) -> str:
    """Right answers on the golden samples that a bundle carries."""
    accuracy = record["golden_accuracy"]
    if accuracy is None:
        return words.NONE
    return f"{words.percent(accuracy)} of {record['golden_samples']}"


def _print_models(report: Report, console: Console) -> None:
    rows = views.models(report)
    columns = [
        Column("", [row.role for row in rows], right=False),
        Column("model", [row.model for row in rows], rank=3, right=False),
        Column("method", [row.method for row in rows], rank=6, right=False),
        Column("parameters", [row.parameters for row in rows], rank=5),
        Column("accuracy", [row.accuracy.text for row in rows], rank=1),
        Column("95 %", [row.accuracy.interval for row in rows], rank=2),
        Column("drop", [row.drop.text for row in rows], rank=2),
        Column("95 %", [row.drop.interval for row in rows], rank=4),
        Column("agreement", [row.agreement for row in rows], rank=7),
    ]
    _print_table("Models (drop in points, against the teacher)", columns, console)
    if sentence := headlines.gain(report):
        _say(console, sentence)


def _print_artifacts(report: Report, console: Console) -> None:
    rows = views.artifacts(report)

    def once(cell: Callable[[views.ArtifactRow], str]) -> list[str]:
        return [cell(row) if row.first else "" for row in rows]

    places = {row.target for row in rows}
    marks = (" ~", "  ") if any(row.noisy for row in rows) else ("", "")
    columns = [
        Column("artefact", once(lambda r: f"{'*' if r.selected else ' '} {r.name}"), right=False),
        Column("accuracy", once(lambda r: r.accuracy.text), rank=1),
        Column("95 %", once(lambda r: r.accuracy.interval), rank=11),
        Column("drop", once(lambda r: r.drop.text), rank=3),
        Column("95 %", once(lambda r: r.drop.interval), rank=10),
        Column("agrees", once(lambda r: r.agreement), rank=6),
        Column("target", [r.target for r in rows], rank=4 if len(places) > 1 else 12, right=False),
        Column("p50", [f"{r.latency.text}{marks[not r.noisy]}" for r in rows], rank=2),
        Column("speed-up", [r.speedup.text for r in rows], rank=8),
        Column("size", once(lambda r: r.size), rank=5),
        Column("worth it", once(lambda r: r.worth), rank=9, right=False, marks=True),
        Column("goals", once(lambda r: r.goals), rank=7, right=False, marks=True),
    ]
    _print_table("Artefacts (drop in points, against the teacher)", columns, console)
    _print_legend(rows, console)
    if measured := report["teacher"]["measurement"]:
        _say(console, f"speed-up: against the teacher on {_runtime(measured)}", "dim")


def _print_legend(rows: Sequence[views.ArtifactRow], console: Console) -> None:
    notes = ["* selected"] if any(row.selected for row in rows) else []
    if any(row.noisy for row in rows):
        notes.append("~ latency too noisy to compare")
    if notes:
        _say(console, "  ".join(notes), "dim")


def _print_attribution(report: Report, console: Console) -> None:
    paths = views.paths(report)
    names = [f"{'*' if path.selected else ' '} {path.artifact}" for path in paths]
    columns = [Column("artefact", names, right=False)]
    for place, title in enumerate(views.hop_titles(paths)):
        figures = [p.hops[place].drop if place < len(p.hops) else views.Figure() for p in paths]
        columns.append(Column(title, [found.text for found in figures], rank=2))
        columns.append(Column("95 %", [found.interval for found in figures], rank=place + 3))
    columns.append(Column("total", [path.total.text for path in paths], rank=1))
    columns.append(Column("95 %", [path.total.interval for path in paths], rank=9))
    _print_table("Where accuracy went (points lost in each hop)", columns, console)


def _print_goals(report: Report, console: Console) -> None:
    goals: Sequence[Mapping[str, Any]] = report["goals"]
    columns = [
        Column("goal", [goal["name"] for goal in goals], right=False),
        Column("wanted", [goal["wanted"] for goal in goals], right=False),
        Column("got", [goal["got"] for goal in goals], right=False),
        Column("", [_met(goal) for goal in goals], right=False, marks=True),
    ]
    _print_table("Goals", columns, console)


def _met(goal: Mapping[str, Any]) -> str:
    return "met" if goal["met"] else "missed"


def _print_failures(report: Report, console: Console) -> None:
    for failure in report["failures"]:
        console.print()
        _say(console, f"failed: {failure['stage']}", "bold red")
        _say(console, failure["message"])


def _print_table(title: str, columns: Sequence[Column], console: Console) -> None:
    kept = fit(columns, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _PAD, 0, 0), header_style="bold")
    for column in kept:
        # Folding shows every character of a name that is wider than the whole console.
        justify = "right" if column.right else "left"
        table.add_column(_text(column.title, console), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in zip(*(_styled(column, console) for column in kept), strict=True):
        table.add_row(*row)
    console.print()
    _say(console, title, "bold")
    console.print(table)


def _styled(column: Column, console: Console) -> list[Text]:
    styles = _STYLES if column.marks else {}
    return [_text(cell, console, styles.get(cell.rpartition(" ")[2], "")) for cell in column.cells]


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(_text(line, console, style))


def _text(words_: str, console: Console, style: str = "") -> Text:
    """Words as they are (no markup), in what the console can encode."""
    plain = words_ if "utf" in console.encoding else words_.replace("µ", "u")
    safe = plain.encode(console.encoding, "replace").decode(console.encoding)
    return Text("".join(c if c.isprintable() or c == "\n" else "?" for c in safe), style=style)
