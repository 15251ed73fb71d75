"""The report as one HTML file that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..contracts import Missing
from ..errors import MissingDependency
from . import figures, headlines, views
from .charts import Chart, draw_charts
from .protocol import small_print

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .views import Report

_LIBRARIES = ("jinja2", "matplotlib")
_NAMESPACE = re.compile(r' xmlns(?::\w+)?="[^"]*"')


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
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__.rpartition(".")[0]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    paths = views.paths(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        verdict=headlines.verdict(report),
        tiles=headlines.tiles(report),
        shown=headlines.headline(report),
        models=views.models(report),
        gain=headlines.gain(report),
        artifacts=views.artifacts(report),
        several_targets=len(views.targets(report)) > 1,
        paths=paths,
        hop_titles=views.hop_titles(paths),
        details=small_print(report),
        charts=_inlined(draw_charts(report, latencies)),
        color_of=figures.color_of,
    )


def _inlined(charts: Mapping[str, list[Chart]]) -> dict[str, list[dict[str, str]]]:
    """SVG inside HTML needs no namespaces, and without them the page names no address at all."""
    return {section: [_embedded(chart) for chart in found] for section, found in charts.items()}


def _embedded(chart: Chart) -> dict[str, str]:
    svg = _NAMESPACE.sub("", chart.svg).replace("xlink:href", "href")
    return {"name": chart.name, "title": chart.title, "caption": chart.caption, "svg": svg}
