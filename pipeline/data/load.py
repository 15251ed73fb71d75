"""From `{"source": "mnist5k", "options": {...}}` to checked data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import plugins
from ..errors import DataError, MissingDependency
from ..options import parse_options
from .dataset import Dataset, validate
from .user import UserFunction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from .source import Source


def load_data(spec: Mapping[str, Any], root: Path) -> Dataset:
    """Load data and check it.

    Args:
        spec: `{"source": NAME or "file.py:function", "options": {...}}`; the options of a
            function are `files` and its keyword arguments.
        root: the folder that paths are relative to.

    Raises:
        ConfigError: no such source.
        DataError: wrong options, unreadable data, or a broken contract.
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
        ConfigError: no such source.
        DataError: wrong options, no such files.
    """
    source, options = _resolve(spec)
    files = source.files(options, root)
    absent = [path for path in files if not path.is_file()]
    if absent:
        hint = "Paths are relative to the config file"
        raise DataError(f"There is no data file {absent[0]}", hint)
    return files


def find_source(name: str) -> Source:
    """A data source, built in or from a plugin, by its entry point.

    Raises:
        ConfigError: no such source.
    """
    source: Source = plugins.load("data", name)()
    return source


def _resolve(spec: Mapping[str, Any]) -> tuple[Source, BaseModel]:
    name, options = str(spec["source"]), dict(spec.get("options") or {})
    source: Source
    if ":" in name:
        source, options = UserFunction(), {**options, "function": name}
    else:
        source = find_source(name)
    return source, parse_options(source.Options, options, f"data source {name!r}", DataError)
