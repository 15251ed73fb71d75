"""Deep thin students of one teacher, with and without hints, as one tensor program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ..methods.fitnets import FitNets
from .arms import draw, group_loss, pick
from .batched import BatchedMLP, BatchedSGD, cosine
from .digits import CLASSES, PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..contracts import Method, Tap

    Features: TypeAlias = tuple[Mapping[Tap, Tensor], Mapping[Tap, Tensor]]


class Plan(Protocol):
    """Sizes and budget of the students; see `fitnets.DeepAndThin`."""

    @property
    def width(self) -> int: ...
    @property
    def teacher_width(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def lr(self) -> float: ...


@dataclass(frozen=True)
class Lesson:
    """Students of one depth, of all arms and seeds, as one tensor program.

    Attributes:
        plan: sizes and budget.
        x: training digits `(N, 64)`.
        y: labels `(N,)`.
        teacher: one per seed.
        depth: hidden layers of the students.
        gain: factor of their first weights.
    """

    plan: Plan
    x: Tensor
    y: Tensor
    teacher: BatchedMLP
    depth: int
    gain: float

    def train(
        self, methods: Mapping[str, Method], seeds: int, say: Callable[[int], None]
    ) -> dict[str, BatchedMLP]:
        """Students by arm; a seed starts every arm from the same weights."""
        plan, first = self.plan, [seed for _ in methods for seed in range(seeds)]
        nets = self._students(first)
        # One for every network, used or not: the group is clipped network by network.
        regressors = BatchedMLP.initialised((plan.width, plan.teacher_width), first)
        parameters = [*nets.parameters, *regressors.parameters]
        optimizer = BatchedSGD(parameters, plan.lr, momentum=0.9, clip=1.0)
        random = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
        hint, signals = self.teacher.hidden(self.x)[1].detach(), self.teacher(self.x).detach()
        for step in range(plan.steps):
            rows = draw(torch.arange(len(self.y)), plan.batch, random)
            features = nets.hidden(self.x[rows].repeat(len(methods), 1, 1))
            answers = nets.layer(-1, features[-1]).chunk(len(methods))
            guided = features[self.depth // 2].chunk(len(methods))
            losses = []
            for arm, method in enumerate(methods.values()):
                seen, helper = _hinted(method, guided[arm], pick(hint, rows), regressors, arm)
                given = answers[arm], pick(signals, rows), self.y[rows]
                losses.append(group_loss(method, *given, step / plan.steps, seen, helper))
            optimizer.step(torch.stack(losses).sum(), cosine(step, plan.steps))
            say(step + 1)
        group = torch.arange(len(nets)).view(len(methods), seeds).tolist()
        return {name: nets.select(rows) for name, rows in zip(methods, group, strict=True)}

    def _students(self, seeds: list[int]) -> BatchedMLP:
        sizes = (PIXELS, *[self.plan.width] * self.depth, CLASSES)
        nets = BatchedMLP.initialised(sizes, seeds)
        with torch.no_grad():
            torch._foreach_mul_(nets.weights[:-1], self.gain)
        return nets


class Regressors(nn.Module):
    """The regressors of some networks of a group, for their features in one batch.

    Args:
        nets: of one linear layer each.
        part: which of the networks.
    """

    def __init__(self, nets: BatchedMLP, part: slice) -> None:
        super().__init__()
        self.nets = BatchedMLP([nets.weights[0][part]], [nets.biases[0][part]])

    def forward(self, features: Tensor) -> Tensor:
        """`(S * N, in)` -> `(S * N, out)`."""
        return self.nets(features.view(len(self.nets), -1, features.shape[1])).flatten(0, 1)


def _hinted(
    method: Method, guided: Tensor, hint: Tensor, regressors: BatchedMLP, arm: int
) -> tuple[Features, nn.Module | None]:
    """Features and regressors that a method gets; none unless it is fitnets."""
    if not isinstance(method, FitNets):
        return ({}, {}), None
    part = slice(arm * len(guided), (arm + 1) * len(guided))
    return ({method.guided: guided}, {method.hint: hint}), Regressors(regressors, part)
