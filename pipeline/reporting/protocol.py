"""The small print: how everything was measured, how close each file is, and on what machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words
from .views import figure

if TYPE_CHECKING:
    from .views import Report


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of words.

    Attributes:
        title: what it shows.
        note: how to read it.
        head: one title per column.
        rows: one cell per column.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def small_print(report: Report) -> list[Grid]:
    """Every table of details that the report has figures for."""
    grids = [
        _latencies(report),
        _runtimes(report),
        _parity(report),
        _worth(report),
        _training(report),
        *_facts(report),
    ]
    return [grid for grid in grids if grid.rows]


def _measured(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    teacher = report["teacher"]["measurement"]
    own = [(a["name"], found) for a in report["artifacts"] for found in a["measurements"]]
    return [("teacher", teacher), *own] if teacher else own


def _latencies(report: Report) -> Grid:
    head = ("model", "target", "min", "p50", "95 %", "p90", "p99", "inferences", "verdict")
    rows = tuple(
        (name, found["target"], *_latency(found["latency_ms"]))
        for name, found in _measured(report)
        if found["latency_ms"]
    )
    note = (
        "Batch 1, one inference after the other, outputs read. A percentile is left out where "
        "there are too few inferences for it; a noisy latency should not be compared."
    )
    return Grid("Latency in full", note, head, rows)


def _latency(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        words.duration(found["min"]),
        words.duration(found["p50"]),
        words.interval(found["ci95"], words.duration),
        words.duration(found["p90"]),
        words.duration(found["p99"]),
        f"{found['samples']}",
        found["verdict"],
    )


def _runtimes(report: Report) -> Grid:
    head = (
        "model", "target", "runtime", "device", "arithmetic", "threads", "load", "first",
        "peak memory", "evidence",
    )  # fmt: skip
    rows = tuple(
        (
            name,
            found["target"],
            f"{found['runtime']} {found['version']}",
            found["device"],
            found["precision"],
            f"{found['threads']}",
            words.duration(found["load_ms"]),
            words.duration(found["first_ms"]),
            words.size(found["peak_rss_bytes"]),
            found["evidence"],
        )
        for name, found in _measured(report)
    )
    note = "Load: from the file to a model that is ready. First: the first inference, not warm."
    return Grid("Runtimes", note, head, rows)


def _parity(report: Report) -> Grid:
    head = (
        "artefact", "agreement on the test split", "agreement in parity", "largest difference",
        "SQNR", "samples", "tolerance",
    )  # fmt: skip
    rows = tuple(
        (artifact["name"], words.percent(artifact["agreement"]["student"]), *_closeness(parity))
        for artifact in report["artifacts"]
        if (parity := artifact["parity"])
    )
    note = "Each file against the student in PyTorch; parity is checked on a sample of inputs."
    return Grid("Parity with the student", note, head, rows)


def _closeness(parity: Mapping[str, Any]) -> tuple[str, ...]:
    noise = parity["sqnr_db"]
    return (
        words.percent(parity["agreement"]),
        f"{parity['max_abs']:.3g}",
        words.NONE if noise is None else f"{noise:.1f} dB",
        f"{parity['samples']}",
        plain(parity["tolerance"]),
    )


def _worth(report: Report) -> Grid:
    head = ("artefact", "verdict", "latency", "size", "points lost", "why")
    rows = tuple(
        (
            artifact["name"],
            found["verdict"],
            figure(found["latency_ratio"], words.ratio).full,
            words.ratio(found["size_ratio"]),
            figure(found["accuracy_drop"], words.points).full,
            found["why"],
        )
        for artifact in report["artifacts"]
        if (found := artifact["worth_it"])
    )
    note = "Each lower precision against fp32 in the same format: ratios of latency and of size."
    return Grid("Lower precision against fp32", note, head, rows)


def _training(report: Report) -> Grid:
    roles = [role for role in ("teacher", "student", "baseline") if report[role]]
    rows = tuple((role, *_epochs(report[role])) for role in roles)
    head = ("model", "epochs", "best", "last")
    return Grid("Training", "Accuracy on the validation split.", head, rows)


def _epochs(model: Mapping[str, Any]) -> tuple[str, ...]:
    history, kept = model["history"], model.get("epochs", {})
    return (f"{len(history)}", *(_checkpoint(kept.get(which)) for which in ("best", "last")))


def _checkpoint(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return words.NONE
    return f"epoch {found['epoch']}: {words.percent(found['validation_accuracy'])}"


def _facts(report: Report) -> list[Grid]:
    data, environment = report["data"], report["environment"]
    samples = {"source": data["source"], "samples": data["sizes"], "labels": data["labels"]}
    facts = {"Machine": environment["cpu"], "Libraries": environment["libraries"], "Data": samples}
    facts["Environment"] = {k: v for k, v in environment.items() if k not in ("cpu", "libraries")}
    return [
        Grid(title, "", ("", ""), tuple((plain(key), plain(value)) for key, value in found.items()))
        for title, found in facts.items()
    ]


def plain(value: Any) -> str:
    """A JSON value as words: lists and mappings become `a, b` and `key: value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if value is None:
        return words.NONE
    return value if isinstance(value, str) else json.dumps(value)
