"""What a method may look at outside the step; see `contracts.Study`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from ..errors import TrainingError
from ..models.build import keeping_modes
from .taps import shapes
from .views import epoch_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import CurvePoint, Tap
    from .loop import Loop
    from .signals import LiveTeacher, Signals
    from .teachers import Teachers
    from .tensors import SplitTensors

_BATCH = 256
_PASSES_SEED = 7_919  # apart from the views that are trained on


class LoopStudy:
    """A `contracts.Study` of a loop: reads its models and its splits.

    Args:
        loop: whose student, teachers and splits.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._splits = {"train": loop.train, "validation": loop.validation}
        self._logits: dict[str, Tensor] = {}
        self._features: dict[str, dict[Tap, Tensor]] = {}

    @property
    def network(self) -> nn.Module:
        return self._loop.trainable.student

    @property
    def curve(self) -> Sequence[CurvePoint]:
        return self._loop.source.curve if self._loop.source else ()

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        return self._loop.state.history

    @property
    def seed(self) -> int:
        return self._loop.settings.seed

    @property
    def rehearsal(self) -> bool:
        return self._loop.settings.rehearsal

    def targets(self, split: str) -> Tensor:
        return self._splits[split].targets

    def samples(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        train = self._splits["train"]
        return {name: value[index] for name, value in train.inputs.items()}, train.targets[index]

    def student_logits(self, split: str) -> Tensor:
        return self._student(self._splits[split])

    def student_passes(self, split: str, count: int) -> Tensor:
        seed = epoch_seed(self.seed + _PASSES_SEED, len(self.history))
        generator = torch.Generator().manual_seed(seed)
        views = self._loop.views_of(self._splits[split], replays=0)
        everything = torch.arange(len(views.split))
        passes = []
        for _ in range(count):
            code = views.draw(0, generator)
            batches = zip(torch.split(everything, _BATCH), torch.split(code, _BATCH), strict=True)
            logits = [self._answer(views.inputs(rows, codes)) for rows, codes in batches]
            passes.append(torch.cat(logits))
        return torch.stack(passes)

    def teacher_logits(self, split: str) -> Tensor:
        if split not in self._logits:  # without the features, which may be large
            parts = [part.logits for part in self._teacher(split)]
            self._logits[split] = torch.cat(parts)
        return self._logits[split]

    def teacher_features(self, split: str, tap: Tap) -> Tensor:
        if split not in self._features:
            parts = [part.features for part in self._teacher(split)]
            self._features[split] = {t: torch.cat([p[t] for p in parts]) for t in parts[0]}
        return self._features[split][tap]

    def student_shape(self, tap: Tap) -> tuple[int, ...]:
        inputs, _ = self.samples(torch.arange(2) % len(self._splits["train"]))
        placed = {name: value.to(self._loop.fabric.device) for name, value in inputs.items()}
        return shapes(self._loop.trainable.tapped, placed)[tap]

    def teacher_shape(self, tap: Tap) -> tuple[int, ...]:
        return self._teachers().shape(tap)

    def layer(self, role: Literal["student", "teacher"], tap: Tap) -> str:
        tapped = self._loop.trainable.tapped if role == "student" else self._live().tapped
        return tapped.layers[tap]

    def _student(self, split: SplitTensors) -> Tensor:
        return torch.cat([self._answer(inputs) for inputs, _ in split.batches(_BATCH)])

    def _answer(self, inputs: dict[str, Tensor]) -> Tensor:
        """The student's logits, in eval mode."""
        trainable, device = self._loop.trainable, self._loop.fabric.device
        with torch.no_grad(), keeping_modes(trainable):
            placed = {name: value.to(device) for name, value in inputs.items()}
            logits: Tensor = trainable.eval()(placed)
        return logits.float().cpu()

    def _teacher(self, split: str) -> Iterator[Signals]:
        """What the final teacher says of a split, batch by batch, on the CPU."""
        live, cpu = self._live(), torch.device("cpu")
        return (live.compute(x).to(cpu) for x, _ in self._splits[split].batches(_BATCH))

    def _live(self) -> LiveTeacher:
        return self._teachers().live()

    def _teachers(self) -> Teachers:
        if self._loop.teachers is None:
            raise TrainingError("the method asks for a teacher, and `needs` does not say so")
        return self._loop.teachers
