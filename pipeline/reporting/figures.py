"""How charts look, and how a matplotlib figure becomes SVG that follows the page's theme.

No pyplot: figures are made and thrown away without global state. The SVG is deterministic, its
text stays text, and its neutral colours are CSS variables with the light colour as fallback.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

INK, MUTED, GRID, PAPER = "#1c2333", "#697386", "#e2e6ec", "#fefefe"
GOOD, BAD = "#1f9d63", "#d1495b"
FORMATS = {
    "onnx": "#3d7dd9", "openvino": "#8b62d6", "tflite": "#ea8a2f", "executorch": "#1aa39a",
}  # fmt: skip
OTHER_FORMAT = "#9a7b4f"
ROLES = {"teacher": MUTED, "student": "#3d7dd9", "baseline": "#ea8a2f"}
MARKERS = {"fp32": "o", "fp16": "s", "int8": "D", "int8-dynamic": "^"}
_LOG_FROM = 10.0
_LONGEST_NAME = 40
_THEME = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def styled(name: str) -> Iterator[None]:
    """Our style on top of matplotlib's own defaults, whatever the user's settings are.

    Args:
        name: of the chart; the ids in its SVG follow from it.
    """
    import matplotlib.style

    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": name}]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` by `height` inches that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as one `<svg>` element that can stand alone or inside a page.

    Args:
        figure: drawn under `styled(name)`.
        name: unique in the page; prefix of every id.
        title: what the chart shows, for those who cannot see it.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return _themed(_inlined(out.getvalue(), name, title))


def _inlined(svg: str, name: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    label = escape(title)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    head = f'<svg role="img" aria-label="{label}"'
    return svg.replace("<svg", head, 1).replace(">", f">\n <title>{label}</title>", 1).strip()


def _themed(svg: str) -> str:
    for color, variable in _THEME.items():
        svg = svg.replace(f": {color}", f": var({variable}, {color})")
    return svg


def color_of(kind: str) -> str:
    """The colour of a format."""
    return FORMATS.get(kind, OTHER_FORMAT)


def alpha_of(precision: str) -> float:
    """How solid a bar of a precision is: the fewer bits, the more solid."""
    return {"fp32": 0.4, "fp16": 0.65}.get(precision, 0.95)


def reach(
    value: float, bounds: Sequence[float] | None, scale: float = 1.0
) -> list[list[float]] | None:
    """Distances `[[down], [up]]` from a value to its scaled bounds, as error bars want them."""
    if bounds is None:
        return None
    return [[max(0.0, value - scale * bounds[0])], [max(0.0, scale * bounds[1] - value)]]


def quiet_axis(axes: Axes, grid: str) -> None:
    """Leave the grid along one axis (`x` or `y`) and drop the spine along the other."""
    axes.grid(visible=False, which="both", axis="y" if grid == "x" else "x")
    axes.spines["left" if grid == "x" else "bottom"].set_visible(False)


def latency_axis(axes: Axes, found: Sequence[float], log: bool = False) -> None:
    """Milliseconds along x: logarithmic when they span more than a factor of ten, or on `log`."""
    low, high = min(found), max(found)
    if low > 0 and (log or high > _LOG_FROM * low):
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        log_ticks(axes.xaxis)
    else:
        margin = 0.15 * (high - low) or 0.3 * high
        axes.set_xlim(max(0.0, low - margin), high + margin)
    axes.xaxis.set_major_formatter(_tick)


def log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of every decade of a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())


def _tick(milliseconds: float, _: float) -> str:
    for scale, unit in ((1e3, "s"), (1.0, "ms")):
        if milliseconds >= scale:
            return f"{milliseconds / scale:g} {unit}"
    return f"{1e3 * milliseconds:g} µs"


def name_rows(axes: Axes, names: Sequence[str], chosen: str | None) -> None:
    """One named row per entry, the first at the top, the chosen one in bold."""
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(INK)
        label.set_fontweight("bold" if name == chosen else "normal")
    quiet_axis(axes, "x")


def _short(name: str) -> str:
    """A name that leaves room for the chart; the tables have it in full."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def place_labels(
    axes: Axes, spots: Sequence[tuple[float, float]], labels: Sequence[str], gap: float = 9
) -> None:
    """Write each label beside its spot, where it covers no other spot and no other label.

    Args:
        axes: with its final limits and scales.
        spots: data coordinates.
        labels: one per spot; an empty one only keeps its spot free.
        gap: distance from the spot in points.
    """
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    frame, centers = axes.get_window_extent(), axes.transData.transform(spots)
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in centers]
    for spot, label in zip(spots, labels, strict=True):
        if label:
            taken.append(_place(axes, spot, label, gap, taken, frame))


def _place(
    axes: Axes,
    spot: tuple[float, float],
    label: str,
    gap: float,
    taken: Sequence[Bbox],
    frame: Bbox,
) -> Bbox:
    """Try places around the spot, nearest first, and keep the first that is free."""
    text = axes.annotate(
        _short(label), spot, xytext=(gap, 0), textcoords="offset points", fontsize=8.5, va="center"
    )
    text.set_in_layout(False)
    steps = [(side, rise) for rise in (0, 1, -1, 2, -2, 3, -3, 4, -4) for side in (1, -1)]
    for side, rise in steps:
        text.set_position((side * gap, 1.35 * gap * rise))
        text.set_horizontalalignment("left" if side > 0 else "right")
        box = text.get_window_extent()
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            break
    if rise:  # far enough from its spot to need a thread
        thread = {"arrowstyle": "-", "color": MUTED, "lw": 0.7, "shrinkA": 1, "shrinkB": 6}
        axes.annotate(
            "", spot, xytext=text.get_position(), textcoords="offset points", arrowprops=thread
        ).set_in_layout(False)
    return box
