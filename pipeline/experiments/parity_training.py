"""Wide teachers and narrow students on streams of fresh samples, all seeds and arms at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts import Batch, CurvePoint, Moment
from .batched import BatchedMLP, BatchedSGD, accuracy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..contracts import Method
    from .parity import SparseParityTask

SOLVED = 0.99
ROWS_AT_ONCE = 2048  # of a wide teacher: its features then stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Setting:
    """What teachers and students have in common.

    Attributes:
        task: gives the samples.
        seeds: networks per arm, numbered from 0.
        lr: learning rate of plain SGD, constant.
        batch: samples per step.
        every: steps between evaluations; such a stretch is called an epoch here.
        test: inputs `(N, dimensions)` and labels `(N,)` of the evaluations.
        report: called with a note after every epoch.
    """

    task: SparseParityTask
    seeds: int
    lr: float
    batch: int
    every: int
    test: tuple[Tensor, Tensor]
    report: Callable[[str], None]

    def epoch(self, streams: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Inputs `(S, every, batch, dimensions)` and labels `(S, every, batch)`."""
        drawn = [self.task.draw(self.every * self.batch, random) for random in streams]
        shape = (self.seeds, self.every, self.batch)
        inputs = torch.stack([x for x, _ in drawn]).view(*shape, -1)
        return inputs, torch.stack([y for _, y in drawn]).view(shape)

    def streams(self, purpose: int) -> list[torch.Generator]:
        """A source of samples for each seed; teachers and students have different ones."""
        first = 10_000 * purpose
        return [torch.Generator().manual_seed(first + seed) for seed in range(self.seeds)]

    def networks(self, width: int, purpose: int, arms: int = 1) -> BatchedMLP:
        """Networks of every arm, arm by arm; the same seed starts from the same weights."""
        names = [1_000 * purpose + seed for _ in range(arms) for seed in range(self.seeds)]
        return BatchedMLP.initialised((self.task.dimensions, width, 2), names)


@dataclass(frozen=True, slots=True)
class Teachers:
    """Teachers of all seeds, as they were after every epoch.

    Attributes:
        snapshots: one per epoch.
        accuracies: on the test samples, `(epochs, S)`.
        losses: cross-entropy there, `(epochs, S)`.
    """

    snapshots: tuple[BatchedMLP, ...]
    accuracies: Tensor
    losses: Tensor

    def answer(self, seed: int, epoch: int | None, inputs: Tensor) -> Tensor:
        """Logits `(N, 2)` of one teacher after an epoch, counted from 1; None is after the last."""
        net = self.snapshots[-1 if epoch is None else epoch - 1].select([seed])
        with torch.no_grad():
            return torch.cat([net(rows)[0] for rows in torch.split(inputs, ROWS_AT_ONCE)])

    def curve(self, seed: int, kept_every: int = 1) -> list[CurvePoint]:
        """The training of one teacher, of which every so many epochs are kept."""
        pairs = zip(self.accuracies[:, seed].tolist(), self.losses[:, seed].tolist(), strict=True)
        return [CurvePoint(i, a, b, i % kept_every == 0) for i, (a, b) in enumerate(pairs, 1)]


def train_teachers(setting: Setting, width: int, epochs: int) -> Teachers:
    """Train one teacher per seed on the labels."""
    nets, streams = setting.networks(width, purpose=1), setting.streams(purpose=1)
    optimizer = BatchedSGD(nets.parameters, setting.lr)
    snapshots, accuracies, losses = [], [], []
    for epoch in range(epochs):
        inputs, labels = setting.epoch(streams)
        for step in range(setting.every):
            logits = nets(inputs[:, step]).flatten(0, 1)
            optimizer.step(F.cross_entropy(logits, labels[:, step].flatten()) * setting.seeds)
        snapshots.append(nets.copy())
        answers = snapshots[-1](setting.test[0])
        accuracies.append(accuracy(answers, setting.test[1]))
        losses.append(torch.stack([F.cross_entropy(one, setting.test[1]) for one in answers]))
        setting.report(f"teachers, epoch {epoch + 1}")
    return Teachers(tuple(snapshots), torch.stack(accuracies), torch.stack(losses))


@dataclass(frozen=True, slots=True)
class Lesson:
    """One arm of students.

    Attributes:
        name: of the arm.
        method: gives the loss.
        choose: for every seed, the epoch of the teacher that teaches a step; empty without teacher.
    """

    name: str
    method: Method
    choose: tuple[Callable[[Moment], int | None], ...] = ()


class Students:
    """Students of several arms and all seeds; an arm stops when all its students are done.

    Args:
        setting: of the experiment.
        width: hidden units of a student.
        lessons: the arms. All see the same samples, and start from the same weights.
        teachers: are asked for the samples that the students see.

    Attributes:
        curves: name of an arm -> accuracies on the test samples, one `(S,)` per epoch.
    """

    def __init__(
        self, setting: Setting, width: int, lessons: Sequence[Lesson], teachers: Teachers
    ) -> None:
        self.setting, self.lessons, self.teachers = setting, list(lessons), teachers
        self.nets = setting.networks(width, purpose=2, arms=len(lessons))
        self.curves: dict[str, list[Tensor]] = {lesson.name: [] for lesson in lessons}

    def train(self, epochs: int) -> None:
        """Train until all are done, and for so many epochs at most."""
        streams = self.setting.streams(purpose=2)
        for epoch in range(epochs):
            every = range(self.setting.every)
            moments = [Moment(epoch, epochs, step, len(every), ()) for step in every]
            self._epoch(moments, *self.setting.epoch(streams))
            self._evaluate()
            self.setting.report(f"students, epoch {epoch + 1}, {len(self.lessons)} arms")
            if not self.lessons:
                return

    def _epoch(self, moments: Sequence[Moment], inputs: Tensor, labels: Tensor) -> None:
        answers = [self._lessons_of(seed, moments, inputs[seed]) for seed in range(len(inputs))]
        teacher = torch.stack(answers, dim=1)
        optimizer = BatchedSGD(self.nets.parameters, self.setting.lr)
        for moment in moments:
            i = moment.step
            logits = self.nets(inputs[:, i].repeat(len(self.lessons), 1, 1))
            student = logits.view(*teacher.shape[:2], *logits.shape[1:])
            losses = [
                self._loss(lesson, moment, student[arm], teacher[arm, :, i], labels[:, i])
                for arm, lesson in enumerate(self.lessons)
            ]
            optimizer.step(torch.stack(losses).sum() * self.setting.seeds)

    def _loss(
        self, lesson: Lesson, moment: Moment, student: Tensor, teacher: Tensor, labels: Tensor
    ) -> Tensor:
        """Mean loss of the students of one arm, by its own method."""
        targets = labels.flatten()
        batch = Batch(
            student.flatten(0, 1), teacher.flatten(0, 1), targets, moment.epoch,
            (moment.epoch + moment.step / moment.steps) / moment.epochs, targets,
        )  # fmt: skip
        return torch.stack(list(lesson.method.loss(batch, None).values())).sum()

    def _lessons_of(self, seed: int, moments: Sequence[Moment], inputs: Tensor) -> Tensor:
        """What each arm's teacher says, `(A, steps, batch, 2)`; every teacher is asked once."""
        chosen = [[_choice(lesson, seed, moment) for moment in moments] for lesson in self.lessons]
        answers = torch.zeros(len(chosen), *inputs.shape[:2], 2)
        for epoch in {epoch for arm in chosen for epoch in arm} - {0}:
            wanted = torch.tensor([[mine == epoch for mine in arm] for arm in chosen])
            steps = wanted.any(0).nonzero().flatten()
            logits = self.teachers.answer(seed, epoch, inputs[steps].flatten(0, 1))
            for arm, rows in enumerate(wanted[:, steps]):
                answers[arm, steps[rows]] = logits.view(len(steps), -1, 2)[rows]
        return answers

    def _evaluate(self) -> None:
        inputs, labels = self.setting.test
        with torch.no_grad():
            reached = accuracy(self.nets(inputs), labels).view(len(self.lessons), -1)
        for lesson, accuracies in zip(self.lessons, reached, strict=True):
            self.curves[lesson.name].append(accuracies)
        left = [arm for arm, lesson in enumerate(self.lessons) if not self._done(lesson)]
        if len(left) < len(self.lessons):
            seeds = range(self.setting.seeds)
            self.nets = self.nets.select(
                [arm * len(seeds) + seed for arm in left for seed in seeds]
            )
            self.lessons = [self.lessons[arm] for arm in left]

    def _done(self, lesson: Lesson) -> bool:
        return bool((torch.stack(self.curves[lesson.name]).amax(0) >= SOLVED).all())


def _choice(lesson: Lesson, seed: int, moment: Moment) -> int | None:
    """Epoch of the teacher; 0 where there is none."""
    return lesson.choose[seed](moment) if lesson.choose else 0


def steps_to_solve(accuracies: Tensor, every: int) -> tuple[float, ...]:
    """Steps until the first evaluation of 99 %, for each seed; `inf` where it never came.

    Args:
        accuracies: `(epochs, S)`.
        every: steps per epoch.
    """
    solved = accuracies >= SOLVED
    first = solved.int().argmax(0)
    return tuple(
        float((int(epoch) + 1) * every) if bool(any_) else float("inf")
        for epoch, any_ in zip(first, solved.any(0), strict=True)
    )
