"""Latency distributions: one smoothed histogram per artefact on a shared logarithmic axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from .views import Report

_BINS = 160
_SMOOTH = 1.6  # standard deviation of the smoothing in bins
_SLOWEST = 24


def latency_distributions(report: Report, latencies: Mapping[str, Sequence[float]]) -> str:
    """How latencies of single inferences are spread, one row per artefact.

    Args:
        report: as in report.json; gives the order and the colours.
        latencies: artefact name (or `teacher`) -> latency of each inference in milliseconds.

    Returns:
        SVG, or an empty string without latencies.
    """
    rows = _rows(report, latencies)
    if not rows:
        return ""
    with figures.styled("latencies"):
        figure = figures.new_figure(5.6, 0.8 + 0.36 * len(rows))
        axes = figure.add_subplot()
        everything = np.concatenate(list(rows.values()))
        figures.latency_axis(axes, everything.tolist(), log=True)
        edges = np.geomspace(*axes.get_xlim(), _BINS + 1)
        for place, (name, values) in enumerate(rows.items()):
            _draw_row(axes, place, values, edges, _color(report, name))
        figures.name_rows(axes, list(rows), report["selected"])
        return figures.to_svg(figure, "latencies", "Latency distributions in milliseconds")


def _rows(
    report: Report, latencies: Mapping[str, Sequence[float]]
) -> dict[str, NDArray[np.float64]]:
    """The teacher first, then the artefacts in the order of the report, then the rest."""
    order = ["teacher", *(artifact["name"] for artifact in report["artifacts"])]
    names = [n for n in order if n in latencies] + [n for n in latencies if n not in order]
    arrays = {name: np.asarray(latencies[name], dtype=np.float64) for name in names}
    # A clock that did not advance gives 0, which has no place on a logarithmic axis.
    positive = {name: array[array > 0] for name, array in arrays.items()}
    return {name: array for name, array in positive.items() if array.size}


def _color(report: Report, name: str) -> str:
    kinds = {artifact["name"]: artifact["format"] for artifact in report["artifacts"]}
    return figures.color_of(kinds[name]) if name in kinds else figures.MUTED


def _draw_row(
    axes: Axes,
    place: int,
    values: NDArray[np.float64],
    edges: NDArray[np.float64],
    color: str,
) -> None:
    centers = np.sqrt(edges[1:] * edges[:-1])
    half = 0.4 * _density(values, edges)
    seen = half > 0.002
    look: dict[str, Any] = {"color": color, "lw": 0}
    axes.fill_between(centers, place - half, place + half, where=seen, alpha=0.5, **look)
    low, middle, high, slow = np.percentile(values, [10, 50, 90, 99])
    axes.plot([low, high], [place, place], color=color, lw=3, solid_capstyle="butt")
    axes.plot([middle, middle], [place - 0.3, place + 0.3], color=figures.INK, lw=1.6)
    tail = np.sort(values[values > slow])[-_SLOWEST:]
    axes.scatter(tail, np.full(tail.shape, place), s=5, alpha=0.6, **look)


def _density(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smoothed histogram `(B,)` over `B` bins, its highest value 1."""
    counts = np.histogram(values, edges)[0].astype(np.float64)
    steps = np.arange(-6, 7)
    kernel = np.exp(-0.5 * (steps / _SMOOTH) ** 2)
    smooth = np.convolve(counts, kernel, mode="same")
    density: NDArray[np.float64] = smooth / smooth.max()
    return density
