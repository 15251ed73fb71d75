"""A comparison of methods as a table, as a picture and as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import dots, figures, words
from .pages import Picture, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    Record = Mapping[str, Any]

_WIDTH = 11.4
_TITLE = "Accuracy and difference by method"


@dataclass(frozen=True, slots=True)
class Grid:
    """Heads and rows of words; the first column names the methods."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grid(record: Record, sign: str = "±") -> Grid:
    """One row per method: accuracy, differences to the references, agreement, cost.

    Args:
        record: as in compare.json.
        sign: what stands between a mean and its interval.
    """
    against = tuple(f"to {name}, points" for name in record["references"])
    uneven = any(row["failures"] and row["seeds"] for row in record["methods"])
    heads = (
        "method", f"accuracy {sign} 95 %", *against, "agrees", "s/epoch", "ratio",
        *(("seeds",) if uneven else ()),
    )  # fmt: skip
    rows = (_row(row, record, sign) for row in record["methods"])
    return Grid(heads, tuple(row[: len(heads)] for row in rows))


def _row(row: Mapping[str, Any], record: Record, sign: str) -> tuple[str, ...]:
    seconds, agreement = row["seconds_per_epoch"], row["agreement"]
    count = len(row["seeds"]) + len(row["failures"])
    return (
        row["method"],
        _accuracy(row["accuracy"], sign),
        *(_gap(row["to"].get(name)) for name in record["references"]),
        words.NONE if agreement is None else words.percent(agreement / 100),
        words.NONE if seconds is None else words.significant(seconds),
        words.ratio(row["seconds_ratio"]),
        f"{len(row['seeds'])}/{count}",
    )


def _accuracy(found: Mapping[str, Any] | None, sign: str) -> str:
    if found is None:
        return words.NONE
    reach = "" if found["high"] is None else f" {sign} {found['high'] - found['mean']:.1f}"
    return f"{found['mean']:.1f}{reach} %"


def _gap(found: Mapping[str, Any] | None) -> str:
    """`+0.8 (0.1 to 1.5)`."""
    if found is None:
        return words.NONE
    value = round(found["value"], 1) + 0.0
    return f"{value:+.1f} ({words.interval((found['low'], found['high']), words.points)})"


FEW = 4  # seeds, below which an interval is wider than most differences


def verdict(record: Record) -> str:
    """One sentence: which is best, if any can be told from all others."""
    over = "test samples" if len(record["seeds"]) == 1 else "seeds"
    if record["best"]:
        return (
            f"{record['best']} is best: its paired difference to every other method is above 0"
            f" with 95 % confidence over {over}"
        )
    if failed := [row["method"] for row in record["methods"] if row["failures"]]:
        return f"no verdict: not every training of {', '.join(failed)} ended well"
    return f"no method can be told from all the others with 95 % confidence over {over}"


def notes(record: Record) -> list[str]:
    """How to read the table."""
    found = ["accuracy is on the test split, of the epoch that was best on the validation split"]
    if len(record["seeds"]) == 1:
        found.append("one seed: intervals tell the chance of the test samples, not of the training")
    elif len(record["seeds"]) < FEW:
        found.append(f"{len(record['seeds'])} seeds: such intervals tell little; run 5")
    found.append(
        "s/epoch is the pace from the first step to the last on this machine, and ratio is that to"
        " none: setting up, and asking the teacher before the first step, are left out"
    )
    return found


def failures(record: Record) -> list[tuple[str, str]]:
    """Name and reason of every training that failed."""
    return [
        (f"{row['method']}, seed {seed}", reason)
        for row in record["methods"]
        for seed, reason in row["failures"].items()
    ]


def draw_png(record: Record) -> bytes:
    """Accuracies and differences as a PNG picture."""
    with figures.styled("compare"):
        return dots.to_png(_draw(record))


def render_page(record: Record) -> str:
    """The comparison as one self-contained page."""
    with figures.styled("compare"):
        svg = figures.to_svg(_draw(record), "compare", _TITLE)
    caption = "Dots: seeds; line: mean; bar: 95 % interval. A bar that leaves out 0 proves a sign."
    return render(
        "comparison.html.j2",
        record=record,
        grid=grid(record),
        verdict=verdict(record),
        notes=notes(record),
        failures=failures(record),
        picture_of=Picture("compare", _TITLE, caption, svg),
    )


def _draw(record: Record) -> Figure:
    """Accuracies beside the differences to each reference."""
    rows = [row for row in record["methods"] if row["accuracy"]]
    figure = figures.new_figure(_WIDTH, dots.height(max(len(rows), 1)) + 0.3)
    panels = figure.subplots(1, 1 + len(record["references"]), squeeze=False)[0]
    accuracies = [_dots(row, row["accuracy"], row["accuracies"], "mean") for row in rows]
    dots.draw_rows(panels[0], accuracies, "accuracy on the test split, %", record["best"])
    panels[0].axvline(record["teacher"], color=figures.MUTED, lw=1.1, ls=(0, (5, 4)))
    panels[0].set_title(f"dashed: the teacher, {record['teacher']:.1f} %")
    for axes, name in zip(panels[1:], record["references"], strict=True):
        axes.axvline(0, color=figures.MUTED, lw=1)
        gaps = [_dots(row, row["to"].get(name), (), "value") for row in rows]
        dots.draw_rows(axes, gaps, f"points above {name}", record["best"])
        axes.tick_params(labelleft=False)  # the rows are those of the first panel
    return figure


def _dots(
    row: Mapping[str, Any], found: Mapping[str, Any] | None, values: Sequence[float], centre: str
) -> dots.Dots:
    if found is None:
        return dots.Dots(row["method"], (), None, None)
    bounds = None if found["low"] is None else (found["low"], found["high"])
    return dots.Dots(row["method"], tuple(values), found[centre], bounds)
