"""Checks what is fed to a model, and cuts a batch as the file needs it.

Checked here and not by the runtimes, because their messages run to pages of C++, and because some
of them take a wrong dtype without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..pipeline.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..pipeline.contracts import Array, Arrays, TensorSpec

CHUNK = 64
"""Samples a call where the batch axis is free: enough to hide the cost of a call."""


def check_feeds(feeds: Arrays, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Feeds in the order and the exact dtype of `specs`, C-contiguous.

    Integers of another width are cast where every value fits, since a format may narrow them
    (TFLite stores int64 inputs as int32); no other cast is made.

    Args:
        feeds: arrays by input name, each `(N, ...)`.
        specs: the inputs; the first axis is the batch and may differ from the file's.

    Raises:
        TargetError: names the input, what it got and what was expected.
    """
    _check_names(feeds, specs)
    checked = {spec.name: _check_one(np.asarray(feeds[spec.name]), spec) for spec in specs}
    sizes = {name: array.shape[0] for name, array in checked.items()}
    if len(set(sizes.values())) > 1:
        raise TargetError(
            f"inputs have different batch sizes: {sizes}; expected the same first axis in all",
            "give every input one row per sample",
        )
    return checked


def _check_names(feeds: Arrays, specs: Sequence[TensorSpec]) -> None:
    expected = [spec.name for spec in specs]
    missing = [name for name in expected if name not in feeds]
    unknown = [name for name in feeds if name not in expected]
    if not missing and not unknown:
        return
    faults = [f"input {name!r} is missing" for name in missing]
    faults += [f"{name!r} is no input of this model" for name in unknown]
    raise TargetError(
        f"{'; '.join(faults)}: got {sorted(feeds)}, expected {expected}",
        "name every input of the model exactly once",
    )


def _check_one(array: Array, spec: TensorSpec) -> Array:
    wanted = np.dtype(spec.dtype)
    shape_fits = (
        array.ndim == len(spec.shape)
        and array.ndim > 0
        and array.shape[0] > 0
        and all(
            size in (None, got) for got, size in zip(array.shape[1:], spec.shape[1:], strict=True)
        )
    )
    if not shape_fits or not _castable(array, wanted):
        raise TargetError(
            f"input {spec.name!r}: got {array.dtype} {shape_words(array.shape)}, "
            f"expected {spec.dtype} {shape_words(('N', *spec.shape[1:]))} with N >= 1",
            f"change the array that is fed as {spec.name!r}"
            if not shape_fits
            else f"cast it, as in array.astype({spec.dtype!r})",
        )
    return np.ascontiguousarray(array, dtype=wanted)


def _castable(array: Array, wanted: np.dtype[Any]) -> bool:
    if array.dtype == wanted:
        return True
    if array.dtype.kind not in "iu" or wanted.kind not in "iu":
        return False
    limits = np.iinfo(wanted)
    return bool(limits.min <= array.min() and array.max() <= limits.max)


def shape_words(shape: Sequence[object]) -> str:
    """A shape as people write it: `(N, 3, 32, 32)`, `?` for a free axis."""
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def file_batch(specs: Sequence[TensorSpec]) -> int | None:
    """The batch size that the file is fixed to, or None if the axis is free.

    Raises:
        TargetError: inputs are fixed to different sizes, or one has no batch axis.
    """
    for spec in specs:
        if not spec.shape:
            raise TargetError(
                f"input {spec.name!r} is a scalar; expected a batch axis first",
                "export the model with the batch as the first axis of every input",
            )
    sizes = {spec.shape[0] for spec in specs} - {None}
    if len(sizes) > 1:
        found = {spec.name: spec.shape[0] for spec in specs}
        raise TargetError(
            f"inputs are fixed to different batch sizes: {found}; expected one",
            "export the model with the batch as the first axis of every input",
        )
    return sizes.pop() if sizes else None


def split(feeds: Arrays, batch: int | None) -> Iterator[tuple[dict[str, Array], int]]:
    """Pieces that the file takes, each with its count of real samples.

    Args:
        feeds: checked arrays `(N, ...)`.
        batch: the file's fixed batch size: the last piece is padded with its last sample; None:
            pieces of `CHUNK`, the last one shorter.
    """
    total = next(iter(feeds.values())).shape[0]
    size = batch or CHUNK
    for start in range(0, total, size):
        piece = {name: array[start : start + size] for name, array in feeds.items()}
        count = min(size, total - start)
        if batch and count < batch:
            piece = {name: _pad(array, batch) for name, array in piece.items()}
        yield piece, count


def _pad(array: Array, size: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], size - array.shape[0], axis=0)])


def join(pieces: Sequence[tuple[Sequence[Array], int]], specs: Sequence[TensorSpec]) -> list[Array]:
    """Outputs of all pieces, the padding cut off, one array `(N, ...)` per output.

    Raises:
        TargetError: an output does not have one row per sample.
    """
    joined = []
    for index, spec in enumerate(specs):
        parts = []
        for outputs, count in pieces:
            _check_rows(outputs[index], count, spec)
            parts.append(outputs[index][:count])
        joined.append(np.concatenate(parts))
    return joined


def _check_rows(output: Array, count: int, spec: TensorSpec) -> None:
    if output.ndim == 0 or output.shape[0] < count:
        raise TargetError(
            f"output {spec.name!r} has shape {shape_words(output.shape)} for {count} samples; "
            f"expected one row per sample",
            "export the model with the batch as the first axis of every output",
        )


def rename(given: Sequence[TensorSpec], found: Sequence[TensorSpec], what: str) -> dict[str, str]:
    """Names that the signature gives -> names that the file has.

    By name where both have the same names, else by order (a format may not keep names).

    Raises:
        TargetError: their counts differ.
    """
    ours, theirs = [spec.name for spec in given], [spec.name for spec in found]
    if len(ours) != len(theirs):
        raise TargetError(
            f"the file has {len(theirs)} {what} {theirs}, its signature {len(ours)} {ours}",
            "make the artefact again: the file is not the one that the signature describes",
        )
    if set(ours) == set(theirs):
        return {name: name for name in ours}
    return dict(zip(ours, theirs, strict=True))
