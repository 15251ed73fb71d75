"""Arms of an experiment on digits: a method's own loss over batched networks, and their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..contracts import Batch
from ..methods.none import LabelsOnly
from .batched import BatchedMLP, BatchedSGD, cosine
from .contract import Arm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Method, Tap

TEACHER_SEED = 1000  # apart from the students'


def group_loss(
    method: Method,
    student: Tensor,
    teacher: Tensor | None,
    targets: Tensor,
    progress: float = 0.0,
    features: tuple[Mapping[Tap, Tensor], Mapping[Tap, Tensor]] = ({}, {}),
    helpers: nn.Module | None = None,
) -> Tensor:
    """Sum over `S` networks of a method's loss, as if each were trained alone.

    Args:
        method: sees one batch of `S * N` samples; its means become sums over the networks again.
        student: logits `(S, N, C)`.
        teacher: logits `(S, N, C)`, or None.
        targets: labels `(S, N)`.
        progress: share of the training that is done.
        features: of student and teacher, `(S, N, ...)` by tap.
        helpers: takes features of `S * N` samples, those of a network together.
    """
    ours, theirs = ({tap: x.flatten(0, 1) for tap, x in group.items()} for group in features)
    batch = Batch(
        student.flatten(0, 1),
        None if teacher is None else teacher.flatten(0, 1),
        targets.flatten(),
        epoch=0,
        progress=progress,
        index=torch.arange(targets.numel()),
        student_features=ours,
        teacher_features=theirs,
    )
    return torch.stack(list(method.loss(batch, helpers).values())).sum() * len(student)


def train_teachers(
    inputs: Tensor,
    targets: Tensor,
    sizes: Sequence[int],
    seeds: int,
    steps: int,
    say: Callable[[int], None],
    noise: float = 0.0,
) -> BatchedMLP:
    """One teacher per seed, trained on the labels and then frozen.

    Args:
        inputs: `(N, in)`.
        targets: labels `(N,)`.
        sizes: widths from the input to the logits.
        seeds: how many.
        steps: of 64 samples each.
        say: called after each step with the number of steps made.
        noise: standard deviation of what is added to the inputs.
    """
    nets = BatchedMLP.initialised(sizes, [TEACHER_SEED + seed for seed in range(seeds)])
    optimizer = BatchedSGD(nets.parameters, 0.05, momentum=0.9, weight_decay=1e-4)
    random = [torch.Generator().manual_seed(TEACHER_SEED + seed) for seed in range(seeds)]
    method = LabelsOnly(LabelsOnly.Options())
    for step in range(steps):
        rows = draw(torch.arange(len(targets)), 64, random)
        added = [torch.randn(64, inputs.shape[1], generator=own) for own in random]
        logits = nets(inputs[rows] + noise * torch.stack(added))
        optimizer.step(group_loss(method, logits, None, targets[rows]), cosine(step, steps))
        say(step + 1)
    return nets.copy()


def draw(pool: Tensor, count: int, random: Sequence[torch.Generator]) -> Tensor:
    """`count` rows out of a pool for each network, `(S, count)`, by a generator of its own."""
    picks = [torch.randint(len(pool), (count,), generator=own) for own in random]
    return pool[torch.stack(picks)]


def pick(signals: Tensor, rows: Tensor) -> Tensor:
    """Rows `(S, N)` of signals `(S, M, ...)`, each network its own: `(S, N, ...)`."""
    return signals[torch.arange(len(rows))[:, None], rows]


def percent(name: str, shares: Tensor | Sequence[float]) -> Arm:
    """An arm of one share `(S,)` per seed, in percent."""
    return Arm(name, tuple(100 * float(share) for share in shares))


def mean(arm: Arm) -> float:
    """Mean of an arm over its seeds."""
    return sum(arm.values) / len(arm.values)


def told(arms: Sequence[Arm], digits: int = 1) -> str:
    """Means of some arms in one line: `labels 87.2, kd 91.0`."""
    return ", ".join(f"{arm.name} {mean(arm):.{digits}f}" for arm in arms)
