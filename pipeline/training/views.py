"""Seeded, batched augmentation. A view is made once per batch; teacher and student both see it.

Every augmentation here has finitely many views, and each has a number: a view is made again, pixel
for pixel, from the row of its sample and that number. The order and the views of an epoch depend on
the seed and the number of the epoch alone, so that a resumed training sees what an uninterrupted
one sees. Nothing is copied: images are gathered from wherever they lie, such as a mapped file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from .tensors import SplitTensors

    Steps: TypeAlias = list[tuple[Tensor, Tensor]]

_REPLAY_SEED = 20_111  # of the views that are drawn once for all, whatever the seed of a training


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch of a run."""
    return seed * 1_000_003 + epoch


@dataclass(frozen=True, slots=True)
class View:
    """A batch as both models see it.

    Attributes:
        index: row of each sample in the split `(N,)`.
        code: number of each sample's view `(N,)`, from 0 to `Views.count - 1`.
        inputs: name -> `(N, ...)`.
        targets: labels `(N,)`.
    """

    index: Tensor
    code: Tensor
    inputs: dict[str, Tensor]
    targets: Tensor


class Views:
    """Batches of one split, epoch by epoch.

    Args:
        split: the samples; augmented inputs must be images `(N, C, H, W)`.
        batch_size: samples per batch; a last batch of one sample is left out (batch norm).
        shift: every image moves by up to this many pixels in both directions; its edge is repeated
            (a zero would be no background once inputs are normalised).
        flip: every image is mirrored left-right with probability one half.
        seed: of the order and the views.
        replays: views per sample that are drawn once, for every seed the same, and shown in turn,
            one per epoch; 0 draws from all views.

    Attributes:
        count: how many views a sample has.

    Raises:
        DataError: augmentation is asked for, and an input is no batch of images.
    """

    def __init__(
        self,
        split: SplitTensors,
        batch_size: int,
        shift: int,
        flip: bool,
        seed: int,
        replays: int = 0,
    ) -> None:
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.shift, self.flip, self.replays = shift, flip, replays
        self._check()
        self._all = (2 * shift + 1) ** 2 * (1 + flip)
        self.count = min(replays, self._all) if replays else self._all

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 1 or full == 0)

    def steps(self, epoch: int) -> Steps:
        """What each step of an epoch shows: rows `(N,)`, and the number of each one's view."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        order = torch.randperm(len(self.split), generator=generator)
        code = self.draw(epoch, generator)
        batches = torch.split(order, self.batch_size)[: len(self)]
        return [(index, code[index]) for index in batches]

    def draw(self, epoch: int, generator: torch.Generator) -> Tensor:
        """A view's number for every sample of the split `(N,)`."""
        total = len(self.split)
        if self.replays:
            return torch.full((total,), epoch % self.count)
        side = 2 * self.shift + 1
        offsets = torch.randint(0, side, (total, 2), generator=generator)
        mirrored = torch.randint(0, 2, (total,), generator=generator)
        code = offsets[:, 0] * side + offsets[:, 1]
        return code * 2 + mirrored if self.flip else code

    def epoch(self, epoch: int) -> Iterator[View]:
        """The batches of an epoch."""
        for index, code in self.steps(epoch):
            yield self.view(index, code)

    def view(self, index: Tensor, code: Tensor) -> View:
        """The views of some samples: rows `(N,)` and a view's number for each."""
        return View(index, code, self.inputs(index, code), self.split.targets[index])

    def inputs(self, index: Tensor, code: Tensor) -> dict[str, Tensor]:
        """Inputs alone, by name `(N, ...)`; images lie channels-last in memory."""
        if self._all == 1:
            return {name: value[index] for name, value in self.split.inputs.items()}
        drawn = self._drawn(index, code) if self.replays else code
        return {
            name: self._gather(image, index, drawn) for name, image in self.split.inputs.items()
        }

    def _drawn(self, index: Tensor, slot: Tensor) -> Tensor:
        """Which of all views the numbered replays are `(N,)`: a hash, so that none is stored."""
        mixed = (index * 2_654_435_761 + slot * 40_503 + _REPLAY_SEED) % 4_294_967_291
        return (mixed * 48_271 % 2_147_483_647) % self._all

    def _check(self) -> None:
        for name, value in self.split.inputs.items() if self.shift or self.flip else ():
            if value.ndim != 4:
                raise DataError(
                    f"input {name!r} has shape {tuple(value.shape)}: expected images (N, C, H, W)"
                    " to augment",
                    "remove data.augment, or bring images",
                )

    def _gather(self, images: Tensor, index: Tensor, code: Tensor) -> Tensor:
        """One gather from `(N, C, H, W)`; rows and columns beyond the edge repeat it."""
        height, width = images.shape[2:]
        code, mirrored = (code // 2, code % 2 == 1) if self.flip else (code, None)
        side = 2 * self.shift + 1
        rows = torch.arange(height) + (code // side - self.shift)[:, None]
        columns = torch.arange(width).expand(len(index), width)
        if mirrored is not None:
            columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
        columns = columns + (code % side - self.shift)[:, None]
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        view = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return view.permute(0, 3, 1, 2)
