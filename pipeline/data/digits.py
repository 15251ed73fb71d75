"""1,797 real digits of 8x8 pixels, from scikit-learn."""

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

_SHARES = (0.60, 0.15, 0.25)
_SEED = 1797
_SCALING = Scaling(scale=1 / 16, mean=(0.305,), std=(0.376,))  # of all 1,797 images


class Digits:
    """Digits 8x8 with values from 0 to 16: about 60 % train, 15 % validation, 25 % test."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "1,797 digits, 8x8 (scikit-learn); offline, seconds per experiment"
    Options: ClassVar[type[BaseModel]] = NoOptions
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def missing(self) -> Missing | None:
        return find_missing("examples", "sklearn")

    def load(self, options: NoOptions, root: Path) -> Dataset:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.asarray(bunch.images).astype(np.uint8)
        labels = tuple(str(name) for name in bunch.target_names)
        preprocessing = describe_all({INPUT: images}, _SCALING)
        targets = np.asarray(bunch.target)
        return split_dataset(images, targets, _SHARES, _SEED, labels, preprocessing)

    def files(self, options: NoOptions, root: Path) -> tuple[Path, ...]:
        return ()
