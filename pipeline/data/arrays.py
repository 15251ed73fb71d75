"""NumPy arrays from an .npz file."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from ..errors import DataError
from ..options import nearest
from .dataset import SPLITS, Dataset, Split
from .source import INPUT, Scaling, describe_all

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..contracts import Array, Missing


class ArraysOptions(Scaling):
    """Which file, and how its values become model inputs."""

    path: str = Field(description="The .npz file, relative to the config file.")
    inputs: dict[str, Scaling] = Field(
        default_factory=dict,
        description="Own settings of some inputs, by name, in place of the ones above.",
    )


class Arrays:
    """An .npz with x_train, y_train, x_validation, ..., y_test and maybe labels.

    A model of several inputs has `x_train.NAME` and so on for each. Without `labels` the classes
    are named by their numbers. Python objects in the file are never unpickled.
    """

    name: ClassVar[str] = "arrays"
    summary: ClassVar[str] = "an .npz file: x_train, y_train, x_validation, ..., y_test [, labels]"
    Options: ClassVar[type[BaseModel]] = ArraysOptions
    libraries: ClassVar[tuple[str, ...]] = ()

    def missing(self) -> Missing | None:
        return None

    def load(self, options: ArraysOptions, root: Path) -> Dataset:
        path = root / options.path
        content = _read(path)
        splits = {name: _split(content, name, path) for name in SPLITS}
        inputs = splits["train"].inputs
        for name in options.inputs:
            if name not in inputs:
                raise DataError(f"{path} has no input {name!r}", nearest(name, inputs))
        labels = class_names(content.get("labels"), splits)
        return Dataset(
            **splits, labels=labels, preprocessing=describe_all(inputs, options, options.inputs)
        )

    def files(self, options: ArraysOptions, root: Path) -> tuple[Path, ...]:
        return (root / options.path,)


def class_names(given: Any, splits: Mapping[str, Split]) -> tuple[str, ...]:
    """Names of the classes: as given, or the numbers up to the largest one in the training data.

    Raises:
        DataError: what is given is no list, or nothing is given and the training targets
            do not tell either.
    """
    if given is not None:
        if np.ndim(given) != 1:
            raise DataError(f"labels are {given!r}, expected a list of names")
        return tuple(str(name) for name in given)
    targets = splits["train"].targets
    if targets.dtype.kind not in "iu" or not targets.size:
        what = f"targets are {targets.dtype} {targets.shape}"
        raise DataError(f"Split 'train': {what}, expected integer class numbers (N,)")
    return tuple(str(number) for number in range(int(targets.max()) + 1))


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise DataError(f"There is no data file {path}", "Paths are relative to the config file")
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path} is not a readable .npz file: {exc}") from exc
    if isinstance(file, np.ndarray):
        hint = "Write it with numpy.savez(path, x_train=..., y_train=..., ...)"
        raise DataError(f"{path} holds a single array", hint)
    with file:
        return {key: _member(file, key, path) for key in file.files}


def _member(file: Mapping[str, Array], key: str, path: Path) -> Array:
    try:
        return file[key]
    except ValueError as exc:
        hint = "Save plain arrays of numbers; for names, arrays of strings"
        raise DataError(f"{path}: {key!r} holds Python objects and was not read", hint) from exc
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.error) as exc:
        raise DataError(f"{path}: {key!r} is damaged: {exc}") from exc


def _split(content: Mapping[str, Array], split: str, path: Path) -> Split:
    prefix, target = f"x_{split}", f"y_{split}"
    inputs = {
        key.partition(".")[2] or INPUT: values
        for key, values in content.items()
        if key == prefix or key.startswith(f"{prefix}.")
    }
    absent = [key for key in (prefix if not inputs else "", target) if key and key not in content]
    if absent:
        raise DataError(f"{path} lacks {' and '.join(absent)}", f"There is: {', '.join(content)}")
    return Split(inputs, content[target])
