"""Students of one teacher on digits, each taught by weights of its own: all as one tensor program.

Every tensor carries the seed as its first axis; the students of all arms and seeds are one group.
The losses and weights are those of the methods, called as the training loop calls them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..contracts import Batch, Method
from ..data.load import load_data
from ..methods.paced import Paced, gold_probability, pass_rate
from .batched import BatchedMLP, BatchedSGD, accuracy, cosine, shuffled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from ..data.dataset import Dataset

STUDENT, TEACHER = (64, 32, 10), (64, 256, 10)
BATCH, TEACHER_BATCH = 32, 50
TEACHER_LR = 2e-3
LR, MOMENTUM, CLIP = 0.05, 0.9, 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned in each of `S` seeds.

    Attributes:
        inputs: training digits `(S, N, 64)`.
        labels: as the teacher and, unless a lesson says otherwise, its student know them `(S, N)`.
        clean: as they should be `(S, N)`.
        test_inputs: `(M, 64)`.
        test_targets: `(M,)`.
    """

    inputs: Tensor
    labels: Tensor
    clean: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def test_accuracy(self, networks: BatchedMLP) -> Tensor:
        """Percent of test digits that each network gets right `(S,)`."""
        with torch.no_grad():
            return 100 * accuracy(networks(self.test_inputs), self.test_targets)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One way of teaching.

    Attributes:
        name: of the arm.
        method: gives weights and loss.
        rollouts: answers drawn from the student's softmax to tell its pass rate; 0 takes the
            probability of the label.
        by_mean: the weights of a batch are divided by their mean (a control).
        clean: labels are the clean ones, for the loss and for the pass rate (a control).
    """

    name: str
    method: Method
    rollouts: int = 0
    by_mean: bool = False
    clean: bool = False


def draw_task(seeds: int, items: int, flipped: float) -> Task:
    """Training digits of their own for every seed, a share of their labels made wrong."""
    dataset = load_data({"source": "digits"}, Path())
    inputs, targets = _tensors(dataset, "train")
    drawn = [
        _draw_seed(seed, targets, items, flipped, dataset.num_classes) for seed in range(seeds)
    ]
    rows, labels = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    return Task(inputs[rows], labels, targets[rows], *_tensors(dataset, "test"))


def fit_teachers(task: Task, epochs: int) -> BatchedMLP:
    """A teacher per seed, trained on its labels, right or wrong, until it knows them by heart."""
    seeds, items = task.labels.shape
    randoms = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    teachers = BatchedMLP.initialised(TEACHER, range(seeds))
    optimizer = torch.optim.Adam(teachers.parameters, TEACHER_LR)
    every = torch.arange(seeds)[:, None]
    for _ in range(epochs):
        for rows in torch.split(shuffled(items, randoms), TEACHER_BATCH, dim=1):
            loss = label_loss(teachers(task.inputs[every, rows]), task.labels[every, rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return teachers.copy()


def fit_on_known(task: Task, known: int, updates: int) -> BatchedMLP:
    """Students that were trained on the clean labels of the first `known` classes alone."""
    seeds = len(task.clean)
    students = BatchedMLP.initialised(STUDENT, range(seeds))
    optimizer = BatchedSGD(students.parameters, LR, MOMENTUM)
    randoms = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    every = torch.arange(seeds)[:, None]
    pools = [(labels < known).nonzero().squeeze(1) for labels in task.clean]
    for _ in range(updates):
        rows = torch.stack([_draw(pool, r) for pool, r in zip(pools, randoms, strict=True)])
        logits, labels = students(task.inputs[every, rows]), task.clean[every, rows]
        optimizer.step(label_loss(logits, labels))
    return students


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the networks of their mean cross-entropy, of `(S, n, C)` and `(S, n)`."""
    return len(logits) * F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class School:
    """Teaches all lessons to students that start alike, on the same batches.

    Args:
        task: what is learned.
        teacher: logits on the training digits `(S, N, C)`.
        lessons: the arms.
        students: one per seed, from which every arm starts.
    """

    def __init__(
        self, task: Task, teacher: Tensor, lessons: Sequence[Lesson], students: BatchedMLP
    ) -> None:
        self.task, self.teacher, self.lessons = task, teacher, lessons
        self.seeds, self.items = task.labels.shape
        self.students = students.select([*range(self.seeds)] * len(lessons))
        self.optimizer = BatchedSGD(self.students.parameters, LR, MOMENTUM, clip=CLIP)
        count = self.seeds * self.items
        self.kept = [
            Paced.unknown_rates(count) if isinstance(lesson.method, Paced) else None
            for lesson in lessons
        ]
        self.randoms = [torch.Generator().manual_seed(seed) for seed in range(self.seeds)]
        self.rollouts = [torch.Generator().manual_seed(~seed) for seed in range(self.seeds)]

    def teach(self, epochs: int, on_epoch: Callable[[int], None]) -> None:
        """Train all students; `on_epoch` is called before every epoch, from 0, and at the end."""
        for epoch in range(epochs):
            on_epoch(epoch)
            self._measure()
            batches = torch.split(shuffled(self.items, self.randoms), BATCH, dim=1)
            for step, rows in enumerate(batches):
                progress = (epoch + step / len(batches)) / epochs
                loss = self._loss(rows, epoch, progress)
                self.optimizer.step(
                    loss, cosine(epoch * len(batches) + step, epochs * len(batches))
                )
        on_epoch(epochs)

    def arm(self, name: str) -> BatchedMLP:
        """The students of a lesson, one per seed, frozen."""
        index = [lesson.name for lesson in self.lessons].index(name)
        nets = range(index * self.seeds, (index + 1) * self.seeds)
        return self.students.select(nets).copy()

    def _measure(self) -> None:
        """Pass rates of all students over all items, where the method does not keep them itself."""
        with torch.no_grad():
            logits = self._logits(self.task.inputs)
        for lesson, kept, answers in zip(self.lessons, self.kept, logits, strict=True):
            if kept is not None and lesson.method.options.estimator == "prob":
                labels = self._labels(lesson).flatten()
                kept.get_buffer("rates").copy_(self._rates(answers, labels, lesson.rollouts))

    def _rates(self, logits: Tensor, labels: Tensor, rollouts: int) -> Tensor:
        """Pass rates `(S * N,)` of logits `(S * N, C)`."""
        if not rollouts:
            return gold_probability(logits, labels)
        per_seed = logits.softmax(dim=1).view(self.seeds, self.items, -1)
        drawn = [
            torch.multinomial(chances, rollouts, replacement=True, generator=random)
            for chances, random in zip(per_seed, self.rollouts, strict=True)
        ]
        return pass_rate(torch.cat(drawn).t(), labels)

    def _loss(self, rows: Tensor, epoch: int, progress: float) -> Tensor:
        """Sum over all students of their losses on rows `(S, n)` of their training digits."""
        every = torch.arange(self.seeds)[:, None]
        index = (rows + every * self.items).flatten()
        teacher = self.teacher[every, rows].flatten(0, 1)
        losses = []
        for lesson, kept, student in zip(
            self.lessons, self.kept, self._logits(self.task.inputs[every, rows]), strict=True
        ):
            labels = self._labels(lesson)[every, rows].flatten()
            batch = Batch(student, teacher, labels, epoch, progress, index)
            losses.append(self._lesson_loss(lesson, batch, kept))
        return self.seeds * torch.stack(losses).sum()

    def _lesson_loss(self, lesson: Lesson, batch: Batch, kept: nn.Module | None) -> Tensor:
        """Mean over the seeds."""
        batch = lesson.method.adapt(batch, kept)
        if lesson.by_mean and batch.weights is not None:
            weights = batch.weights.view(self.seeds, -1)
            mean = weights.mean(dim=1, keepdim=True)
            batch = replace(batch, weights=(weights / mean).flatten())
        return torch.stack(list(lesson.method.loss(batch, kept).values())).sum()

    def _logits(self, inputs: Tensor) -> Tensor:
        """Logits `(arms, S * n, C)` of inputs `(S, n, 64)`."""
        logits = self.students(inputs.repeat(len(self.lessons), 1, 1))
        return logits.view(len(self.lessons), -1, logits.shape[-1])

    def _labels(self, lesson: Lesson) -> Tensor:
        return self.task.clean if lesson.clean else self.task.labels


def _tensors(dataset: Dataset, split: str) -> tuple[Tensor, Tensor]:
    """Inputs `(N, 64)` and labels `(N,)` of a split."""
    arrays = dataset.splits()[split]
    inputs = dataset.preprocessing.apply(arrays.inputs)
    images = torch.from_numpy(next(iter(inputs.values())))
    return images.flatten(1), torch.from_numpy(arrays.targets).long()


def _draw(pool: Tensor, random: torch.Generator) -> Tensor:
    """A batch of rows from a pool, with repetition `(BATCH,)`."""
    return pool[torch.randint(len(pool), (BATCH,), generator=random)]


def _draw_seed(
    seed: int, targets: Tensor, items: int, flipped: float, classes: int
) -> tuple[Tensor, Tensor]:
    """Rows `(items,)` of one seed, and their labels, of which a share is wrong."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(targets), generator=random)[:items]
    labels = targets[rows].clone()
    wrong = torch.randperm(items, generator=random)[: round(flipped * items)]
    moves = torch.randint(1, classes, (len(wrong),), generator=random)
    labels[wrong] = (labels[wrong] + moves) % classes
    return rows, labels
