"""What a teacher tells. It stands outside the loop: frozen, always in eval, never optimised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import ModelError
from .taps import Tapped
from .tensors import contiguous, needs_contiguous, to_channels_last, to_contiguous

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import CurvePoint, Tap
    from .cache import CacheSettings
    from .views import Steps, View


@dataclass(frozen=True, slots=True)
class Signals:
    """What a teacher says of `N` samples; nobody can see whether it was stored.

    Attributes:
        logits: `(N, C)`, fp32, detached.
        features: by tap, `(N, ...)`, fp32, detached.
    """

    logits: Tensor
    features: dict[Tap, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Signals:
        return Signals(
            self.logits.to(device), {tap: value.to(device) for tap, value in self.features.items()}
        )


class Teacher(Protocol):
    """A source of signals; losses cannot tell where they come from."""

    def expect(self, steps: Steps) -> None:
        """Told ahead which views will be asked for, so that many can be computed at once."""

    def signals(self, view: View, inputs: Mapping[str, Tensor]) -> Signals:
        """Signals of a view, whose inputs are on the device already."""

    def flush(self) -> None:
        """Put what was stored safely on the disk: an epoch is over."""


class LiveTeacher:
    """A torch module that is asked for every batch.

    Args:
        model: frozen here for good; `eval()` is enforced at every call, whoever touched it since.
        device: where it computes.
        taps: features that are wanted beside the logits.
    """

    def __init__(self, model: nn.Module, device: torch.device, taps: Sequence[Tap] = ()) -> None:
        self.model = to_channels_last(model).to(device).eval().requires_grad_(False)
        self.device, self._contiguous = device, False
        self.tapped = Tapped(self.model, taps, "teacher")

    def compute(self, inputs: Mapping[str, Tensor]) -> Signals:
        """Signals of inputs, wherever they lie."""
        self.model.eval()
        placed = {name: value.to(self.device) for name, value in inputs.items()}
        if self._contiguous:
            placed = {name: contiguous(value) for name, value in placed.items()}
        try:
            with torch.no_grad():
                return Signals(*self.tapped(placed))
        except RuntimeError as error:
            if self._contiguous or not needs_contiguous(error):
                raise
        to_contiguous(self.model)
        self._contiguous = True
        return self.compute(inputs)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits `(N, C)` alone."""
        return self.compute(inputs).logits

    def expect(self, steps: Steps) -> None:
        """Nothing to do ahead."""

    def signals(self, view: View, inputs: Mapping[str, Tensor]) -> Signals:
        return self.compute(inputs)

    def flush(self) -> None:
        """Nothing is stored."""


def _no_key(checkpoint: int | None) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class TeacherSource:
    """Where the loop gets its teachers from.

    Attributes:
        load: gives the model as it was after an epoch of its training, or the final one for None.
        curve: the teacher's own training.
        key: what such a model and the data are, as a digest: stored signals are kept under it.
        cache: where and how signals are stored; None asks the model for every batch.
    """

    load: Callable[[int | None], nn.Module]
    curve: tuple[CurvePoint, ...] = ()
    key: Callable[[int | None], str] = _no_key
    cache: CacheSettings | None = None


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
