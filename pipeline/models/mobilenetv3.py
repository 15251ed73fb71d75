"""A small MobileNetV3 (Howard et al., Searching for MobileNetV3, 2019).

Inverted residuals that weigh their channels by squeeze-and-excitation; ReLU in the fine stages,
hardswish in the coarse ones. Departures from the paper: three stages, for inputs of up to about
100 pixels; the layers after the last pooling are one linear layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import conv_norm, image_channels, pooled_head
from .staged import Staged

_SQUEEZE = 4  # channels per unit of the excitation


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a gate in [0, 1] that all channels decide on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(4, channels // _SQUEEZE)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` -> the same shape."""
        gate: Tensor = self.gate(x)
        return x * gate


class InvertedResidual(nn.Module):
    """Expand, filter each channel, weigh the channels, project back; a shortcut where it fits."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        activation: type[nn.Module],
        excite: bool,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*conv_norm(inputs, hidden, kernel=1), activation()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *conv_norm(hidden, hidden, stride=stride, groups=hidden),
            activation(),
            *([SqueezeExcite(hidden)] if excite else []),
            *conv_norm(hidden, outputs, kernel=1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` -> `(N, outputs, H', W')`."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def build(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    width: int,
    expansion: int,
    stem_stride: int,
) -> Staged:
    """A MobileNetV3 of five inverted residuals; see `MobileNetV3Options`.

    Raises:
        ModelError: the input is not an image `(C, H, W)`.
    """
    channels = image_channels("mobilenetv3", input_shape)
    stem = conv_norm(channels, width, stride=stem_stride)
    last = conv_norm(4 * width, 8 * width, kernel=1)
    return Staged(
        {
            "stem": nn.Sequential(*stem, nn.Hardswish()),
            "stage1": nn.Sequential(
                InvertedResidual(width, width, 1, 1, nn.ReLU, excite=True),
            ),
            "stage2": _stage(width, 2 * width, expansion, nn.ReLU, excite=False),
            "stage3": _stage(2 * width, 4 * width, expansion, nn.Hardswish, excite=True),
            "last": nn.Sequential(*last, nn.Hardswish()),
            "head": pooled_head(8 * width, num_classes),
        }
    )


def _stage(
    inputs: int, outputs: int, expansion: int, activation: type[nn.Module], excite: bool
) -> nn.Sequential:
    return nn.Sequential(
        InvertedResidual(inputs, outputs, 2, expansion, activation, excite),
        InvertedResidual(outputs, outputs, 1, expansion, activation, excite),
    )
