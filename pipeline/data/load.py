"""From `{"source": "mnist5k", "options": {...}}` to checked data."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MissingDependency
from ..options import nearest, parse_options
from .dataset import Dataset, validate
from .user import UserFunction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from .source import Source

GROUP = "edgedistill.data"


def load_data(spec: Mapping[str, Any], root: Path) -> Dataset:
    """Load data and check it.

    Args:
        spec: `{"source": NAME or "file.py:function", "options": {...}}`; the options of a
            function are `files` and its keyword arguments.
        root: the folder that paths are relative to.

    Raises:
        DataError: no such source, wrong options, unreadable data, or a broken contract.
        MissingDependency: the source needs a library that is not installed.
    """
    source, options = _resolve(spec)
    missing = source.missing()
    if missing:
        what = f"Data source {source.name!r} needs {', '.join(missing.libraries)}"
        raise MissingDependency(what, missing.pip_line)
    dataset = source.load(options, root)
    validate(dataset)
    return dataset


def data_files(spec: Mapping[str, Any], root: Path) -> tuple[Path, ...]:
    """The files whose content decides the data; see `load_data`.

    Raises:
        DataError: no such source, wrong options, no such files.
    """
    source, options = _resolve(spec)
    return source.files(options, root)


def find_source(name: str) -> Source:
    """A data source, built in or from a plugin, by its entry point.

    Raises:
        DataError: no such source.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        hint = f"{nearest(name, found)}; or name a function of yours: 'my_data.py:splits'"
        raise DataError(f"There is no data source named {name!r}", hint)
    source: Source = found[name].load()()
    return source


def _resolve(spec: Mapping[str, Any]) -> tuple[Source, BaseModel]:
    name, options = str(spec["source"]), dict(spec.get("options") or {})
    source: Source
    if ":" in name:
        source, options = UserFunction(), {**options, "function": name}
    else:
        source = find_source(name)
    return source, parse_options(source.Options, options, f"data source {name!r}", DataError)
