"""A small CNN on digits, trained by a method's own network and loss."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts import Batch
from ..methods.expansion_pair import DYNAMIC_TEACHER, Pair
from ..methods.gap_preserving import DYNAMIC
from .digits import CLASSES, load_digits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..contracts import Method

NOISE = 0.3  # added to the pixels, which have variance 1
CLIP = 5.0


class DigitNet(nn.Module):
    """3x3, depthwise 3x3 and 1x1 convolutions, a residual block, a linear layer.

    Args:
        width: channels of the first layer; later ones have twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, wide, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.residual = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)
        self.head = nn.Linear(wide, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, 1, 8, 8)` to logits `(N, 10)`."""
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(self.norm1(self.depthwise(x)))
        x = F.relu(self.norm2(self.pointwise(x)))
        x = F.relu(x + self.norm3(self.residual(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@dataclass(frozen=True, slots=True)
class Digits:
    """Images `(N, 1, 8, 8)` and labels `(N,)` of one draw."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @classmethod
    def drawn(cls, seed: int, training: int) -> Digits:
        """All 1,797 digits, some of them, drawn by the seed, for training."""
        images, labels = _all_digits()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        train, test = order[:training], order[training:]
        return cls(images[train], labels[train], images[test], labels[test])

    def accuracy(self, network: nn.Module) -> float:
        """Percent of the test digits that a network gets right, in eval mode."""
        with torch.no_grad():
            right = network.eval()(self.test_images).argmax(1) == self.test_labels
        return 100 * float(right.float().mean())


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained: SGD with momentum 0.9, cosine, noise on the pixels.

    Attributes:
        epochs: passes over the training digits.
        batch: digits per step; a shorter last batch is left out.
        lr: peak learning rate.
    """

    epochs: int
    batch: int
    lr: float

    def run(
        self,
        method: Method,
        network: nn.Module,
        digits: Digits,
        static: nn.Module | None,
        seed: int,
    ) -> None:
        """Train a network in place.

        Args:
            method: gives the loss.
            network: a plain one, or a pair with its dynamic teacher.
            digits: to learn from.
            static: a trained teacher in eval mode, for methods that need one.
            seed: of the order and the noise.
        """
        random, each = torch.Generator().manual_seed(seed), len(digits.labels) // self.batch
        optimizer = torch.optim.SGD(network.parameters(), self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * each)
        network.train()
        for step in range(self.epochs * each):
            if step % each == 0:
                order = torch.randperm(len(digits.labels), generator=random)
            index = order[step % each * self.batch :][: self.batch]
            batch = _batch(method, network, static, digits, index, random)
            optimizer.zero_grad()
            loss = torch.stack(list(method.loss(batch, None).values())).sum()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()


def _batch(
    method: Method,
    network: nn.Module,
    static: nn.Module | None,
    digits: Digits,
    index: Tensor,
    random: torch.Generator,
) -> Batch:
    """What a method's loss sees of some digits with noise on them."""
    clean = digits.images[index]
    x = clean + NOISE * torch.randn(clean.shape, generator=random)
    features: Mapping[Any, Tensor] = {}
    if isinstance(network, Pair):
        logits, found = network.forward_with_taps(x, [DYNAMIC_TEACHER])
        features = {DYNAMIC: found[DYNAMIC_TEACHER]}
    else:
        logits = network(x)
    teacher = None
    if method.needs.teacher and static is not None:
        with torch.no_grad():
            teacher = static(x)
    return Batch(logits, teacher, digits.labels[index], 0, 0.0, index, features)


@functools.cache
def _all_digits() -> tuple[Tensor, Tensor]:
    splits = load_digits().values()
    images = [image for split in splits for image in split.inputs.values()]
    return torch.cat(images), torch.cat([split.targets for split in splits])
