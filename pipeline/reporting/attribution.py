"""Where accuracy went: a waterfall for one artefact, and every artefact hop by hop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import figures, words
from .headlines import headline
from .views import Hop, Path, Report, hop_titles, paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def accuracy_waterfall(report: Report) -> str:
    """Points lost from the teacher to the artefact of the headline, step by step.

    Args:
        report: as in report.json.

    Returns:
        SVG, or an empty string when the attribution of that artefact is not known.
    """
    artifact = headline(report)
    path = next((p for p in paths(report) if artifact and p.artifact == artifact["name"]), None)
    if artifact is None or path is None:
        return ""
    with figures.styled("waterfall"):
        figure = figures.new_figure(5.6, 1.0 + 0.48 * (len(path.hops) + 2))
        axes = figure.add_subplot()
        total = _draw_steps(axes, path.hops)
        last = len(path.hops) + 1
        _draw_end(axes, 0, 0.0, words.percent(report["teacher"]["accuracy"]["value"]))
        _draw_end(axes, last, total, words.percent(artifact["accuracy"]["value"]))
        figures.name_rows(axes, ["teacher", *(h.title for h in path.hops), path.artifact], None)
        axes.set_xlabel("points against the teacher")
        axes.margins(x=0.16)
        return figures.to_svg(figure, "waterfall", f"Where the accuracy of {path.artifact} went")


def _draw_steps(axes: Axes, hops: Sequence[Hop]) -> float:
    """One floating bar per hop; returns where the last one ends."""
    level = 0.0
    for place, hop in enumerate(hops, start=1):
        after = level - hop.value
        color = figures.BAD if hop.value > 0 else figures.GOOD
        solid = 0.9 if _proven(hop) else 0.4
        axes.barh(place, -hop.value, left=level, height=0.56, color=color, alpha=solid)
        if hop.bounds is not None:
            whisker = [level - hop.bounds[1], level - hop.bounds[0]]
            axes.plot(whisker, [place, place], color=figures.INK, lw=1.3, alpha=0.7)
        _note(axes, place, min([after, *(whisker if hop.bounds else [level])]), hop)
        axes.plot([after, after], [place - 0.28, place + 1], color=figures.MUTED, lw=0.8, ls=":")
        level = after
    return level


def _proven(hop: Hop) -> bool:
    """Whether the 95 % interval leaves out 0."""
    return hop.bounds is not None and not hop.bounds[0] <= 0 <= hop.bounds[1]


def _note(axes: Axes, place: int, left: float, hop: Hop) -> None:
    value = words.points(-hop.value)
    sign = "+" if float(value) > 0 else ""
    where: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "right",
        "va": "center",
        "fontsize": 8.5,
    }
    axes.annotate(f"{sign}{value}", (left, place), (-6, 0), **where)


def _draw_end(axes: Axes, place: int, level: float, text: str) -> None:
    axes.plot([level, level], [place - 0.28, place + 0.28], color=figures.INK, lw=3)
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 8.5,
        "weight": "bold",
    }
    axes.annotate(text, (level, place), (7, 0), **style)


def accuracy_hops(report: Report) -> str:
    """One panel per hop, one row per artefact, points lost with their 95 % intervals.

    Args:
        report: as in report.json.

    Returns:
        SVG, or an empty string without attribution.
    """
    found = paths(report)
    if not found:
        return ""
    titles = hop_titles(found)
    with figures.styled("hops"):
        figure = figures.new_figure(5.6, max(3.2, 0.9 + 0.27 * len(found)))
        panels = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
        for place, (axes, title) in enumerate(zip(panels, titles, strict=True)):
            _draw_panel(axes, report, found, place)
            axes.set_title(title)
        figures.name_rows(panels[0], [path.artifact for path in found], report["selected"])
        figure.supxlabel("points lost", fontsize=9, color=figures.MUTED)
        return figures.to_svg(figure, "hops", "Points lost in each hop by artefact")


def _draw_panel(axes: Axes, report: Report, found: Sequence[Path], column: int) -> None:
    from matplotlib.ticker import MaxNLocator

    kinds = {artifact["name"]: artifact["format"] for artifact in report["artifacts"]}
    axes.axvline(0, color=figures.MUTED, lw=1)
    for place, path in enumerate(found):
        if column >= len(path.hops):
            continue
        hop, color = path.hops[column], figures.color_of(kinds.get(path.artifact, ""))
        if hop.bounds is not None:
            axes.plot(hop.bounds, [place, place], color=color, lw=4, alpha=0.35)
        axes.scatter(hop.value, place, s=26, color=color, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    figures.quiet_axis(axes, "x")
