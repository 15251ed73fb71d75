"""Data from a function of the user's: `data: {source: "my_data.py:splits"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..errors import DataError
from ..options import nearest
from ..usercode import check_arguments, load_user_function, source_files
from .arrays import class_names
from .dataset import SPLITS, Dataset, Split
from .preprocessing import Preprocessing
from .source import INPUT, Scaling, describe_all

if TYPE_CHECKING:
    from pathlib import Path

    from ..contracts import Array, Missing

_KEYS = (*SPLITS, "labels", "preprocessing")


class UserFunctionOptions(BaseModel):
    """The function; keys that are not listed here become its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    function: str = Field(description="`file.py:function`, relative to the config file.")
    files: tuple[str, ...] = Field(
        (), description="Files that the function reads; when they change, so does the data."
    )


class UserFunction:
    """A function that returns a `Dataset`, or a dict of splits.

    The dict has `train`, `validation` and `test`, each `(x, y)`; x is an array or a dict of
    arrays by input name, NumPy or torch; and maybe `labels`, a list of names, and
    `preprocessing`, as `Preprocessing.to_json` writes it.
    """

    name: ClassVar[str] = "user"
    summary: ClassVar[str] = "a function of yours: source: my_data.py:splits"
    Options: ClassVar[type[BaseModel]] = UserFunctionOptions
    libraries: ClassVar[tuple[str, ...]] = ()

    def missing(self) -> Missing | None:
        return None

    def load(self, options: UserFunctionOptions, root: Path) -> Dataset:
        function = load_user_function(options.function, root, DataError)
        arguments = options.model_extra or {}
        check_arguments(function, arguments, options.function, DataError)
        result = function(**arguments)
        if isinstance(result, Dataset):
            return result
        return _dataset(result, options.function)

    def files(self, options: UserFunctionOptions, root: Path) -> tuple[Path, ...]:
        own = source_files(options.function, root, DataError)
        return (*own, *(root / name for name in options.files))


def _dataset(result: Any, owner: str) -> Dataset:
    if not isinstance(result, Mapping):
        expected = f"a dict with the keys {', '.join(SPLITS)}"
        raise DataError(f"{owner} returned {type(result).__name__}, expected {expected}")
    absent = [name for name in SPLITS if name not in result]
    unknown = [name for name in result if name not in _KEYS]
    if absent or unknown:
        hint = nearest(str(unknown[0]), _KEYS) if unknown else f"It has: {', '.join(result)}"
        raise DataError(f"{owner}: missing keys {absent}, unknown keys {unknown}", hint)
    splits = {name: _split(result[name], f"{owner}: split {name!r}") for name in SPLITS}
    labels = class_names(result.get("labels"), splits)
    return Dataset(
        **splits, labels=labels, preprocessing=_preprocessing(result, splits["train"].inputs)
    )


def _split(value: Any, owner: str) -> Split:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise DataError(f"{owner} is {type(value).__name__}, expected (inputs, targets)")
    inputs, targets = value
    named = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
    arrays = {str(name): _array(x, f"{owner}, input {name!r}") for name, x in named.items()}
    return Split(arrays, _array(targets, f"{owner}, targets"))


def _array(value: Any, owner: str) -> Array:
    # A torch tensor is known by what it can do, so that torch need not be imported here.
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        try:
            value = value.detach().cpu().numpy()
        except (TypeError, RuntimeError) as exc:
            raise DataError(f"{owner} cannot become a NumPy array: {exc}") from exc
    if not isinstance(value, np.ndarray):
        got = type(value).__name__
        raise DataError(f"{owner} is {got}, expected a NumPy array or a torch tensor")
    return value


def _preprocessing(result: Mapping[str, Any], inputs: Mapping[str, Array]) -> Preprocessing:
    given = result.get("preprocessing")
    if isinstance(given, Preprocessing):
        return given
    return describe_all(inputs, Scaling()) if given is None else Preprocessing.from_json(given)
