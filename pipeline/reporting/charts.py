"""All charts of the report, in the order in which the page shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attribution import accuracy_hops, accuracy_waterfall
from .bars import file_sizes
from .curves import learning_curves
from .diagnostics import line_chart
from .distributions import latency_distributions
from .pages import Picture
from .tradeoff import accuracy_latency
from .views import Report, targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "accuracy_hops",
    "accuracy_latency",
    "accuracy_waterfall",
    "draw_charts",
    "file_sizes",
    "latency_distributions",
    "learning_curves",
    "line_chart",
]


def draw_charts(
    report: Report, latencies: Mapping[str, Sequence[float]]
) -> dict[str, list[Picture]]:
    """Every chart that the report has figures for.

    Args:
        report: as in report.json.
        latencies: artefact name (or `teacher`) -> latency of each inference in milliseconds.

    Returns:
        Section of the page -> its charts: `tradeoff`, `attribution`, `cost`, `training` and
        `diagnostics`.
    """
    tradeoffs = [
        Picture(
            f"tradeoff-{place}",
            f"Accuracy against latency on {target}",
            "Higher and further left is better. The area of a marker is the size of the file; "
            "error bars are 95 % intervals.",
            accuracy_latency(report, target, f"tradeoff-{place}"),
        )
        for place, target in enumerate(targets(report))
    ]
    sections = {
        "tradeoff": tradeoffs,
        "attribution": _attribution(report),
        "cost": _cost(report, latencies),
        "training": [_training(report)],
        "diagnostics": _diagnostics(report),
    }
    return {name: [c for c in charts if c.svg] for name, charts in sections.items()}


def _diagnostics(report: Report) -> list[Picture]:
    found = report["student"]["figures"]
    return [
        Picture(
            f"diagnostic-{n}",
            figure["title"],
            figure["note"],
            line_chart(figure, f"diagnostic-{n}"),
        )
        for n, figure in enumerate(found)
    ]


def _attribution(report: Report) -> list[Picture]:
    return [
        Picture(
            "waterfall",
            "From the teacher to the artefact",
            "Points lost or won in each hop; pale: the 95 % interval spans 0.",
            accuracy_waterfall(report),
        ),
        Picture(
            "hops",
            "Every artefact, hop by hop",
            "Points lost; a bar that spans 0 is no proven loss.",
            accuracy_hops(report),
        ),
    ]


def _cost(report: Report, latencies: Mapping[str, Sequence[float]]) -> list[Picture]:
    return [
        Picture(
            "latencies",
            "Latency of single inferences",
            "Line: median; bar: 10th to 90th percentile; dots: the slowest 1 %.",
            latency_distributions(report, latencies),
        ),
        Picture(
            "sizes",
            "Size of the model files",
            "The model's own files; dark is fewer bits.",
            file_sizes(report),
        ),
    ]


def _training(report: Report) -> Picture:
    return Picture(
        "curves",
        "Learning curves",
        "The ring marks the best epoch on the validation split. "
        "Losses of different methods do not compare.",
        learning_curves(report),
    )
