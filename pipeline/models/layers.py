"""What the built-in image networks have in common."""

from __future__ import annotations

from torch import nn

from ..errors import ModelError


def conv_norm(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias, same padding, and batch normalisation; to be unpacked."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs)]


def pooled_head(channels: int, num_classes: int) -> nn.Sequential:
    """Mean over the image, then a linear layer: `(N, channels, H, W)` -> `(N, num_classes)`."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def image_channels(family: str, input_shape: tuple[int, ...]) -> int:
    """Number of channels of an image shape `(C, H, W)`.

    Raises:
        ModelError: the shape is not that of an image.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        hint = "Say in `data` which axis is which (layout), or take a model such as mlp"
        raise ModelError(f"{family} takes images (C, H, W); the input is {input_shape}", hint)
    return input_shape[0]
