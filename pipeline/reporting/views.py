"""What every face of the report says: rows of words, made once from the report's figures.

The terminal, the Markdown and the HTML lay out the same rows, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from . import words

Report: TypeAlias = Mapping[str, Any]
STABLE = "stable"
RECIPE_HEADS = (
    "artefact", "recipe", "outcome", "accuracy", "points lost", "agreement", "SQNR", "size",
    "latency / fp32",
)  # fmt: skip
HOPS = ("distillation", "export", "lower precision")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure in words and its 95 % interval in words; a dash where there is none."""

    text: str = words.NONE
    interval: str = words.NONE

    @property
    def full(self) -> str:
        """Figure and interval in one: `98.7 % (97.8 to 99.2 %)`."""
        return self.text if self.interval == words.NONE else f"{self.text} ({self.interval})"


def figure(
    estimate: Mapping[str, Any] | None,
    unit: Callable[[float | None], str],
    key: str = "value",
) -> Figure:
    """The figure under `key` of `estimate` and its `ci95`, in words; dashes for None."""
    if not estimate:
        return Figure()
    return Figure(unit(estimate[key]), words.interval(estimate["ci95"], unit))


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Teacher, student or baseline in words."""

    role: str
    model: str
    method: str
    parameters: str
    accuracy: Figure
    drop: Figure
    agreement: str


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """One artefact on one target in words.

    Attributes:
        first: whether this is the artefact's first target; a table need not repeat the rest.
        noisy: whether the latency should not be trusted.
        worth: whether the lower precision pays: `yes`, `no`, `unclear` or a dash.
        goals: `met`, `2 missed` or a dash.
    """

    name: str
    format: str
    selected: bool
    first: bool
    accuracy: Figure
    drop: Figure
    agreement: str
    target: str
    latency: Figure
    noisy: bool
    speedup: Figure
    size: str
    worth: str
    why: str
    goals: str


@dataclass(frozen=True, slots=True)
class Hop:
    """Points lost between two models: in words, and the figures behind them."""

    title: str
    drop: Figure
    value: float
    bounds: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Path:
    """The hops from the teacher to one artefact, and their total."""

    artifact: str
    selected: bool
    hops: tuple[Hop, ...]
    total: Figure


def selected(report: Report) -> Mapping[str, Any] | None:
    """The artefact to ship, or None."""
    return next((a for a in report["artifacts"] if a["name"] == report["selected"]), None)


def timed(artifact: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The measurements of an artefact that hold a latency."""
    return [m for m in artifact["measurements"] if m["latency_ms"]]


def targets(report: Report) -> list[str]:
    """Names of the targets that gave a latency, the most important first."""
    return list(dict.fromkeys(m["target"] for a in report["artifacts"] for m in timed(a)))


def models(report: Report) -> list[ModelRow]:
    """Teacher, student and, where there is one, the baseline."""
    roles = [role for role in ("teacher", "student", "baseline") if report[role]]
    return [_model(role, report[role]) for role in roles]


def _model(role: str, model: Mapping[str, Any]) -> ModelRow:
    return ModelRow(
        role=role,
        model=model["model"],
        method=model.get("method", words.NONE),
        parameters=words.quantity(model["parameters"]),
        accuracy=figure(model["accuracy"], words.percent),
        drop=figure(model.get("drop"), words.points),
        agreement=words.percent(model.get("agreement", {}).get("teacher")),
    )


def artifacts(report: Report) -> list[ArtifactRow]:
    """One row per artefact and target, in the order of the report."""
    rows = []
    for artifact in report["artifacts"]:
        chosen = artifact["name"] == report["selected"]
        for place, measurement in enumerate(artifact["measurements"] or [None]):
            rows.append(_artifact(artifact, measurement or {}, chosen, first=place == 0))
    return rows


def _artifact(
    artifact: Mapping[str, Any], measurement: Mapping[str, Any], chosen: bool, first: bool
) -> ArtifactRow:
    latency, worth = measurement.get("latency_ms"), artifact["worth_it"] or {}
    return ArtifactRow(
        name=artifact["name"],
        format=artifact["format"],
        selected=chosen,
        first=first,
        accuracy=figure(artifact["accuracy"], words.percent),
        drop=figure(artifact["drop"], words.points),
        agreement=words.percent(artifact["agreement"]["teacher"]),
        target=measurement.get("target", words.NONE),
        latency=figure(latency, words.duration, "p50"),
        noisy=latency is not None and latency["verdict"] != STABLE,
        speedup=figure(measurement.get("speedup"), words.ratio),
        size=words.size(artifact["size_bytes"]),
        worth=worth.get("verdict", words.NONE),
        why=worth.get("why", ""),
        goals=_goals(artifact),
    )


def recipes(report: Report) -> list[tuple[str, ...]]:
    """What was tried for each artefact that had a choice: a row of texts per recipe."""
    return [
        _recipe(artifact["name"], trial, trial["recipe"] == artifact["recipes"]["chosen"])
        for artifact in report["artifacts"]
        if artifact["recipes"] and len(artifact["recipes"]["tried"]) > 1
        for trial in artifact["recipes"]["tried"]
    ]


def _recipe(name: str, trial: Mapping[str, Any], chosen: bool) -> tuple[str, ...]:
    if trial["failed"]:
        return (name, trial["recipe"], trial["failed"], *[words.NONE] * 6)
    verdict = "taken" if chosen else "holds" if trial["holds"] else "loses too much"
    return (
        name,
        trial["recipe"],
        verdict,
        words.percent(trial["accuracy"]),
        words.points(trial["drop"]),
        words.percent(trial["agreement"]),
        f"{trial['sqnr_db']:.1f} dB",
        words.size(trial["size_bytes"]),
        words.ratio(trial["latency_ratio"]),
    )


def _goals(artifact: Mapping[str, Any]) -> str:
    missed = sum(not goal["met"] for goal in artifact["goals"])
    if missed:
        return f"{missed} missed"
    return "met" if artifact["goals"] else words.NONE


def paths(report: Report) -> list[Path]:
    """Where the accuracy of each artefact went, in the order of the report."""
    drops = {artifact["name"]: artifact["drop"] for artifact in report["artifacts"]}
    hops = report["attribution"]
    return [
        Path(
            artifact=name,
            selected=name == report["selected"],
            hops=tuple(_hop(hop) for hop in hops if hop["artifact"] == name),
            total=figure(drops.get(name), words.points),
        )
        for name in dict.fromkeys(hop["artifact"] for hop in hops)
    ]


def _hop(hop: Mapping[str, Any]) -> Hop:
    return Hop(
        title=hop["hop"].replace("->", "→"),
        drop=figure(hop, words.points, "drop"),
        value=hop["drop"],
        bounds=tuple(hop["ci95"]) if hop["ci95"] else None,
    )


def hop_titles(found: Sequence[Path]) -> list[str]:
    """A title for each column of hops: as many as the longest path has."""
    count = max((len(path.hops) for path in found), default=0)
    return [HOPS[place] if place < len(HOPS) else f"hop {place + 1}" for place in range(count)]
