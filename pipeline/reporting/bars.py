"""Sizes of the model files as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import figures, words
from .headlines import goal_limit

if TYPE_CHECKING:
    from .views import Report


def file_sizes(report: Report) -> str:
    """Bars of the sizes of all artefacts, with the goal where there is one.

    Args:
        report: as in report.json.

    Returns:
        SVG, or an empty string without artefacts.
    """
    artifacts = report["artifacts"]
    if not artifacts:
        return ""
    with figures.styled("sizes"):
        figure = figures.new_figure(5.6, 0.8 + 0.36 * len(artifacts))
        axes = figure.add_subplot()
        largest = max(artifact["size_bytes"] for artifact in artifacts)
        for place, artifact in enumerate(artifacts):
            count, solid = artifact["size_bytes"], figures.alpha_of(artifact["precision"])
            color = figures.color_of(artifact["format"])
            axes.barh(place, count, height=0.66, color=color, alpha=solid)
            spot, text = (count, place), words.size(count)
            axes.annotate(text, spot, (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        if (limit := goal_limit(report, "size")) is not None:
            axes.axvline(limit, color=figures.GOOD, lw=1.1, ls=(0, (5, 4)), label="size goal")
            figure.legend(loc="outside upper right", labelcolor=figures.GOOD)
        axes.set_xlim(0, 1.2 * max(largest, limit or 0, 1))
        figures.name_rows(axes, [a["name"] for a in artifacts], report["selected"])
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return figures.to_svg(figure, "sizes", "Size of the model files")
