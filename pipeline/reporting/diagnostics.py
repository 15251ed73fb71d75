"""What a method found out about its student: figures that it gives as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import figures

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLORS = (
    *figures.FORMATS.values(), figures.GOOD, figures.BAD, figures.OTHER_FORMAT, figures.MUTED,
)  # fmt: skip


def line_chart(figure: Mapping[str, Any], name: str) -> str:
    """Lines with markers over one x-axis.

    Args:
        figure: as in report.json.
        name: unique in the page.

    Returns:
        SVG, or an empty string when it has no points.
    """
    lines = {key: line for key, line in figure["series"].items() if line[0]}
    if not lines:
        return ""
    with figures.styled(name):
        canvas = figures.new_figure(5.6, 3.3)
        axes = canvas.subplots()
        for place, (label, (x, y)) in enumerate(lines.items()):
            axes.plot(x, y, color=_COLORS[place % len(_COLORS)], marker="o", ms=3.5, label=label)
        axes.set_xlabel(figure["x"])
        axes.set_ylabel(figure["y"])
        if len(lines) > 1:
            axes.legend(loc="best")
        return figures.to_svg(canvas, name, figure["title"])
