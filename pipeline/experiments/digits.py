"""The digits of scikit-learn as tensors, for experiments that hold all of them in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.load import load_data
from ..training.tensors import SplitTensors

CLASSES, PIXELS = 10, 64

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.dataset import Split
    from ..data.preprocessing import Preprocessing


def load_digits() -> dict[str, SplitTensors]:
    """Images `(N, 1, 8, 8)` and labels of the splits `train`, `validation` and `test`, by name.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    dataset = load_data({"source": "digits"}, Path())
    return {
        name: _tensors(split, dataset.preprocessing) for name, split in dataset.splits().items()
    }


def flat(split: SplitTensors) -> Tensor:
    """The images as rows of pixels, `(N, 64)`."""
    (images,) = split.inputs.values()
    return images.flatten(1)


def _tensors(split: Split, preprocessing: Preprocessing) -> SplitTensors:
    inputs = preprocessing.apply(split.inputs)
    return SplitTensors(
        {name: torch.from_numpy(value) for name, value in inputs.items()},
        torch.as_tensor(split.targets, dtype=torch.int64),
    )
