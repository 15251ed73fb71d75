"""Rows of dots with an interval: how a figure spreads over seeds, arm by arm."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH_PER_ROW = 0.36
_LOG_FROM = 30.0
_DPI = 150
_COLORS = ("#3d7dd9", "#ea8a2f", "#1f9d63", "#8b62d6", "#d1495b", "#1aa39a", "#9a7b4f", "#697386")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


@dataclass(frozen=True, slots=True)
class Dots:
    """One row.

    Attributes:
        name: of the row.
        values: one dot each; infinite ones are counted at the row's right end.
        centre: the mean, or another centre; None draws none.
        bounds: the interval of the centre; None where there is none.
    """

    name: str
    values: tuple[float, ...]
    centre: float | None
    bounds: tuple[float, float] | None


def height(rows: int) -> float:
    """Inches that a panel of some rows takes."""
    return 0.9 + INCH_PER_ROW * rows


def draw_rows(axes: Axes, rows: Sequence[Dots], label: str, chosen: str | None = None) -> None:
    """Draw rows of dots on a shared x-axis.

    Args:
        axes: empty.
        rows: the first is at the top.
        label: of the x-axis.
        chosen: the row whose name is bold.
    """
    for place, row in enumerate(rows):
        color = figures.INK if row.name == chosen else figures.ROLES["student"]
        if row.bounds is not None:
            axes.plot(row.bounds, [place, place], color=color, lw=5, alpha=0.25)
        finite = [value for value in row.values if math.isfinite(value)]
        axes.scatter(finite, [place] * len(finite), s=20, color=color, alpha=0.6, lw=0, zorder=3)
        if row.centre is not None:
            axes.plot([row.centre] * 2, [place - 0.24, place + 0.24], color=color, lw=2.2, zorder=4)
        _count_infinite(axes, place, row, len(finite))
    figures.name_rows(axes, [row.name for row in rows], chosen)
    axes.set_xlabel(label)
    _scale(axes, [v for row in rows for v in _shown(row) if math.isfinite(v)])


def _shown(row: Dots) -> tuple[float, ...]:
    """Everything of a row that has a place on the axis."""
    centre = () if row.centre is None else (row.centre,)
    return *row.values, *centre, *(row.bounds or ())


def _count_infinite(axes: Axes, place: int, row: Dots, finite: int) -> None:
    if never := len(row.values) - finite:
        note = f"{never} of {len(row.values)} never"
        where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "ha": "right"}
        axes.annotate(note, (0.995, place), va="center", fontsize=8, color=figures.BAD, **where)


def _scale(axes: Axes, finite: Sequence[float]) -> None:
    """Logarithmic where the values are positive and span decades."""
    if not finite:
        axes.set_xticks([])
    elif min(finite) > 0 and max(finite) > _LOG_FROM * min(finite):
        axes.set_xscale("log")
        figures.log_ticks(axes.xaxis)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def draw_lines(axes: Axes, figure: Mapping[str, Any]) -> None:
    """Draw lines with markers.

    Args:
        axes: empty.
        figure: the fields of a `contracts.Figure`; text stands for what is not finite.
    """
    for place, (name, (x, y)) in enumerate(figure["series"].items()):
        look: dict[str, Any] = {
            "color": _COLORS[place % len(_COLORS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "ls": ("-", "--", ":", "-.")[place // len(_COLORS) % 4],
        }
        axes.plot([float(v) for v in x], [float(v) for v in y], ms=3.5, label=name, **look)
    axes.set_xlabel(figure["x"])
    axes.set_ylabel(figure["y"])
    if len(figure["series"]) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG picture on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, facecolor="white")
    return out.getvalue()
