"""CIFAR-style residual networks (He et al., Deep Residual Learning, 2015).

Departure from the paper: a shortcut that changes shape is a 1x1 convolution (its option B), and
the stem may have stride 2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm, image_channels, pooled_head
from .staged import Staged


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `(N, inputs, H, W)` -> `(N, outputs, H', W')`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(inputs, outputs, stride=stride),
            nn.ReLU(),
            *conv_norm(outputs, outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(*conv_norm(inputs, outputs, kernel=1, stride=stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Body plus shortcut, then ReLU."""
        return F.relu(self.body(x) + self.shortcut(x))


def build8(
    num_classes: int, input_shape: tuple[int, ...], *, width: int, stem_stride: int
) -> Staged:
    """ResNet-8: one block a stage; see `ResNetOptions`.

    Raises:
        ModelError: the input is not an image `(C, H, W)`.
    """
    return _build("resnet8", num_classes, input_shape, 1, width, stem_stride)


def build20(
    num_classes: int, input_shape: tuple[int, ...], *, width: int, stem_stride: int
) -> Staged:
    """ResNet-20: three blocks a stage; see `ResNetOptions`.

    Raises:
        ModelError: the input is not an image `(C, H, W)`.
    """
    return _build("resnet20", num_classes, input_shape, 3, width, stem_stride)


def _build(
    family: str,
    num_classes: int,
    input_shape: tuple[int, ...],
    blocks: int,
    width: int,
    stem_stride: int,
) -> Staged:
    channels = image_channels(family, input_shape)
    return Staged(
        {
            "stem": nn.Sequential(*conv_norm(channels, width, stride=stem_stride), nn.ReLU()),
            "stage1": _stage(width, width, 1, blocks),
            "stage2": _stage(width, 2 * width, 2, blocks),
            "stage3": _stage(2 * width, 4 * width, 2, blocks),
            "head": pooled_head(4 * width, num_classes),
        }
    )


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    rest = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)
