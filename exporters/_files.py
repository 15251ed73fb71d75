"""What the exporters share about files: what is needed, what comes in, what really is inside."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..pipeline.contracts import Artifact, Missing, Precision, Signature, TensorSpec
from ..pipeline.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ..pipeline.contracts import Array, Arrays

# NumPy names of the element types that weights of a precision have.
_WEIGHT_TYPES: Mapping[str, frozenset[str]] = {
    "fp16": frozenset({"float16"}),
    "int8": frozenset({"int8", "uint8"}),
    "int8-dynamic": frozenset({"int8", "uint8"}),
}


def missing_libraries(names: tuple[str, ...], extra: str) -> Missing | None:
    """Which import names cannot be found, without importing any.

    Args:
        names: import names of top-level packages.
        extra: the extra of edgedistill that brings them.
    """
    absent = tuple(name for name in names if find_spec(name) is None)
    return Missing(absent, extra) if absent else None


def fp32_source(
    kind: str, source: Artifact, precision: Precision, known: tuple[Precision, ...], name: str
) -> tuple[Path, Signature]:
    """The file and the signature of an artefact that is about to be converted.

    Args:
        kind: the format of the exporter that asks.
        source: an artefact of that format in fp32.
        precision: what it shall become.
        known: what the exporter can write.
        name: of the model file inside the artefact.

    Raises:
        ExportError: the artefact is of another kind or precision, or the precision is unknown.
    """
    if precision == "fp32" or precision not in known:
        wanted = ", ".join(each for each in known if each != "fp32")
        raise ExportError(
            f"{kind}: cannot convert to {precision!r}; expected one of {wanted}",
            f"Take {precision!r} out of export.precisions.",
        )
    if source.kind != kind or source.precision != "fp32" or source.signature is None:
        raise ExportError(
            f"{kind}: cannot convert a {source.kind!r} artefact in {source.precision!r}; "
            f"expected {kind!r} in 'fp32' with a signature",
            "Export the model to this format in fp32 first.",
        )
    return source.root / name, source.signature


def calibration_feeds(
    kind: str, samples: Arrays, signature: Signature, batch: int
) -> Iterator[dict[str, Array]]:
    """Calibration samples as feeds of the model.

    Args:
        kind: the format, for messages.
        samples: arrays `(M, ...)` by input name.
        signature: of the fp32 file.
        batch: samples per feed where the batch axis is free, else the file's own size is taken.
            A short last feed is filled up with its last sample: extremes stay what they are.

    Raises:
        ExportError: samples are missing, empty, or of another shape than the model takes.
    """
    import numpy as np

    count = _count_samples(kind, samples, signature)
    size = _fixed_batch(signature) or min(batch, count)
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        yield {
            spec.name: np.asarray(samples[spec.name])[rows].astype(spec.dtype, copy=False)
            for spec in signature.inputs
        }


def _fixed_batch(signature: Signature) -> int | None:
    """The batch size that the file wants, or None if any will do."""
    return next((spec.shape[0] for spec in signature.inputs if spec.shape), None)


def _count_samples(kind: str, samples: Arrays, signature: Signature) -> int:
    hint = "Calibrate with a few hundred samples of the training data, `(M, ...)` per input."
    lacking = [spec.name for spec in signature.inputs if spec.name not in samples]
    if lacking:
        got = ", ".join(samples) or "nothing"
        raise ExportError(f"{kind}: calibration lacks input {', '.join(lacking)}; got {got}", hint)
    for spec in signature.inputs:
        _check_sample_shape(kind, spec, samples[spec.name].shape, hint)
    counts = {len(samples[spec.name]) for spec in signature.inputs}
    if len(counts) != 1 or 0 in counts:
        found = ", ".join(f"{spec.name}: {len(samples[spec.name])}" for spec in signature.inputs)
        raise ExportError(
            f"{kind}: calibration samples per input are {found}; expected one equal count above 0",
            hint,
        )
    return counts.pop()


def _check_sample_shape(kind: str, spec: TensorSpec, shape: tuple[int, ...], hint: str) -> None:
    if shape[1:] != spec.shape[1:]:
        raise ExportError(
            f"{kind}: calibration samples of {spec.name!r} have the shape {shape}; "
            f"expected (M, {', '.join(map(str, spec.shape[1:]))})",
            hint,
        )


def check_weights(kind: str, precision: str, elements: Mapping[str, int]) -> None:
    """Refuse a file whose name promises more than its weights keep.

    Args:
        kind: the format.
        precision: what the file shall be called.
        elements: number of constant elements in the file by NumPy type name.

    Raises:
        ExportError: less than half of the weights are of that precision.
    """
    kept = sum(elements.get(name, 0) for name in _WEIGHT_TYPES[precision])
    left = elements.get("float32", 0)
    if kept > left:
        return
    raise ExportError(
        f"{kind}: {precision} was asked for, but only {kept} of {kept + left} weights "
        f"became {' or '.join(sorted(_WEIGHT_TYPES[precision]))}: the converter has no "
        f"{precision} form for the operators that hold the others",
        f"Take {precision!r} out of export.precisions for this model, or build it of convolutions "
        "and linear layers.",
    )


def described(
    specs: tuple[TensorSpec, ...], found: Mapping[str, tuple[tuple[int | None, ...], str]]
) -> tuple[TensorSpec, ...]:
    """Specs with shape and dtype as the file has them; names, order and layouts stay.

    Args:
        specs: of the model that went into the file.
        found: `(shape, dtype)` by name, read from the file.
    """
    return tuple(TensorSpec(spec.name, *found[spec.name], spec.layout) for spec in specs)
