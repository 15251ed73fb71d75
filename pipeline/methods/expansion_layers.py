"""What grows: the weight of a layer, by replicated rows and columns, and by branches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Growth:
    """How the weight of one layer grows.

    Attributes:
        inputs: its columns (axis 1) are replicated and divided by the ratio.
        outputs: its rows (axis 0), and its bias, are replicated.
    """

    inputs: bool
    outputs: bool

    def grow(self, weight: Tensor, ratio: int) -> Tensor:
        """A weight `(out, in, ...)` or `(out,)` with replicated rows and columns."""
        if self.outputs:
            weight = torch.cat([weight] * ratio)
        return torch.cat([weight] * ratio, dim=1) / ratio if self.inputs else weight

    def read(self, grown: Tensor, shape: Sequence[int], ratio: int) -> Tensor:
        """The weight of this shape that was grown; exact where the ratio is a power of two."""
        rows = grown[: shape[0]]
        return rows[:, : shape[1]] * ratio if self.inputs else rows


class Branches(nn.Module):
    """Further branches of a convolution, merged into its kernel at every use.

    In this order: a 1x1 convolution (embedded in the middle of the kernel), a 1x1 convolution
    followed by a mean over the window, a second convolution of the same size. Each branch is scaled
    per output channel, from 0 on: it changes nothing until it has learned to.

    Args:
        weight: kernel of the convolution `(out, in, k, ...)`.
        count: branches in all, the convolution itself included, from 2 to 4.
        random: draws the kernels.
    """

    def __init__(self, weight: Tensor, count: int, random: torch.Generator) -> None:
        super().__init__()
        point = (*weight.shape[:2], *(1 for _ in weight.shape[2:]))
        shapes = (point, point, tuple(weight.shape))[: count - 1]
        self.kernels = nn.ParameterList(_draw(shape, random).to(weight) for shape in shapes)
        self.scales = nn.Parameter(weight.new_zeros(count - 1, len(weight)))

    def forward(self, weight: Tensor) -> Tensor:
        """The merged kernel `(out, in, k, ...)`."""
        embeddings = (_centred, _averaged, _as_it_is)
        column = (-1, *(1 for _ in weight.shape[1:]))
        for kernel, scale, embed in zip(self.kernels, self.scales, embeddings, strict=False):
            weight = weight + scale.view(column) * embed(kernel, weight.shape[2:])
        return weight


def _draw(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """As torch initialises a convolution."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=random)


def _centred(kernel: Tensor, window: Sequence[int]) -> Tensor:
    sides = [((size - 1) // 2, size // 2) for size in reversed(window)]
    return F.pad(kernel, [side for pair in sides for side in pair])


def _averaged(kernel: Tensor, window: Sequence[int]) -> Tensor:
    return kernel.expand(*kernel.shape[:2], *window) / math.prod(window)


def _as_it_is(kernel: Tensor, window: Sequence[int]) -> Tensor:
    return kernel
