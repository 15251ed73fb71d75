"""Multi-layer perceptron for inputs of any shape."""

from __future__ import annotations

import math

from torch import nn

from ..errors import ModelError
from .staged import Staged


def build(
    num_classes: int, input_shape: tuple[int, ...], *, width: int, depth: int, dropout: float
) -> Staged:
    """`depth` hidden layers of `width` units with ReLU; see `MlpOptions`.

    Raises:
        ModelError: the input has no elements.
    """
    features = math.prod(input_shape)
    if features < 1:
        raise ModelError(f"mlp takes at least one feature; the input is {input_shape}")
    sizes = [features, *[width] * depth]
    blocks: dict[str, nn.Module] = {
        f"hidden{i}": nn.Sequential(
            nn.Flatten(), nn.Linear(sizes[i - 1], width), nn.ReLU(), nn.Dropout(dropout)
        )
        for i in range(1, depth + 1)
    }
    return Staged({**blocks, "head": nn.Linear(width, num_classes)})
