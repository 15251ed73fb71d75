"""From raw arrays to model inputs: a small JSON spec that any language can repeat.

For an input of float dtype the order of operations is fixed, and every step is in fp32, so that
the bundle's `predict.py` gets the same bits:

1. `x = raw.astype(float32)`
2. `x = x * float32(scale)`
3. `x = x - float32(mean)`, one value for all, or one per channel
4. `x = x / float32(std)`, likewise
5. axes from `raw_layout` to `layout`; a channel axis that is missing becomes one of size 1

An input of integer dtype (tokens) is only cast and has its axes moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts import TensorSpec
from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..contracts import Array, Arrays


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How one raw input becomes one model input.

    Attributes:
        raw_shape: shape of a sample as the data source gives it.
        raw_dtype: NumPy name of its element type.
        raw_layout: a letter per axis of a sample, such as `HW`; empty if axes have no meaning.
        scale: factor for raw values.
        mean: subtracted after scaling: one value, or one per channel.
        std: divisor after that: one value, or one per channel.
        layout: a letter per axis of the model input, the batch axis `N` first; empty as above.
        dtype: NumPy name of the element type of the model input.
    """

    raw_shape: tuple[int, ...]
    raw_dtype: str
    raw_layout: str = ""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        fault = self._layout_fault() or self._dtype_fault() or self._values_fault()
        if fault:
            raise DataError(f"Preprocessing of shape {self.raw_shape}: {fault}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a model input, without the batch axis."""
        sizes = dict(zip(self.raw_layout, self.raw_shape, strict=False))
        return tuple(sizes.get(axis, 1) for axis in self.layout[1:]) or self.raw_shape

    def apply(self, raw: Array) -> Array:
        """`(N, *raw_shape)` -> `(N, *shape)`, in the order of operations given above."""
        x = raw
        if np.dtype(self.dtype).kind == "f":
            x = raw.astype(np.float32) * np.float32(self.scale)
            x = (x - self._per_channel(self.mean)) / self._per_channel(self.std)
        return np.ascontiguousarray(self._move_axes(x.astype(self.dtype, copy=False)))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> InputSpec:
        """The inverse of `to_json`; `data` is not trusted.

        Raises:
            DataError: a key that is missing or unknown, or values that contradict each other.
        """
        if not isinstance(data, Mapping):
            raise DataError(f"Preprocessing of an input is {data!r}, expected a mapping")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        missing = sorted({"raw_shape", "raw_dtype"} - set(data))
        if unknown or missing:
            what = f"unknown keys {unknown}, missing keys {missing}"
            raise DataError(f"Preprocessing has {what}", f"Keys: {', '.join(known)}")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list | tuple) else v for k, v in data.items()
        }
        try:
            return cls(**values)
        except (TypeError, ValueError) as exc:
            raise DataError(
                f"Preprocessing {dict(data)} has a value of a wrong type: {exc}"
            ) from exc

    def _per_channel(self, values: Sequence[float]) -> Array:
        """fp32 values, shaped so that they broadcast over `(N, *raw_shape)`."""
        array = np.asarray(values, np.float32)
        after = len(self.raw_shape) - self._channel_axis - 1
        return array if array.size == 1 else array.reshape(-1, *[1] * after)

    @property
    def _channel_axis(self) -> int:
        found = self.raw_layout.find("C")
        return found if found >= 0 else len(self.raw_shape) - 1

    def _move_axes(self, x: Array) -> Array:
        axes = "N" + self.raw_layout
        if self.layout in ("", axes):
            return x
        if "C" not in axes:
            axes, x = axes + "C", x[..., np.newaxis]
        return x.transpose([axes.index(axis) for axis in self.layout])

    def _layout_fault(self) -> str:
        raw, new = self.raw_layout, self.layout
        if raw and len(raw) != len(self.raw_shape):
            return f"raw_layout {raw!r} does not have one letter per axis"
        if bool(raw) != bool(new):
            return f"raw_layout {raw!r} and layout {new!r} must both be given or both be empty"
        allowed = [sorted("N" + raw), sorted("NC" + raw)] if "C" not in raw else [sorted("N" + raw)]
        if raw and (not new.startswith("N") or sorted(new) not in allowed):
            return f"layout {new!r} must be N and then the axes of raw_layout {raw!r}"
        return "" if len(set(raw)) == len(raw) else f"raw_layout {raw!r} repeats a letter"

    def _dtype_fault(self) -> str:
        for name in (self.raw_dtype, self.dtype):
            try:
                kind = np.dtype(name).kind
            except TypeError:
                return f"{name!r} is not the name of a NumPy dtype"
            if kind not in "biuf":
                return f"dtype {name!r} is not a number"
        trivial = (self.scale, self.mean, self.std) == (1.0, (0.0,), (1.0,))
        if np.dtype(self.dtype).kind != "f" and not trivial:
            return f"scale, mean and std need a float dtype, not {self.dtype!r}"
        return ""

    def _values_fault(self) -> str:
        figures = (self.scale, *self.mean, *self.std)
        if not all(np.isfinite(figures)) or 0 in self.std or self.scale == 0:
            return f"scale {self.scale}, mean {self.mean}, std {self.std}: a zero or not finite"
        channels = self.raw_shape[self._channel_axis] if self.raw_shape else 1
        if "C" not in self.raw_layout and self.raw_layout:
            channels = 1
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                return f"{name} has {len(values)} values, expected 1 or {channels}"
        return ""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How every raw input becomes a model input.

    Attributes:
        inputs: name -> spec, in the order in which a model takes its inputs.
    """

    inputs: Mapping[str, InputSpec]

    def apply(self, raw: Arrays) -> dict[str, Array]:
        """Raw arrays `(N, *raw_shape)` by name -> model inputs `(N, *shape)` by name.

        Raises:
            DataError: names, shapes or dtypes are not those of the specs.
        """
        if set(raw) != set(self.inputs):
            raise DataError(f"Inputs are {sorted(raw)}, expected {sorted(self.inputs)}")
        for name, spec in self.inputs.items():
            got = (raw[name].shape[1:], str(raw[name].dtype))
            if got != (tuple(spec.raw_shape), spec.raw_dtype):
                expected = f"{tuple(spec.raw_shape)} of {spec.raw_dtype}"
                raise DataError(f"Samples of {name!r} are {got[0]} of {got[1]}, not {expected}")
        return {name: spec.apply(raw[name]) for name, spec in self.inputs.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name -> shape of a model input, without the batch axis."""
        return {name: spec.shape for name, spec in self.inputs.items()}

    def tensor_specs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs for a signature; the batch axis is free."""
        return tuple(
            TensorSpec(name, (None, *spec.shape), spec.dtype, spec.layout)
            for name, spec in self.inputs.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Input name -> spec, as JSON."""
        return {name: spec.to_json() for name, spec in self.inputs.items()}

    @classmethod
    def from_json(cls, data: Any) -> Preprocessing:
        """The inverse of `to_json`; `data` is not trusted.

        Raises:
            DataError: see `InputSpec.from_json`.
        """
        if not isinstance(data, Mapping):
            raise DataError(f"Preprocessing is {data!r}, expected input name -> settings")
        return cls({name: InputSpec.from_json(spec) for name, spec in data.items()})
