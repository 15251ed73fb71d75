"""The report as Markdown: the same rows as in the terminal, for a pull request or a wiki."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import headlines, views, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .views import Report


def render_summary(report: Report) -> str:
    """The whole report as Markdown.

    Args:
        report: as in report.json.

    Returns:
        Markdown with tables, ending with a newline.
    """
    outcome = headlines.verdict(report)
    parts = [
        f"# {_plain(report['name'])}: {outcome.title}",
        _plain(outcome.detail),
        *_headline(report),
        *_models(report),
        *_artifacts(report),
        *_worth(report),
        *_recipes(report),
        *_attribution(report),
        *_goals(report),
        *_failures(report),
        _footer(report),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(report: Report) -> list[str]:
    tiles = headlines.tiles(report)
    lines = [f"- {t.name}: **{t.figure}**, {_plain(', '.join(t.remarks))}" for t in tiles]
    return ["\n".join(lines)] if lines else []


def _models(report: Report) -> list[str]:
    head = ["", "model", "method", "parameters", "accuracy (95 %)", "drop (points)", "agreement"]
    rows = [
        [r.role, r.model, r.method, r.parameters, r.accuracy.full, r.drop.full, r.agreement]
        for r in views.models(report)
    ]
    sentence = headlines.gain(report)
    return ["## Models", _table(head, rows), *([_plain(sentence)] if sentence else [])]


def _artifacts(report: Report) -> list[str]:
    rows = [_artifact(row) for row in views.artifacts(report)]
    if not rows:
        return []
    head = [
        "artefact", "accuracy (95 %)", "drop (points)", "agreement", "target", "p50",
        "speed-up", "size", "worth it", "goals",
    ]  # fmt: skip
    notes = ["Drop and agreement are against the teacher; bold is selected."]
    if any(row.noisy for row in views.artifacts(report)):
        notes.append("~ marks a latency that was too noisy to compare.")
    return ["## Artefacts", _table(head, rows), " ".join(notes)]


def _artifact(row: views.ArtifactRow) -> list[str]:
    latency = f"{row.latency.full}{' ~' if row.noisy else ''}"
    return [
        f"**{_plain(row.name)}**" if row.selected else _plain(row.name),
        row.accuracy.full,
        row.drop.full,
        row.agreement,
        _plain(row.target),
        latency,
        row.speedup.full,
        row.size,
        row.worth,
        row.goals,
    ]


def _worth(report: Report) -> list[str]:
    rows = [row for row in views.artifacts(report) if row.first and row.why]
    lines = [f"- {_plain(row.name)}: {row.worth}, {_plain(row.why)}" for row in rows]
    return ["## Is the lower precision worth it?", "\n".join(lines)] if lines else []


def _recipes(report: Report) -> list[str]:
    rows = [[_plain(cell) for cell in row] for row in views.recipes(report)]
    return ["## What was tried for int8", _table(list(views.RECIPE_HEADS), rows)] if rows else []


def _attribution(report: Report) -> list[str]:
    paths = views.paths(report)
    if not paths:
        return []
    titles = views.hop_titles(paths)
    rows = []
    for path in paths:
        hops = [hop.drop.full for hop in path.hops]
        blanks = [words.NONE] * (len(titles) - len(hops))
        rows.append([_plain(path.artifact), *hops, *blanks, path.total.full])
    head = ["artefact", *titles, "total"]
    return ["## Where accuracy went", "Points lost in each hop.", _table(head, rows)]


def _goals(report: Report) -> list[str]:
    rows = [
        [_plain(g["name"]), _plain(g["wanted"]), _plain(g["got"]), "met" if g["met"] else "missed"]
        for g in report["goals"]
    ]
    return ["## Goals", _table(["goal", "wanted", "got", ""], rows)] if rows else []


def _failures(report: Report) -> list[str]:
    lines = [f"- {_plain(f['stage'])}: {_plain(f['message'])}" for f in report["failures"]]
    return ["## Failures", "\n".join(lines)] if lines else []


def _footer(report: Report) -> str:
    sizes = ", ".join(f"{count} {split}" for split, count in report["data"]["sizes"].items())
    return (
        f"Data: {_plain(report['data']['source'])} ({_plain(sizes)} samples). "
        f"Written by edgedistill {_plain(report['edgedistill'])}, {_plain(report['date'])}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: str) -> str:
    """Text that Markdown shows as it is: one line, with its special characters escaped."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<|#&~]|^>)", r"\\\1", line)
