"""What a reader should know first: the verdict, three figures, what distillation brought."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words
from .views import STABLE, Report, figure, selected, timed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UNITS = {
    "points": 1.0, "x": 1.0, "µs": 1e-3, "us": 1e-3, "ms": 1.0, "s": 1e3,
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome in one look.

    Attributes:
        state: `passed`, `warned` (passed, but a stage failed) or `failed`.
        title: such as `1 of 3 goals missed`.
        detail: what was selected and what failed, as one sentence.
    """

    state: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure: its name, the figure, and remarks."""

    name: str
    figure: str
    remarks: tuple[str, ...]


def verdict(report: Report) -> Verdict:
    """Whether the run passed, and what to know first."""
    failed = len(report["failures"])
    state = "failed" if not report["passed"] else "warned" if failed else "passed"
    detail = _chosen(report)
    if failed:
        detail += f"; {words.plural(failed, 'stage')} failed"
    return Verdict(state, _title(report["goals"], report["passed"]), f"{detail}.")


def _chosen(report: Report) -> str:
    if report["selected"]:
        return f"{report['selected']} was selected"
    closest = headline(report)
    if closest is None:
        return "No artefact could be evaluated"
    return f"No artefact was selected; the closest is {closest['name']}"


def _title(goals: Sequence[Mapping[str, Any]], passed: bool) -> str:
    missed = sum(not goal["met"] for goal in goals)
    if missed:
        return f"{missed} of {words.plural(len(goals), 'goal')} missed"
    if not passed:
        return "The run did not pass"
    if not goals:
        return "Done; no goals were set"
    return "The goal is met" if len(goals) == 1 else f"All {len(goals)} goals met"


def headline(report: Report) -> Mapping[str, Any] | None:
    """The selected artefact, or else the one that comes closest to its goals."""
    chosen = selected(report)
    if chosen or not report["artifacts"]:
        return chosen

    def distance(artifact: Mapping[str, Any]) -> tuple[int, float]:
        return sum(not goal["met"] for goal in artifact["goals"]), artifact["drop"]["value"]

    closest: Mapping[str, Any] = min(report["artifacts"], key=distance)
    return closest


def tiles(report: Report) -> list[Tile]:
    """Accuracy, latency and size of the artefact in the headline; empty without artefacts."""
    artifact = headline(report)
    if artifact is None:
        return []
    return [_accuracy(artifact), _latency(artifact), _size(artifact, report)]


def _accuracy(artifact: Mapping[str, Any]) -> Tile:
    accuracy, drop = figure(artifact["accuracy"], words.percent), artifact["drop"]
    lost = f"{words.against_teacher(drop['value'])}"
    if drop["ci95"]:
        lost += f" (drop {words.interval(drop['ci95'], words.points)})"
    return Tile("accuracy", accuracy.text, (lost, f"95 % interval {accuracy.interval}"))


def _latency(artifact: Mapping[str, Any]) -> Tile:
    if not (found := timed(artifact)):
        return Tile("latency", words.NONE, ("not measured",))
    latency, speedup = found[0]["latency_ms"], figure(found[0]["speedup"], words.ratio)
    faster = f"{speedup.full} the speed of the teacher"
    if speedup.text == words.NONE:
        faster = "no latency of the teacher to compare with"
    where = f"median on {found[0]['target']}, {found[0]['evidence']}"
    trust = () if latency["verdict"] == STABLE else (f"{latency['verdict']}: do not compare",)
    return Tile("latency", words.duration(latency["p50"]), (faster, where, *trust))


def _size(artifact: Mapping[str, Any], report: Report) -> Tile:
    own, teacher = report["student"]["parameters"], report["teacher"]["parameters"]
    remarks = [f"{words.quantity(own)} parameters"] if own else []
    if own and teacher:
        remarks.append(f"{words.quantity(teacher)} in the teacher ({words.ratio(teacher / own)})")
    return Tile("size", words.size(artifact["size_bytes"]), tuple(remarks))


def gain(report: Report) -> str:
    """What distillation brought, as one sentence; empty without a baseline."""
    if not report["gain"]:
        return ""
    value, bounds = report["gain"]["value"], report["gain"]["ci95"]
    sign = "+" if float(words.points(value)) > 0 else ""
    return (
        f"Distillation ({report['student']['method']}) against the baseline: "
        f"{sign}{words.with_interval(value, bounds, words.points)} points: "
        f"{report['gain']['verdict']} (one seed; the interval is that of the test samples)."
    )


def goal_limit(report: Report, name: str) -> float | None:
    """The limit of the goal `name` as a figure, read from its words.

    Args:
        report: the report.
        name: such as `accuracy_drop`, `speedup`, `latency` or `size`.

    Returns:
        Points, a ratio, milliseconds or bytes; None without such a goal or without a figure in it.
    """
    wanted = next((goal["wanted"] for goal in report["goals"] if goal["name"] == name), "")
    found = re.search(r"(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)", wanted)
    if found is None or found[2] not in _UNITS:
        return None
    return float(found[1]) * _UNITS[found[2]]
