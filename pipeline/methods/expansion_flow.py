"""What is known of a tensor on its way through a network, and which steps leave it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import nn


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of a tensor.

    Attributes:
        axis: the axis that is replicated, -1 for the last one of an unknown rank; None where both
            networks see the same tensor.
        rank: number of axes, with the batch; None where it is unknown.
    """

    axis: int | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """A number or a shape that was read from a tensor.

    Attributes:
        batch: it is the size of the batch.
        replicated: it is the shape of a tensor that is replicated.
    """

    batch: bool = False
    replicated: bool = False


Fact: TypeAlias = Flow | Size

SAME = Flow()
CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
POOLS = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.Upsample,
)  # fmt: skip
ELEMENTWISE = {
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish",
    "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus", "clamp", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "contiguous", "clone",
}  # fmt: skip
ARITHMETIC = {"add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "div"}
POOLING = {
    f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)
}
