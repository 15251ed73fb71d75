"""Stratified splits that are the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .dataset import SPLITS, Dataset, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..contracts import Array
    from .preprocessing import Preprocessing


def stratified_split(
    targets: Array, shares: Sequence[float], seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Divide samples so that each part has every class in proportion.

    Args:
        targets: class numbers `(N,)`.
        shares: size of each part, relative to their sum; the first part gets at least one
            sample of every class.
        seed: decides which samples go where, and their order within a part.

    Returns:
        Sample numbers of each part, shuffled; together they are all samples, each once.

    Raises:
        DataError: a share is negative, or the first is zero.
    """
    if min(shares) < 0 or shares[0] <= 0:
        raise DataError(f"Shares {list(shares)} of the splits: expected positive numbers")
    # RandomState, not Generator: its stream is frozen for ever (NEP 19), and pinned here.
    random = np.random.RandomState(seed)
    cuts = np.cumsum(shares)[:-1] / np.sum(shares)
    parts: list[list[Any]] = [[] for _ in shares]
    for label in np.unique(targets):
        members = random.permutation(np.flatnonzero(targets == label))
        places = np.maximum(np.rint(cuts * len(members)).astype(np.int64), 1)
        for part, chunk in zip(parts, np.split(members, places), strict=True):
            part.append(chunk)
    return tuple(random.permutation(np.concatenate(part)) for part in parts)


def split_dataset(
    values: Array,
    targets: Array,
    shares: Sequence[float],
    seed: int,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
) -> Dataset:
    """A dataset of one input from samples `(N, ...)` and class numbers `(N,)`.

    Args:
        values: raw samples of the one input that `preprocessing` names.
        targets: class numbers.
        shares: of train, validation and test.
        seed: see `stratified_split`.
        labels: name of each class.
        preprocessing: from raw samples to the model's input.
    """
    (name,) = preprocessing.inputs
    parts = stratified_split(targets, shares, seed)
    splits = [Split({name: values[part]}, targets[part].astype(np.int64)) for part in parts]
    return Dataset(
        **dict(zip(SPLITS, splits, strict=True)), labels=labels, preprocessing=preprocessing
    )
