"""Learning curves of teacher, student and baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from . import figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from .views import Report

_DASHES = ("--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))


def learning_curves(report: Report) -> str:
    """Validation accuracy by epoch, and the loss of each model by its parts.

    Args:
        report: as in report.json.

    Returns:
        SVG, or an empty string when no model was trained.
    """
    trained = {r: report[r] for r in figures.ROLES if report[r] and report[r]["history"]}
    if not trained:
        return ""
    with figures.styled("curves"):
        figure = figures.new_figure(11.4, 3.5)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1))
        for role, model in trained.items():
            _draw_accuracy(left, role, model)
            _draw_losses(right, role, model["history"])
        _finish(left, "validation accuracy, %", "lower right")
        right.set_yscale("log")
        figures.log_ticks(right.yaxis)
        right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _finish(right, "training loss and its parts", "upper right")
        return figures.to_svg(figure, "curves", "Learning curves")


def _draw_accuracy(axes: Axes, role: str, model: Mapping[str, Any]) -> None:
    epochs = [entry["epoch"] for entry in model["history"]]
    found = [100 * entry["validation_accuracy"] for entry in model["history"]]
    axes.plot(epochs, found, color=figures.ROLES[role], marker="o", ms=3.5, label=role)
    best = model.get("epochs", {}).get("best")
    if best:
        ring: dict[str, Any] = {
            "facecolor": "none",
            "edgecolor": figures.ROLES[role],
            "linewidth": 1.5,
        }
        axes.scatter(best["epoch"], 100 * best["validation_accuracy"], s=90, zorder=3, **ring)


def _draw_losses(axes: Axes, role: str, history: Sequence[Mapping[str, Any]]) -> None:
    epochs = [entry["epoch"] for entry in history]
    color = figures.ROLES[role]
    totals = [entry["loss"].get("total", sum(entry["loss"].values())) for entry in history]
    axes.plot(epochs, totals, color=color, label=role)
    parts = [part for part in history[-1]["loss"] if part != "total"]
    if len(parts) < 2:  # a single part is the total
        return
    for place, part in enumerate(parts):
        found = [entry["loss"].get(part, float("nan")) for entry in history]
        dashes = _DASHES[place % len(_DASHES)]
        axes.plot(epochs, found, color=color, ls=dashes, lw=1.2, label=f"{role}: {part}")


def _finish(axes: Axes, label: str, corner: Literal["lower right", "upper right"]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.legend(loc=corner)
