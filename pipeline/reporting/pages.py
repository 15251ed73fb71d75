"""Pages that need nothing else: no network, no script, pictures inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_NAMESPACE = re.compile(r' xmlns(?::\w+)?="[^"]*"')


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart of a page: its id, its title, how to read it, and the SVG."""

    name: str
    title: str
    caption: str
    svg: str

    @property
    def embedded(self) -> str:
        """SVG inside HTML needs no namespaces; without them the page names no address at all."""
        return _NAMESPACE.sub("", self.svg).replace("xlink:href", "href")


def render(template: str, **values: Any) -> str:
    """A page from one of our templates; every text is escaped.

    Args:
        template: its file name; it extends `page.html.j2`.
        values: what it shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__.rpartition(".")[0]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
