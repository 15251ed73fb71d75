"""Teachers whose head is damaged while their features stay sound, and students taught by them.

Every tensor carries the seed as its first axis; the students of one arm are one group of networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from ..contracts import Batch
from ..methods.none import LabelsOnly
from .arms import group_loss
from .batched import BatchedMLP, BatchedSGD, accuracy, cosine, shuffled
from .digits import load_digits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ..contracts import Method, Study, Tap
    from ..methods.intermediate_probes import IntermediateProbes
    from ..methods.probing_teacher import ProbingTeacher

CLASSES, PIXELS = 10, 64
BATCH = 100
LR, MOMENTUM = 0.05, 0.9
_NOISE_SEED = 10_000


@dataclass(frozen=True, slots=True)
class Items:
    """Digits of `S` seeds.

    Attributes:
        inputs: `(S, N, 64)`.
        targets: `(S, N)`.
    """

    inputs: Tensor
    targets: Tensor

    def part(self, start: int, stop: int) -> Items:
        """Some consecutive items of every seed."""
        return Items(self.inputs[:, start:stop], self.targets[:, start:stop])


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned in each of `S` seeds; no item is in two of its parts.

    Attributes:
        teacher: what the teacher learns from.
        student: what the student and the probes learn from.
        validation: when probes stop, and which layer is chosen.
        test_inputs: `(M, 64)`, the test split of digits, for all seeds.
        test_targets: `(M,)`.
    """

    teacher: Items
    student: Items
    validation: Items
    test_inputs: Tensor
    test_targets: Tensor


@dataclass(frozen=True, slots=True)
class SeedStudy:
    """Of a `contracts.Study` what `IntermediateProbes` may look at; by split and by tap."""

    features: Mapping[str, Mapping[Tap, Tensor]]
    head: Mapping[str, Tensor]
    student: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    seed: int
    rehearsal: bool = False

    def targets(self, split: str) -> Tensor:
        return self.labels[split]

    def student_logits(self, split: str) -> Tensor:
        return self.student[split]

    def teacher_logits(self, split: str) -> Tensor:
        return self.head[split]

    def teacher_features(self, split: str, tap: Tap) -> Tensor:
        return self.features[split][tap]

    def layer(self, role: str, tap: Tap) -> str:
        return tap.layer


def draw_task(seeds: int, items: int, others: int, validation: int) -> Task:
    """Digits of their own for every seed.

    Args:
        seeds: S.
        items: that the student learns from.
        others: that the teacher learns from.
        validation: that probes are chosen on.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    splits = load_digits()
    inputs = {name: next(iter(s.inputs.values())).flatten(1) for name, s in splits.items()}
    known = torch.cat([inputs["train"], inputs["validation"]])
    labels = torch.cat([splits["train"].targets, splits["validation"].targets])
    randoms = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    rows = shuffled(len(known), randoms)
    drawn, cuts = Items(known[rows], labels[rows]), (others, others + items)
    return Task(
        drawn.part(0, cuts[0]),
        drawn.part(*cuts),
        drawn.part(cuts[1], cuts[1] + validation),
        inputs["test"],
        splits["test"].targets,
    )


def fit_teachers(items: Items, hidden: Sequence[int], epochs: int) -> BatchedMLP:
    """A teacher per seed, frozen."""
    seeds, count = items.targets.shape
    randoms = [torch.Generator().manual_seed(1000 + seed) for seed in range(seeds)]
    nets = BatchedMLP.initialised((PIXELS, *hidden, CLASSES), [1000 + s for s in range(seeds)])
    optimizer = BatchedSGD(nets.parameters, LR, MOMENTUM, weight_decay=1e-4)
    method, every = LabelsOnly(LabelsOnly.Options()), torch.arange(seeds)[:, None]
    for epoch in range(epochs):
        order = shuffled(count, randoms)
        for rows in (order[:, start : start + BATCH] for start in range(0, count, BATCH)):
            logits = nets(items.inputs[every, rows])
            loss = group_loss(method, logits, None, items.targets[every, rows])
            optimizer.step(loss, cosine(epoch, epochs))
    return nets.copy()


def damaged(teachers: BatchedMLP, noise: float) -> BatchedMLP:
    """The teachers with Gaussian noise on the weights of their head, all else untouched.

    Args:
        teachers: one per seed.
        noise: its standard deviation, in units of twice that of the head's own weights.
    """
    hurt = teachers.copy()
    for seed, head in enumerate(hurt.weights[-1]):
        random = torch.Generator().manual_seed(_NOISE_SEED + seed)
        head += noise * 2 * head.std() * torch.randn(head.shape, generator=random)
    return hurt


def studies(
    task: Task, items: Items, teachers: BatchedMLP, student: BatchedMLP, taps: Sequence[Tap]
) -> list[Study]:
    """What the method sees of each seed: the features of all hidden layers, one for each tap."""
    told: dict[str, tuple[Tensor, list[Tensor], Tensor]] = {}
    with torch.no_grad():
        for split, part in (("train", items), ("validation", task.validation)):
            hidden = teachers.hidden(part.inputs)
            told[split] = teachers.layer(-1, hidden[-1]), hidden, student(part.inputs)
    labels = {"train": items.targets, "validation": task.validation.targets}
    seen = [
        SeedStudy(
            {name: {t: h[s] for t, h in zip(taps, x[1], strict=True)} for name, x in told.items()},
            {name: x[0][s] for name, x in told.items()},
            {name: x[2][s] for name, x in told.items()},
            {name: x[s] for name, x in labels.items()},
            s,
        )
        for s in range(len(teachers))
    ]
    return [cast("Study", study) for study in seen]


def probe_targets(
    method: IntermediateProbes, seen: Sequence[Study], helpers: Sequence[ProbingTeacher]
) -> Tensor:
    """Logits `(S, N, C)` that the method puts in the place of the teacher's, for every seed."""
    parts = []
    for study, helper in zip(seen, helpers, strict=True):
        features = {tap: study.teacher_features("train", tap) for tap in helper.taps}
        logits, labels = study.student_logits("train"), study.targets("train")
        index = torch.arange(len(labels))
        batch = Batch(logits, None, labels, 0, 0.0, index, teacher_features=features)
        parts.append(cast("Tensor", method.adapt(batch, helper).teacher))
    return torch.stack(parts)


def probe_accuracies(
    task: Task, teachers: BatchedMLP, helpers: Sequence[ProbingTeacher]
) -> dict[str, Tensor]:
    """Test accuracy `(S,)` of the probes of each layer, mean over the folds, by layer."""
    hidden = teachers.hidden(task.test_inputs)
    found: dict[str, list[Tensor]] = {}
    for seed, helper in enumerate(helpers):
        for name, probes, features in zip(helper.names, helper.probes, hidden, strict=True):
            right = accuracy(probes(features[seed]), task.test_targets).mean()
            found.setdefault(name, []).append(right)
    return {name: torch.stack(values) for name, values in found.items()}


def teach(
    method: Method, students: BatchedMLP, items: Items, teacher: Tensor | None, steps: int
) -> BatchedMLP:
    """Students that learnt by a method from all items at every step, frozen.

    Args:
        method: whose loss.
        students: one per seed, left as they are.
        items: what they learn from.
        teacher: logits `(S, N, C)`, or None.
        steps: of SGD with momentum.
    """
    nets = students.select(range(len(students)))
    optimizer = BatchedSGD(nets.parameters, LR, MOMENTUM)
    for step in range(steps):
        loss = group_loss(method, nets(items.inputs), teacher, items.targets)
        optimizer.step(loss, cosine(step, steps))
    return nets.copy()
