"""Seeded, batched augmentation. A view is made once per batch; teacher and student both see it.

The order and the views of an epoch depend on the seed and the number of the epoch alone, so that a
resumed training sees what an uninterrupted one sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from .tensors import SplitTensors


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch of a run."""
    return seed * 1_000_003 + epoch


class Views:
    """Batches of one split, epoch by epoch.

    Args:
        split: the samples; augmented inputs must be images `(N, C, H, W)`.
        batch_size: samples per batch; a last batch of one sample is left out (batch norm).
        shift: every image moves by up to this many pixels in both directions; its edge is repeated
            (a zero would be no background once inputs are normalised).
        flip: every image is mirrored left-right with probability one half.
        seed: of the order and the views.

    Raises:
        DataError: augmentation is asked for, and an input is no batch of images.
    """

    def __init__(
        self, split: SplitTensors, batch_size: int, shift: int, flip: bool, seed: int
    ) -> None:
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.shift, self.flip = shift, flip
        self._images = self._prepare()

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 1 or full == 0)

    def epoch(self, epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """The batches of an epoch: inputs by name, and labels `(N,)`."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        total = len(self.split)
        order = torch.randperm(total, generator=generator)
        offsets = torch.randint(0, 2 * self.shift + 1, (total, 2), generator=generator)
        mirrored = torch.randint(0, 2, (total,), generator=generator).bool() & self.flip
        for step in range(len(self)):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._inputs(index, offsets[index], mirrored[index]), self.split.targets[index]

    def _prepare(self) -> dict[str, Tensor]:
        """Padded channels-last copies of the images, made once."""
        if not (self.shift or self.flip):
            return {}
        for name, value in self.split.inputs.items():
            if value.ndim != 4:
                raise DataError(
                    f"input {name!r} has shape {tuple(value.shape)}: expected images (N, C, H, W)"
                    " to augment",
                    "remove data.augment, or bring images",
                )
        pads = (self.shift,) * 4
        return {
            name: F.pad(value, pads, mode="replicate").permute(0, 2, 3, 1).contiguous()
            for name, value in self.split.inputs.items()
        }

    def _inputs(self, index: Tensor, offsets: Tensor, mirrored: Tensor) -> dict[str, Tensor]:
        if not self._images:
            return {name: value[index] for name, value in self.split.inputs.items()}
        return {
            name: _crop(image, index, offsets, mirrored, self.shift)
            for name, image in self._images.items()
        }


def _crop(padded: Tensor, index: Tensor, offsets: Tensor, mirrored: Tensor, shift: int) -> Tensor:
    """One gather: `(N, H + 2s, W + 2s, C)` -> `(B, C, H, W)` in channels-last memory."""
    height, width = padded.shape[1] - 2 * shift, padded.shape[2] - 2 * shift
    rows = offsets[:, :1] + torch.arange(height)
    columns = torch.arange(width).expand(len(index), width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + offsets[:, 1:]
    view = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return view.permute(0, 3, 1, 2)
