"""The contract of data: three splits of raw inputs and labels, checked once.

Inputs keep the form in which they came (`uint8` images, say); `Preprocessing` turns them into
model inputs, in training, in measurements and in the bundle alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..contracts import Array
    from .preprocessing import Preprocessing

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples and their labels.

    Attributes:
        inputs: input name -> raw values `(N, ...)`.
        targets: class numbers `(N,)`, integers.
    """

    inputs: Mapping[str, Array]
    targets: Array

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Data for one run.

    Attributes:
        train: what student and teacher learn from.
        validation: what choices are made on (best epoch, calibration, selection).
        test: what the reported figures are measured on.
        labels: name of each class, by number.
        preprocessing: from raw inputs to model inputs.
    """

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order of `SPLITS`."""
        return {name: getattr(self, name) for name in SPLITS}


def validate(dataset: Dataset) -> None:
    """Check that the data keeps its contract; all faults are told at once.

    Raises:
        DataError: NaN or infinite values, empty splits, lengths that differ, labels that are
            no integers or out of range, splits of different make, fewer than two classes.
    """
    faults = list(_dataset_faults(dataset))
    for name, split in dataset.splits().items():
        # The values of a split are only looked at when its form is right.
        found = list(_form_faults(split)) or list(_value_faults(split, dataset.labels))
        faults += [f"split {name!r}: {fault}" for fault in found]
    if faults:
        count = f" ({len(faults)} faults)" if len(faults) > 1 else ""
        raise DataError(f"The data cannot be used{count}: {'; '.join(faults)}", "Mend the data")


def _dataset_faults(dataset: Dataset) -> Iterator[str]:
    if dataset.num_classes < 2:
        yield f"{dataset.num_classes} class {list(dataset.labels)}, expected at least 2"
    duplicates = {name for name in dataset.labels if dataset.labels.count(name) > 1}
    if duplicates:
        yield f"labels {sorted(duplicates)} name more than one class"
    for name in dataset.preprocessing.inputs:
        if not name.isidentifier():  # names become keyword arguments and file names
            yield f"input name {name!r} is no identifier: use letters, digits and _"
    wanted = {n: (s.raw_shape, s.raw_dtype) for n, s in dataset.preprocessing.inputs.items()}
    for name, split in dataset.splits().items():
        make = {n: (tuple(x.shape[1:]), str(x.dtype)) for n, x in split.inputs.items()}
        if make != wanted:
            yield f"split {name!r} has inputs {_told(make)}, expected {_told(wanted)}"


def _told(make: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name}: {dtype} {shape}" for name, (shape, dtype) in make.items()) or "none"


def _form_faults(split: Split) -> Iterator[str]:
    targets = split.targets
    if targets.ndim != 1:
        hint = "class numbers, not one-hot rows: use y.argmax(1)"
        yield f"targets are {targets.shape}, expected (N,): {hint}"
    elif targets.dtype.kind not in "iu":
        yield f"targets are {targets.dtype}, expected integers: use y.astype('int64')"
    if targets.shape[:1] == (0,):
        yield "it is empty"
    for name, values in split.inputs.items():
        if values.shape[:1] != targets.shape[:1]:
            yield f"input {name!r} has shape {values.shape} for targets {targets.shape}"
        if values.dtype.kind not in "biuf":
            yield f"input {name!r} is {values.dtype}, expected numbers"


def _value_faults(split: Split, labels: tuple[str, ...]) -> Iterator[str]:
    wrong = np.asarray((split.targets < 0) | (split.targets >= len(labels)))
    if wrong.any():
        sample = int(wrong.argmax())
        value = int(split.targets[sample])
        expected = f"expected 0 to {len(labels) - 1} ({len(labels)} classes)"
        yield f"target {value} of sample {sample}: {expected}{_others(wrong)}"
    for name, values in split.inputs.items():
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # a float64 beyond fp32 is found as infinite
                rows = values.astype(np.float32, copy=False).reshape(len(values), -1)
            bad = np.asarray(~np.isfinite(rows).all(axis=1))
            if bad.any():
                sample = int(bad.argmax())
                what = f"NaN or infinite values in fp32{_others(bad)}"
                yield f"input {name!r}, sample {sample}: {what}"


def _others(wrong: Array) -> str:
    count = int(wrong.sum()) - 1
    return f" (and {count} more samples)" if count else ""
