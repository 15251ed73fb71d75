"""Depthwise-separable CNN (Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, 2017).

Departure from the paper: the channels grow with depth (1, 2, 2, 4, 4 times `width`), which
suits images better than one width throughout.
"""

from __future__ import annotations

from torch import nn

from .layers import conv_norm, image_channels, pooled_head
from .staged import Staged


def build(
    num_classes: int, input_shape: tuple[int, ...], *, width: int, stem_stride: int
) -> Staged:
    """A DS-CNN of four separable blocks; see `DsCnnOptions`.

    Raises:
        ModelError: the input is not an image `(C, H, W)`.
    """
    channels = image_channels("dscnn", input_shape)
    return Staged(
        {
            "stem": nn.Sequential(*conv_norm(channels, width, stride=stem_stride), nn.ReLU()),
            "stage1": _separable(width, 2 * width, 1),
            "stage2": _separable(2 * width, 2 * width, 2),
            "stage3": _separable(2 * width, 4 * width, 1),
            "stage4": _separable(4 * width, 4 * width, 1),
            "head": pooled_head(4 * width, num_classes),
        }
    )


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(inputs, inputs, stride=stride, groups=inputs),
        nn.ReLU(),
        *conv_norm(inputs, outputs, kernel=1),
        nn.ReLU(),
    )
