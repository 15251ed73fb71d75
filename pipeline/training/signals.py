"""What a teacher tells. It stands outside the loop: frozen, always in eval, never optimised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import ModelError
from ..models.build import call_model
from .tensors import to_channels_last

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
        self.model = to_channels_last(model).to(device).eval().requires_grad_(False)
        self.device = device

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.model.eval()
        with torch.no_grad():
            return call_model(self.model, inputs).float()


def check_apart(teacher: nn.Module, student: nn.Module) -> None:
    """See that no part of the teacher is a part of the student: what freezes one would freeze both.

    Raises:
        ModelError: they share a module, a parameter or a buffer.
    """
    own = {id(part) for _, part in _parts(student)}
    shared = [name or "the whole model" for name, part in _parts(teacher) if id(part) in own]
    if shared:
        raise ModelError(
            f"teacher and student share {shared[0]}: expected two separate models",
            "make new modules in every call of the function that builds the model",
        )


def _parts(model: nn.Module) -> Iterator[tuple[str, object]]:
    yield from model.named_modules()
    yield from model.named_parameters()
    yield from model.named_buffers()
