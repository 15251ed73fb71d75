"""What a teacher tells. It stands outside the loop: frozen, always in eval mode, never optimised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from ..models.build import call_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class Teacher(Protocol):
    """A source of signals; losses cannot tell where they come from."""

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits `(N, C)` of a view, fp32, detached."""


class LiveTeacher:
    """A torch module that is asked for every batch.

    Args:
        model: frozen here for good; `eval()` is enforced at every call, whoever touched it since.
        device: where it computes.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = device

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.model.eval()
        with torch.no_grad():
            return call_model(self.model, inputs).float()
