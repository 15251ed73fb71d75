"""The report as one HTML file that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..contracts import Missing
from ..errors import MissingDependency
from . import figures, headlines, views
from .charts import draw_charts
from .pages import render
from .protocol import small_print

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .views import Report

_LIBRARIES = ("jinja2", "matplotlib")


def missing() -> Missing | None:
    """What the extra `report` would bring and is not installed, or None."""
    absent = tuple(name for name in _LIBRARIES if find_spec(name) is None)
    return Missing(absent, "report") if absent else None


def render_html(report: Report, latencies: Mapping[str, Sequence[float]]) -> str:
    """The whole report as one self-contained page.

    The same report and latencies give the same bytes.

    Args:
        report: as in report.json.
        latencies: artefact name (or `teacher`) -> latency of each inference in milliseconds.

    Returns:
        HTML in UTF-8, with inline CSS and inline SVG.

    Raises:
        MissingDependency: jinja2 or matplotlib is not installed.
    """
    if absent := missing():
        raise MissingDependency(
            f"report.html needs {' and '.join(absent.libraries)}, not installed here",
            hint=absent.pip_line,
        )
    paths = views.paths(report)
    return render(
        "report.html.j2",
        report=report,
        verdict=headlines.verdict(report),
        tiles=headlines.tiles(report),
        shown=headlines.headline(report),
        models=views.models(report),
        gain=headlines.gain(report),
        artifacts=views.artifacts(report),
        recipes=views.recipes(report),
        recipe_heads=views.RECIPE_HEADS,
        several_targets=len(views.targets(report)) > 1,
        paths=paths,
        hop_titles=views.hop_titles(paths),
        details=small_print(report),
        charts=draw_charts(report, latencies),
        color_of=figures.color_of,
    )
