"""The chart to decide on: accuracy against latency, with the teacher and the goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import figures, words
from .headlines import goal_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from .views import Report

_AREA_LEAST, _AREA_SPAN = 45, 190  # square points


@dataclass(frozen=True, slots=True)
class _Spot:
    """An artefact on one target: what its marker shows."""

    artifact: Mapping[str, Any]
    latency: Mapping[str, Any]
    selected: bool

    @property
    def x(self) -> float:
        return float(self.latency["p50"])

    @property
    def y(self) -> float:
        return 100 * float(self.artifact["accuracy"]["value"])


@dataclass(frozen=True, slots=True)
class _Levels:
    """Where the teacher and the goals lie: milliseconds and per cent, None where unknown."""

    accuracy: float
    latency: float | None
    least_accuracy: float | None
    most_latency: float | None


def accuracy_latency(report: Report, target: str, name: str = "tradeoff") -> str:
    """Accuracy against median latency of every artefact on one target.

    Args:
        report: as in report.json.
        target: name of the target.
        name: id of the chart in its page.

    Returns:
        SVG, or an empty string when nothing was timed on the target.
    """
    spots = _spots(report, target)
    if not spots:
        return ""
    with figures.styled(name):
        figure = figures.new_figure(9.6, 4.8)
        axes = figure.add_subplot()
        levels = _levels(report, target)
        largest = max(spot.artifact["size_bytes"] for spot in spots)
        for spot in spots:
            _draw_spot(axes, spot, largest)
        _draw_teacher(axes, report, levels)
        _set_axes(axes, spots, levels)
        _draw_goals(axes, levels)
        _draw_legend(axes, spots)
        _draw_names(axes, spots, levels)
        return figures.to_svg(figure, name, f"Accuracy against latency on {target}")


def _spots(report: Report, target: str) -> list[_Spot]:
    return [
        _Spot(artifact, found["latency_ms"], artifact["name"] == report["selected"])
        for artifact in report["artifacts"]
        for found in artifact["measurements"]
        if found["target"] == target and found["latency_ms"]
    ]


def _levels(report: Report, target: str) -> _Levels:
    accuracy = 100 * report["teacher"]["accuracy"]["value"]
    found = report["teacher"]["measurement"]
    timed = found and found["target"] == target and found["latency_ms"]
    latency = timed["p50"] if timed else None
    drop, speedup = goal_limit(report, "accuracy_drop"), goal_limit(report, "speedup")
    most = goal_limit(report, "latency")
    if most is None and speedup and latency:
        most = latency / speedup
    return _Levels(accuracy, latency, None if drop is None else accuracy - drop, most)


def _draw_spot(axes: Axes, spot: _Spot, largest: float) -> None:
    color = figures.color_of(spot.artifact["format"])
    marker = figures.MARKERS.get(spot.artifact["precision"], "o")
    area = _AREA_LEAST + _AREA_SPAN * spot.artifact["size_bytes"] / max(largest, 1)
    xerr = figures.reach(spot.x, spot.latency["ci95"])
    yerr = figures.reach(spot.y, spot.artifact["accuracy"]["ci95"], 100)
    axes.errorbar(spot.x, spot.y, yerr, xerr, color=color, alpha=0.4, lw=1.2, zorder=2)
    look: dict[str, Any] = {"color": color, "edgecolor": figures.PAPER, "linewidth": 1.0}
    axes.scatter(spot.x, spot.y, s=area, marker=marker, zorder=3, **look)
    if spot.selected:
        ring: dict[str, Any] = {"facecolor": "none", "edgecolor": figures.INK, "linewidth": 1.8}
        axes.scatter(spot.x, spot.y, s=area + 330, zorder=4, **ring)


def _draw_teacher(axes: Axes, report: Report, levels: _Levels) -> None:
    axes.axhline(levels.accuracy, color=figures.MUTED, lw=1.1, zorder=1)
    place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    title = f"teacher {words.percent(report['teacher']['accuracy']['value'])}"
    axes.annotate(title, (0, levels.accuracy), (5, 5), color=figures.MUTED, fontsize=8.5, **place)
    if levels.latency is not None:
        yerr = figures.reach(levels.accuracy, report["teacher"]["accuracy"]["ci95"], 100)
        x, y = levels.latency, levels.accuracy
        axes.errorbar(x, y, yerr, color=figures.MUTED, alpha=0.6, lw=1.2, zorder=2)
        axes.scatter(x, y, s=190, marker="*", color=figures.INK, zorder=3)


def _set_axes(axes: Axes, spots: Sequence[_Spot], levels: _Levels) -> None:
    marks = [levels.latency, levels.most_latency]
    figures.latency_axis(axes, [spot.x for spot in spots] + [m for m in marks if m is not None])
    axes.set_xlabel("median latency of one inference, batch 1")
    axes.set_ylabel("accuracy on the test split, %")
    low, high = axes.get_ylim()
    if levels.least_accuracy is not None:
        low = min(low, levels.least_accuracy - 0.06 * (high - low))
    axes.set_ylim(low, high + 0.06 * (high - low))


def _draw_goals(axes: Axes, levels: _Levels) -> None:
    """Dashed limits, and a shade where every drawn goal is met."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    dashed: dict[str, Any] = {"color": figures.GOOD, "lw": 1.1, "ls": (0, (5, 4)), "zorder": 1}
    note: dict[str, Any] = {"color": figures.GOOD, "fontsize": 8, "textcoords": "offset points"}
    if levels.least_accuracy is not None:
        bottom = levels.least_accuracy
        axes.axhline(bottom, **dashed)
        axes.annotate("accuracy goal", (right, bottom), (-3, -10), ha="right", **note)
    if levels.most_latency is not None:
        right = levels.most_latency
        axes.axvline(right, **dashed)
        axes.annotate("latency goal", (right, axes.get_ylim()[0]), (4, 5), **note)
    if (levels.least_accuracy, levels.most_latency) != (None, None):
        axes.fill_between([left, right], bottom, top, color=figures.GOOD, alpha=0.06, lw=0)


def _draw_legend(axes: Axes, spots: Sequence[_Spot]) -> None:
    from matplotlib.lines import Line2D

    kinds = dict.fromkeys(spot.artifact["format"] for spot in spots)
    precisions = dict.fromkeys(spot.artifact["precision"] for spot in spots)
    dots = [(kind, "o", figures.color_of(kind)) for kind in kinds]
    dots += [(p, figures.MARKERS.get(p, "o"), figures.MUTED) for p in precisions]
    handles = [
        Line2D([], [], ls="", marker=marker, color=color, ms=7, label=label)
        for label, marker, color in dots
    ]
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _draw_names(axes: Axes, spots: Sequence[_Spot], levels: _Levels) -> None:
    places = [(spot.x, spot.y) for spot in spots]
    names = [spot.artifact["name"] for spot in spots]
    if levels.latency is not None:
        places, names = [*places, (levels.latency, levels.accuracy)], [*names, ""]
    figures.place_labels(axes, places, names, gap=11)
