"""A small pre-norm transformer encoder (Dosovitskiy et al., An Image is Worth 16x16 Words, 2020).

Departures from the paper: mean pooling instead of a class token, and sequences as well as
images. Attention is written out with plain linear layers on 4-D tensors, without masks and
without the nested-tensor fast path, because converters handle that everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .staged import Staged


class ImagePatches(nn.Module):
    """Square patches as tokens: `(N, C, H, W)` -> `(N, T, width)`."""

    def __init__(self, shape: tuple[int, ...], width: int, patch: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        tokens = (height // patch) * (breadth // patch)
        self.project = nn.Conv2d(channels, width, patch, patch)
        self.positions = _positions(tokens, width)

    def forward(self, x: Tensor) -> Tensor:
        """Project each patch and add its learned position."""
        patches: Tensor = self.project(x)
        return patches.flatten(2).transpose(1, 2) + self.positions


class SequencePatches(nn.Module):
    """Runs of time steps as tokens: `(N, L, F)` -> `(N, T, width)`."""

    def __init__(self, shape: tuple[int, ...], width: int, patch: int) -> None:
        super().__init__()
        length, features = shape
        self.shape = (length // patch, patch * features)
        self.project = nn.Linear(patch * features, width)
        self.positions = _positions(length // patch, width)

    def forward(self, x: Tensor) -> Tensor:
        """Project each run of steps and add its learned position."""
        tokens: Tensor = self.project(x.reshape(-1, *self.shape))
        return tokens + self.positions


class Attention(nn.Module):
    """Multi-head self-attention: `(N, T, width)` -> `(N, T, width)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Every token attends to every token."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return tokens


class EncoderBlock(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        hidden = width * expansion
        self.attention = nn.Sequential(
            nn.LayerNorm(width), Attention(width, heads), nn.Dropout(dropout)
        )
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, width)` -> `(N, T, width)`."""
        attended: Tensor = x + self.attention(x)
        fed: Tensor = self.feed_forward(attended)
        return attended + fed


class TokenHead(nn.Module):
    """Normalise, mean over the tokens, classify: `(N, T, width)` -> `(N, C)`."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classify(self.norm(x).mean(1))
        return logits


def build(
    num_classes: int,
    input_shape: tuple[int, ...],
    *,
    width: int,
    depth: int,
    heads: int,
    patch: int | None,
    expansion: int,
    dropout: float,
) -> Staged:
    """A transformer encoder; see `TransformerOptions`.

    Raises:
        ModelError: the input is neither an image nor a sequence, or `patch` does not divide it.
    """
    if width % heads:
        raise ModelError(f"transformer: width {width} is not a multiple of heads {heads}")
    blocks: dict[str, nn.Module] = {
        f"block{i}": EncoderBlock(width, heads, expansion, dropout) for i in range(1, depth + 1)
    }
    stem = _stem(input_shape, width, patch)
    return Staged({"stem": stem, **blocks, "head": TokenHead(width, num_classes)})


def _stem(shape: tuple[int, ...], width: int, patch: int | None) -> nn.Module:
    if len(shape) not in (2, 3) or min(shape) < 1:
        expected = "images (C, H, W) or sequences (T, F)"
        hint = "Say in `data` which axis is which (layout), or take a model such as mlp"
        raise ModelError(f"transformer takes {expected}; the input is {shape}", hint)
    image = len(shape) == 3
    side = patch or (4 if image else 1)
    cut = shape[1:] if image else shape[:1]
    if any(size % side for size in cut):
        hint = f"Choose a `patch` that divides {' and '.join(map(str, cut))}"
        raise ModelError(f"transformer: patch {side} does not divide the input {shape}", hint)
    return (ImagePatches if image else SequencePatches)(shape, width, side)


def _positions(tokens: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, width), std=0.02))
