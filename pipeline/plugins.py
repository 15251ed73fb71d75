"""Entry points -> methods and their experiments, exporters, targets, models and data sources.

A plugin joins by an entry point in one of the groups `edgedistill.<kind>`; nothing is imported
before it is asked for by name, and an unknown name lists the known ones.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from .errors import ConfigError, EdgeDistillError
from .options import nearest

if TYPE_CHECKING:
    from .contracts import Exporter, Method, Target

LISTED = ("methods", "exporters", "targets", "models", "data")
KINDS = (*LISTED, "experiments")  # an experiment is found under the name of its method


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"edgedistill.{kind}")}


def names(kind: str) -> list[str]:
    """Names of all installed plugins of a kind, sorted."""
    return sorted(_entries(kind))


def load(kind: str, name: str) -> Any:
    """The object behind an entry point.

    Raises:
        ConfigError: no plugin of that name is installed.
        EdgeDistillError: it is installed, but cannot be imported.
    """
    entry = _entries(kind).get(name)
    if entry is None:
        raise ConfigError(f"no {kind} plugin is called {name!r}", hint=nearest(name, names(kind)))
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise EdgeDistillError(
            f"the {kind} plugin {name!r} ({entry.value}) cannot be loaded: {error}",
            "reinstall the distribution that brings it: `edgedistill doctor` lists versions",
        ) from error


def method(name: str) -> type[Method]:
    """The class of a distillation method."""
    return cast("type[Method]", load("methods", name))


def exporter(name: str) -> Exporter:
    """An exporter, ready to use."""
    return cast("Exporter", load("exporters", name)())


def target(name: str) -> Target:
    """A target, ready to use."""
    return cast("Target", load("targets", name)())
