"""What an experiment gave as pictures and as one HTML page; in words on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .. import console
from ..evaluation.seeds import spread
from ..reporting import dots, figures, words
from ..reporting.pages import Picture, render
from ..store import write_atomic
from . import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    Record = Mapping[str, Any]

_WIDTH, _LINES_HEIGHT = 7.6, 3.0
_HOW = "Dots: seeds; line: their mean; bar: its 95 % t-interval."
_HOW_MEDIAN = "Dots: seeds; line: their median; in red: seeds that never got there."


def write_pictures(record: Record, out: Path) -> None:
    """Write METHOD.png, with every table and figure in it, and METHOD.html.

    Args:
        record: what `reproduce` recorded.
        out: an existing folder.
    """
    name = record["method"]
    if record["tables"] or record["figures"]:
        write_atomic(out / f"{name}.png", draw_all(record))
    write_atomic(out / f"{name}.html", render_page(record).encode())


def render_page(record: Record) -> str:
    """The whole result as one self-contained page."""
    return render(
        "experiment.html.j2",
        record=record,
        grids=[(tables.title(table), tables.grid(table)) for table in record["tables"]],
        pictures=list(_pictures(record)),
        summary=tables.passed(record["checks"]),
        verdict=tables.verdict,
    )


def _pictures(record: Record) -> Iterator[Picture]:
    """One picture per table, then one per figure."""
    for place, table in enumerate(record["tables"]):
        name = f"table-{place}"
        with figures.styled(name):
            figure = figures.new_figure(_WIDTH, dots.height(len(table["arms"])))
            _draw_table(figure.add_subplot(), table)
            svg = figures.to_svg(figure, name, table["title"])
        yield Picture(name, table["title"], _how(table), svg)
    for place, lines in enumerate(record["figures"]):
        name = f"figure-{place}"
        with figures.styled(name):
            figure = figures.new_figure(_WIDTH, _LINES_HEIGHT)
            dots.draw_lines(figure.add_subplot(), lines)
            svg = figures.to_svg(figure, name, lines["title"])
        yield Picture(name, lines["title"], lines["note"], svg)


def draw_all(record: Record) -> bytes:
    """Every table and figure below one another, as PNG."""
    heights = [dots.height(len(table["arms"])) for table in record["tables"]]
    heights += [_LINES_HEIGHT] * len(record["figures"])
    with figures.styled(record["method"]):
        figure = figures.new_figure(_WIDTH, sum(heights) + 0.4 * len(heights))
        panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        shown = [*record["tables"], *record["figures"]]
        for axes, what in zip(panels, shown, strict=True):
            _draw_table(axes, what) if "arms" in what else dots.draw_lines(axes, what)
            axes.set_title(what["title"])
        return dots.to_png(figure)


def _draw_table(axes: Axes, table: Mapping[str, Any]) -> None:
    dots.draw_rows(axes, [_row(arm) for arm in table["arms"]], table["unit"])


def _row(arm: Mapping[str, Any]) -> dots.Dots:
    values = tables.arm_values(arm)
    found = spread(values)
    bounds = None if found.low is None or found.high is None else (found.low, found.high)
    centre = found.mean if found.mean is not None else found.median
    return dots.Dots(arm["name"], values, centre, bounds)


def _how(table: Mapping[str, Any]) -> str:
    unsolved = any(spread(tables.arm_values(arm)).mean is None for arm in table["arms"])
    return _HOW_MEDIAN if unsolved else _HOW


def show(record: Record, page: str) -> None:
    """Print a result to stdout: claim, setting, tables, checks, and where the page is."""
    click.echo(f"{record['method']}: {record['citation']}")
    click.echo(f"claim: {record['claim']}")
    click.echo(f"tried here: {record['setting']}")
    for table in record["tables"]:
        found = tables.grid(table, "+-")
        click.echo(f"\n{tables.title(table)}, {words.plural(record['seeds'], 'seed')}")
        console.table(found.heads, found.rows)
    click.echo(f"\n{tables.passed(record['checks'])}")
    for check in record["checks"]:
        click.echo(f"- {tables.verdict(check)}: {check['statement']}\n    {check['got']}")
    click.echo(f"\n{record['seconds']:.1f} s; {page}\n")
