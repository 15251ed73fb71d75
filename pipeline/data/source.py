"""What a data source is, and how sources describe raw arrays."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from ..contracts import Missing
from .preprocessing import InputSpec, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..contracts import Array, Arrays
    from .dataset import Dataset

INPUT = "input"
UINT8_SCALE = 1 / 255


class Source(Protocol):
    """A data source that edge.yaml can name; made without arguments.

    Attributes:
        name: as in edge.yaml.
        summary: one line for `list data`.
        Options: pydantic model of its keys in the `data` section.
        libraries: distributions whose versions decide the samples.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[BaseModel]]
    libraries: ClassVar[tuple[str, ...]]

    def missing(self) -> Missing | None:
        """What is not installed, or None."""

    def load(self, options: Any, root: Path) -> Dataset:
        """Read the data.

        Args:
            options: an instance of `Options`.
            root: the folder that paths are relative to.

        Raises:
            DataError: it cannot be read; which file, which key.
        """

    def files(self, options: Any, root: Path) -> tuple[Path, ...]:
        """Files whose content decides the data; none for data that a library brings."""


class NoOptions(BaseModel):
    """Options of a source that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scaling(BaseModel):
    """How raw values of an input become what the model takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float | None = Field(
        None, description="Factor for raw values; 1/255 for uint8 images unless given, else 1."
    )
    mean: tuple[float, ...] = Field(
        (0.0,), description="Subtracted after scaling: one value, or one per channel."
    )
    std: tuple[float, ...] = Field(
        (1.0,), description="Divisor after that: one value, or one per channel."
    )
    layout: Literal["HW", "HWC", "CHW", "none"] | None = Field(
        None,
        description="Axes of a raw sample. Unless given: uint8 of two or three axes are images "
        "(HW, HWC), other three axes are CHW, anything else reaches the model as it is.",
    )
    dtype: Literal["float32", "int64", "int32"] = Field(
        "float32", description="Element type of the model input; integers (tokens) are not scaled."
    )


def find_missing(extra: str, *libraries: str) -> Missing | None:
    """Which of the libraries are not installed; nothing is imported.

    Args:
        extra: the extra of edgedistill that brings them.
        *libraries: import names.
    """
    absent = tuple(name for name in libraries if find_spec(name) is None)
    return Missing(absent, extra) if absent else None


def describe(samples: Array, scaling: Scaling) -> InputSpec:
    """The spec of one input from its raw samples `(N, ...)`."""
    shape, kind = tuple(samples.shape[1:]), str(samples.dtype)
    raw_layout = _guess_layout(shape, kind) if scaling.layout is None else scaling.layout
    raw_layout = "" if raw_layout == "none" else raw_layout
    floating = scaling.dtype == "float32"
    image = bool(raw_layout) and kind == "uint8" and floating
    return InputSpec(
        raw_shape=shape,
        raw_dtype=kind,
        raw_layout=raw_layout,
        scale=scaling.scale if scaling.scale is not None else UINT8_SCALE if image else 1.0,
        mean=scaling.mean,
        std=scaling.std,
        layout="NCHW" if raw_layout else "",
        dtype=scaling.dtype,
    )


def describe_all(
    inputs: Arrays, common: Scaling, special: Mapping[str, Scaling] | None = None
) -> Preprocessing:
    """The specs of several inputs.

    Args:
        inputs: input name -> raw samples `(N, ...)`.
        common: for inputs that `special` does not name.
        special: input name -> its own scaling.
    """
    chosen = special or {}
    specs = {name: describe(x, chosen.get(name, common)) for name, x in inputs.items()}
    return Preprocessing(specs)


def _guess_layout(shape: tuple[int, ...], kind: str) -> str:
    if kind == "uint8":
        return {2: "HW", 3: "HWC"}.get(len(shape), "none")
    return "CHW" if len(shape) == 3 else "none"
