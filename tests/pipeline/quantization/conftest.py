"""Networks whose batch norms have seen data, as after a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from kit import _one_thread, _seeded, kit  # noqa: F401
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def settled(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Statistics, gains and shifts that are far from those of a new network; in eval mode."""
    for module in model.modules():
        if isinstance(module, NORMS) and module.affine:
            nn.init.uniform_(module.weight, 0.3, 2.0)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for _ in range(30):
            model.train()(1.5 * x + 0.3)
    return model.eval()


def furthest(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Largest difference of logits, as a share of the largest logit."""
    return ((wanted - got).abs().max() / wanted.abs().max()).item()


@pytest.fixture
def settle() -> Callable[[nn.Module, torch.Tensor], nn.Module]:
    return settled


@pytest.fixture
def far() -> Callable[[torch.Tensor, torch.Tensor], float]:
    return furthest


@pytest.fixture
def built(kit) -> Callable[[str], nn.Module]:  # noqa: F811 - the fixture
    """A built-in network by name, settled."""

    def make(name: str) -> nn.Module:
        options = {"transformer": {"width": 8, "heads": 2, "depth": 1}}.get(name, {"width": 8})
        return settled(kit.model(name, **options), torch.randn(16, *kit.shape))

    return make
