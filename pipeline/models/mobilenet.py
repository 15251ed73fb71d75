"""A small MobileNetV2 (Sandler et al., Inverted Residuals and Linear Bottlenecks, 2018).

Departure from the paper: three stages instead of seven, for inputs of up to about 100 pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layers import conv_norm, image_channels, pooled_head
from .staged import Staged


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project back without activation; a shortcut where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*conv_norm(inputs, hidden, kernel=1), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *conv_norm(hidden, hidden, stride=stride, groups=hidden),
            nn.ReLU6(),
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
    """A MobileNetV2 of five inverted residuals; see `MobileNetV2Options`.

    Raises:
        ModelError: the input is not an image `(C, H, W)`.
    """
    channels = image_channels("mobilenetv2", input_shape)
    stem = conv_norm(channels, width, stride=stem_stride)
    last = conv_norm(4 * width, 8 * width, kernel=1)
    return Staged(
        {
            "stem": nn.Sequential(*stem, nn.ReLU6()),
            "stage1": nn.Sequential(InvertedResidual(width, width, 1, 1)),
            "stage2": _stage(width, 2 * width, expansion),
            "stage3": _stage(2 * width, 4 * width, expansion),
            "last": nn.Sequential(*last, nn.ReLU6()),
            "head": pooled_head(8 * width, num_classes),
        }
    )


def _stage(inputs: int, outputs: int, expansion: int) -> nn.Sequential:
    return nn.Sequential(
        InvertedResidual(inputs, outputs, 2, expansion),
        InvertedResidual(outputs, outputs, 1, expansion),
    )
