"""The one training loop: teachers, baselines and every method run through it.

The loop holds ONE trainable module, the student and the method's helpers. Only that is optimised,
clipped, wrapped and checkpointed. The teacher stands outside.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from lightning_fabric import Fabric
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy

from ..contracts import Batch, Moment
from ..errors import TrainingError
from ..models.build import call_model, keeping_modes
from . import checkpoint
from .optim import make_optimizer, make_schedule
from .study import LoopStudy
from .taps import Tapped
from .teachers import Teachers
from .tensors import contiguous, needs_contiguous, to_channels_last, to_contiguous
from .views import Views, epoch_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from ..contracts import Figure, Method, Tap
    from .signals import TeacherSource
    from .tensors import SplitTensors
    from .views import View

    Answer: TypeAlias = tuple[Tensor, dict[Tap, Tensor]]

EVALUATION_BATCH = 256
CHECK_EVERY = 25  # steps between looks at the loss, which cost a synchronisation on a GPU
BEFORE = 999_983  # stands for an epoch before the first
AHEAD = 32  # steps that teachers are told ahead, so that they can compute in large batches


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long and how fast; see the config for the meaning of each."""

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    warmup: float
    seed: int
    shift: int = 0
    flip: bool = False
    devices: str = "auto"
    precision: str = "32-true"
    replays: int = 0
    rehearsal: bool = False


@dataclass(slots=True)
class FitResult:
    """What a training leaves.

    Attributes:
        student: the bare student with the weights of the best epoch, on the CPU, in eval mode.
        history: one record per epoch: loss by parts, validation accuracy and loss, seconds.
        best: index of the record with the best validation accuracy (then lowest loss).
        figures: the method's diagnostics.
    """

    student: nn.Module
    history: list[dict[str, Any]]
    best: int
    figures: tuple[Figure, ...] = ()


class Trainable(nn.Module):
    """Student and helpers: all that is optimised.

    Args:
        student: gives logits `(N, C)`; or what a method put in its place.
        taps: features of it that the method wants.
    """

    def __init__(self, student: nn.Module, taps: Sequence[Tap] = ()) -> None:
        super().__init__()
        self.student = student
        self.helpers: nn.Module | None = None
        self.tapped = Tapped(student, taps, "student")
        self.contiguous = False

    def lay_out(self, example: Mapping[str, Tensor]) -> None:
        """Channels-last, which is faster, unless the student's own code cannot take it.

        Args:
            example: inputs of a few samples, where the student is.
        """
        to_channels_last(self)
        try:
            with torch.no_grad(), keeping_modes(self):
                self.eval()(example)
        except RuntimeError as error:
            if not needs_contiguous(error):
                raise
            to_contiguous(self)
            self.contiguous = True

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor | Answer:
        """Logits, and in training the features with them."""
        if self.contiguous:
            inputs = {name: contiguous(value) for name, value in inputs.items()}
        return self.tapped(inputs) if self.training else call_model(self.student, inputs)


@dataclass(slots=True)
class Progress:
    """Where the training stands; this and the weights are what a checkpoint holds."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class Loop:
    """Trains a student by a method.

    Args:
        method: gives the loss, and the helpers that are trained with the student.
        student: any module that maps the inputs to logits `(N, C)`.
        source: of the teachers, which tell their signals of the very views that the student sees;
            None when the method needs none.
        train: what is learned from.
        validation: what selects the best epoch.
        settings: how long and how fast.
        scratch: where the checkpoint of each epoch lies; a killed training resumes from it and
            ends bit-identical to an uninterrupted one on the same machine.
        progress: called after every step with steps done, steps in all, and a note.
        on_epoch: called after every epoch with its number, from 1, and the bare student; again
            for the same epoch, if the process was killed before its checkpoint was written.
    """

    def __init__(
        self,
        method: Method,
        student: nn.Module,
        source: TeacherSource | None,
        train: SplitTensors,
        validation: SplitTensors,
        settings: LoopSettings,
        scratch: Path,
        progress: Callable[[int, int, str], None],
        on_epoch: Callable[[int, nn.Module], None] = lambda epoch, student: None,
    ) -> None:
        self.method, self.settings, self.source = method, settings, source
        self.train, self.validation = train, validation
        self.scratch, self.report, self.on_epoch = scratch, progress, on_epoch
        self.fabric = Fabric(
            accelerator=settings.devices,
            devices=1,
            precision=settings.precision,  # type: ignore[arg-type]
        )
        self.views = self.views_of(train)
        self.state = Progress()
        device, needs = self.fabric.device, method.needs
        torch.manual_seed(epoch_seed(settings.seed, BEFORE))  # of the helpers' first weights
        self.teachers = Teachers(source, needs, self.views, device) if source else None
        # Moved before it is tapped: a traced graph keeps the buffers that it found.
        network = method.adopt(student).to(device)
        self.trainable = Trainable(network, needs.student_taps)
        self.study = LoopStudy(self)
        self.trainable.helpers = method.helpers(self.study)
        self.trainable.lay_out(self._example())
        self.steps = settings.epochs * len(self.views)
        self.optimizer = make_optimizer(self.trainable.parameters(), settings)
        self.schedule = make_schedule(self.optimizer, settings, self.steps)
        self.module, self.fabric_optimizer = self.fabric.setup(self.trainable, self.optimizer)

    def _example(self) -> dict[str, Tensor]:
        """Two samples as they are trained on."""
        (index, code), *_ = self.views.steps(0)
        inputs = self.views.inputs(index[:2], code[:2])
        return {name: value.to(self.fabric.device) for name, value in inputs.items()}

    def views_of(self, split: SplitTensors, replays: int | None = None) -> Views:
        """A split as this training augments it; `replays: 0` draws from all views."""
        own = self.settings
        shown = own.replays if replays is None else replays
        return Views(split, own.batch_size, own.shift, own.flip, own.seed, shown)

    def fit(self) -> FitResult:
        """Train to the end, from the last checkpoint if there is one.

        Raises:
            TrainingError: the loss is not finite; names epoch and step.
        """
        checkpoint.restore(self.scratch, self)
        while self.state.epoch < self.settings.epochs:
            record = self._train_epoch()
            record |= self._validate()
            if self.teachers is not None:
                self.teachers.flush()
            self._remember(record)
            self.on_epoch(self.state.epoch, self.trainable.student)
            checkpoint.save(self.scratch, self)
        network = self.trainable.student
        network.load_state_dict(self.state.best_weights)
        figures = tuple(self.method.figures(self.study, self.trainable.helpers))
        student = self.method.finish(network).cpu().eval()
        return FitResult(student, self.state.history, self.state.best, figures)

    def _train_epoch(self) -> dict[str, Any]:
        """One pass over the training split: mean loss by parts, and seconds."""
        start, epoch = time.perf_counter(), self.state.epoch
        torch.manual_seed(epoch_seed(self.settings.seed, epoch))  # dropout: same after a resume
        told = dict(self.method.begin_epoch(self.study, self.trainable.helpers))
        self.module.train()  # validation, or anyone else, may have left it in eval mode
        steps: list[dict[str, Tensor]] = []
        for step, (who, view) in enumerate(self._lessons(epoch), start=1):
            steps.append(self._step(who, view, epoch * len(self.views) + step - 1))
            if step % CHECK_EVERY == 0 or step == len(self.views):
                first = (step - 1) // CHECK_EVERY * CHECK_EVERY  # the others were looked at
                self._check_finite(steps[first:], first + 1)
            self._tell(step)
        loss = _mean_parts(steps)
        record = {"epoch": epoch + 1, "loss": loss, "seconds": time.perf_counter() - start}
        return {**record, **({"method": told} if told else {})}

    def _lessons(self, epoch: int) -> Iterator[tuple[int | None, View]]:
        """Who teaches what at each step of an epoch; teachers are told some steps ahead."""
        steps, history = self.views.steps(epoch), self.state.history
        for start in range(0, len(steps), AHEAD):
            planned = []
            for step, (index, code) in enumerate(steps[start : start + AHEAD], start=start):
                moment = Moment(epoch, self.settings.epochs, step, len(steps), history)
                planned.append((self.method.checkpoint(moment), index, code))
            if self.teachers is not None and self._asks_teacher:
                self.teachers.expect(planned)
            for who, index, code in planned:
                yield who, self.views.view(index, code)

    @property
    def _asks_teacher(self) -> bool:
        return self.method.needs.teacher or bool(self.method.needs.teacher_taps)

    def _step(self, who: int | None, view: View, step: int) -> dict[str, Tensor]:
        inputs, targets = self.fabric.to_device((view.inputs, view.targets))
        asked = self.teachers if self._asks_teacher else None
        teacher = asked.signals(who, view, inputs) if asked is not None else None
        logits, features = self.module(inputs)
        helpers = self.trainable.helpers
        batch = Batch(
            student=logits,
            teacher=teacher.logits if teacher and self.method.needs.teacher else None,
            targets=targets,
            epoch=self.state.epoch,
            progress=step / self.steps,
            index=view.index.to(targets.device),
            student_features=features,
            teacher_features=teacher.features if teacher else {},
        )
        parts = self.method.loss(self.method.adapt(batch, helpers), helpers)
        self.fabric_optimizer.zero_grad()
        self.fabric.backward(torch.stack(list(parts.values())).sum())
        self.fabric_optimizer.step()
        self.schedule.step()
        return {name: value.detach() for name, value in parts.items()}

    def _check_finite(self, steps: list[dict[str, Tensor]], first: int) -> None:
        for number, parts in enumerate(steps, start=first):
            for name, value in parts.items():
                if not torch.isfinite(value):
                    raise self._diverged(name, float(value), number)

    def _diverged(self, name: str, value: float, step: int) -> TrainingError:
        epoch = self.state.epoch
        kept = f"the checkpoint after epoch {epoch} is kept" if epoch else "no epoch was finished"
        return TrainingError(
            f"the loss {name!r} is {value} in epoch {epoch + 1}, step {step}"
            f" of {len(self.views)}; {kept}",
            "lower the learning rate (lr), or look for extreme values in the data",
        )

    def _tell(self, step: int) -> None:
        state, settings = self.state, self.settings
        accuracy = f", val {state.history[-1]['validation_accuracy']:.1%}" if state.history else ""
        note = f"epoch {state.epoch + 1}/{settings.epochs}{accuracy}"
        self.report(state.epoch * len(self.views) + step, self.steps, note)

    def _validate(self) -> dict[str, float]:
        """Accuracy and cross-entropy on the validation split; leaves the student in eval mode.

        Raises:
            TrainingError: the cross-entropy is not finite: the last step broke the weights.
        """
        logits = predict(self.module, self.validation, self.fabric.device)
        targets = self.validation.targets
        classes = logits.shape[1]
        accuracy = multiclass_accuracy(logits, targets, num_classes=classes, average="micro")
        loss = float(nn.functional.cross_entropy(logits, targets))
        if not math.isfinite(loss):
            raise self._diverged("validation", loss, len(self.views))
        return {"validation_accuracy": float(accuracy), "validation_loss": loss}

    def _remember(self, record: dict[str, Any]) -> None:
        state = self.state
        state.history.append(record)
        best = state.history[state.best]
        if not state.best_weights or _rank(record) > _rank(best):
            state.best = len(state.history) - 1
            state.best_weights = copy.deepcopy(self.trainable.student.state_dict())
        state.epoch += 1


def _mean_parts(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean over the steps of an epoch; a part that a step lacks is zero there."""
    names = dict.fromkeys(name for parts in steps for name in parts)
    sums = {name: torch.stack([s[name] for s in steps if name in s]).sum() for name in names}
    means = {name: float(value) / len(steps) for name, value in sums.items()}
    return {**means, "total": sum(means.values())}


def _rank(record: Mapping[str, Any]) -> tuple[float, float]:
    return record["validation_accuracy"], -record["validation_loss"]


def predict(model: nn.Module, split: SplitTensors, device: torch.device) -> Tensor:
    """Logits `(N, C)` of a whole split, fp32, on the CPU; leaves the model in eval mode.

    Args:
        model: takes the dict of inputs (a `Trainable`), or is called by `call_model`.
        split: the samples.
        device: where the model is.
    """
    model.eval()
    logits = []
    with torch.no_grad():
        for inputs, _ in split.batches(EVALUATION_BATCH):
            logits.append(model({k: v.to(device) for k, v in inputs.items()}).float().cpu())
    return torch.cat(logits)
