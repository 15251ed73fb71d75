"""The claim of gap-preserving distillation, tried on a small CNN and 300 digits."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts import Batch
from ..data.load import load_data
from ..data.source import INPUT
from ..methods.expansion import grow
from ..methods.expansion_pair import DYNAMIC_TEACHER, Apart, Pair
from ..methods.gap_preserving import DYNAMIC, GapPreserving
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from .contract import Arm, Check, Outcome, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..contracts import Method

_NOISE = 0.3  # added to the pixels, which have variance 1
_CLIP = 5.0
_GAP = 2.0  # points
_PLAIN, _GROWN, _UNRELATED = "labels only", "GPD*, lambda", "unrelated wide teacher, lambda"
_LAMBDAS = (1, 3)


class DigitNet(nn.Module):
    """3x3, depthwise 3x3 and 1x1 convolutions, a residual block, a linear layer.

    Args:
        width: channels of the first layer; later ones have twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, 2, 1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, wide, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.residual = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)
        self.head = nn.Linear(wide, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, 1, 8, 8)` to logits `(N, 10)`."""
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(self.norm1(self.depthwise(x)))
        x = F.relu(self.norm2(self.pointwise(x)))
        x = F.relu(x + self.norm3(self.residual(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@dataclass(frozen=True, slots=True)
class Digits:
    """Images `(N, 1, 8, 8)` and labels `(N,)` of one draw."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @classmethod
    def drawn(cls, seed: int, training: int) -> Digits:
        """All 1,797 digits, some of them, drawn by the seed, for training."""
        images, labels = _all_digits()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        train, test = order[:training], order[training:]
        return cls(images[train], labels[train], images[test], labels[test])

    def accuracy(self, network: nn.Module) -> float:
        """Percent of the test digits that a network gets right, in eval mode."""
        with torch.no_grad():
            right = network.eval()(self.test_images).argmax(1) == self.test_labels
        return 100 * float(right.float().mean())


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way of training.

    Attributes:
        name: of the arm.
        method: gives network and loss.
        lr: peak learning rate.
        longer: how many times the epochs.
        stranger: a wide network with first weights of its own is the dynamic teacher.
    """

    name: str
    method: Method
    lr: float
    longer: int = 1
    stranger: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Percent of test digits of a student and of its dynamic teacher, `nan` if it has none."""

    student: float
    teacher: float = math.nan


@dataclass(frozen=True, slots=True)
class SharedGrowth:
    """A student trained inside its own enlargement, against plain training and other teachers."""

    claim: ClassVar[str] = (
        "A dynamic teacher that shares the student's weights keeps the gap small and raises"
        " ResNet-18 on ImageNet from 70.07 % to 71.87 % without a static teacher (Guo et al. 2025,"
        " figures of the authors' README)"
    )
    setting: ClassVar[str] = (
        "scikit-learn digits, 300 for training and 1,497 for test, pixel noise 0.3; CNN with"
        " depthwise, 1x1 and residual convolutions; SGD with momentum, cosine, clipping at 5."
        " Controls: plain training at lr x r^2, for twice the epochs, and both; an unrelated wide"
        " teacher trained beside the student; a static teacher of eight times the width"
    )
    seeds: ClassVar[int] = 4

    epochs: int = 40
    training: int = 300
    width: int = 4
    lr: float = 0.05
    batch: int = 32
    ratio: int = 2
    static_width: int = 32

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        recipes = self.recipes()
        found: dict[str, list[Result]] = {recipe.name: [] for recipe in recipes}
        exact, total = [], seeds * (len(recipes) + 1)
        for seed in range(seeds):
            done, digits = seed * (len(recipes) + 1), Digits.drawn(seed, self.training)
            progress(done, total, f"seed {seed}: static teacher")
            exact.append(_exactness(self._student(seed), digits.test_images, self.ratio))
            static = self._static(digits, seed)
            for count, recipe in enumerate(recipes, start=1):
                progress(done + count, total, f"seed {seed}: {recipe.name}")
                found[recipe.name].append(self._arm(recipe, digits, static, seed))
        progress(total, total, "done")
        return Outcome(_tables(found), (*_exact_checks(exact, self.ratio), *_checks(found)))

    def recipes(self) -> list[Recipe]:
        """The arms, controls included."""
        fast = self.lr * self.ratio**2
        none = LabelsOnly(LabelsOnly.Options())
        kd = KnowledgeDistillation(KnowledgeDistillation.Options())
        return [
            Recipe(_PLAIN, none, self.lr),
            Recipe(f"{_PLAIN}, lr x r^2", none, fast),
            Recipe(f"{_PLAIN}, 2x epochs", none, self.lr, longer=2),
            Recipe(f"{_PLAIN}, lr x r^2, 2x epochs", none, fast, longer=2),
            *(Recipe(f"{_GROWN} {weight}", self._gpd(weight), self.lr) for weight in _LAMBDAS),
            *(
                Recipe(f"{_UNRELATED} {weight}", self._gpd(weight), self.lr, stranger=True)
                for weight in _LAMBDAS
            ),
            Recipe("kd, static teacher", kd, self.lr),
        ]

    def _gpd(self, weight: float) -> GapPreserving:
        given = {"ratio": self.ratio, "branches": 1, "lambda_dt": weight, "lambda_static": 0}
        return GapPreserving(GapPreserving.Options(**given))

    def _student(self, seed: int) -> DigitNet:
        torch.manual_seed(seed)
        return DigitNet(self.width)

    def _static(self, digits: Digits, seed: int) -> nn.Module:
        torch.manual_seed(1000 + seed)
        teacher = DigitNet(self.static_width)
        self._train(self.recipes()[0], teacher, digits, None, seed)
        return teacher.eval()

    def _arm(self, recipe: Recipe, digits: Digits, static: nn.Module, seed: int) -> Result:
        network = self._network(recipe, seed)
        self._train(recipe, network, digits, static, seed)
        student = digits.accuracy(recipe.method.finish(network))
        if isinstance(network, Pair):
            return Result(student, digits.accuracy(network.teacher))
        return Result(student)

    def _network(self, recipe: Recipe, seed: int) -> nn.Module:
        student = self._student(seed)
        if not recipe.stranger:
            return recipe.method.adopt(student)
        torch.manual_seed(2000 + seed)
        return Apart(student, DigitNet(self.width * self.ratio))

    def _train(
        self,
        recipe: Recipe,
        network: nn.Module,
        digits: Digits,
        static: nn.Module | None,
        seed: int,
    ) -> None:
        random, each = torch.Generator().manual_seed(seed), len(digits.labels) // self.batch
        steps = self.epochs * recipe.longer * each
        optimizer = torch.optim.SGD(network.parameters(), recipe.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        network.train()
        for step in range(steps):
            if step % each == 0:
                order = torch.randperm(len(digits.labels), generator=random)
            index = order[step % each * self.batch :][: self.batch]
            batch = _batch(recipe.method, network, static, digits, index, random)
            optimizer.zero_grad()
            loss = torch.stack(list(recipe.method.loss(batch, None).values())).sum()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
            optimizer.step()
            schedule.step()


def _batch(
    method: Method,
    network: nn.Module,
    static: nn.Module | None,
    digits: Digits,
    index: Tensor,
    random: torch.Generator,
) -> Batch:
    """What a method's loss sees of some digits with noise on them."""
    clean = digits.images[index]
    x = clean + _NOISE * torch.randn(clean.shape, generator=random)
    features: Mapping[Any, Tensor] = {}
    if isinstance(network, Pair):
        logits, found = network.forward_with_taps(x, [DYNAMIC_TEACHER])
        features = {DYNAMIC: found[DYNAMIC_TEACHER]}
    else:
        logits = network(x)
    teacher = None
    if method.needs.teacher and static is not None:
        with torch.no_grad():
            teacher = static(x)
    return Batch(logits, teacher, digits.labels[index], 0, 0.0, index, features)


def _exactness(student: nn.Module, images: Tensor, ratio: int) -> tuple[float, float]:
    """Largest difference of logits after growing, and of weights after reading back."""
    grown = grow(student, ratio, branches=3, noise=0)
    with torch.no_grad():
        differences = [
            (copy.deepcopy(student).train(mode)(images) - grown.teacher.train(mode)(images)).abs()
            for mode in (False, True)
        ]
    given = student.state_dict()
    back = grow(student, ratio, branches=3, noise=0).student().state_dict()
    apart = max(float((back[name] - tensor).abs().max()) for name, tensor in given.items())
    return max(float(difference.max()) for difference in differences), apart


@functools.cache
def _all_digits() -> tuple[Tensor, Tensor]:
    dataset = load_data({"source": "digits"}, Path())
    splits = dataset.splits().values()
    inputs = [dataset.preprocessing.apply(split.inputs)[INPUT] for split in splits]
    targets = np.concatenate([split.targets for split in splits])
    return torch.from_numpy(np.concatenate(inputs)), torch.from_numpy(targets).long()


def _tables(found: Mapping[str, Sequence[Result]]) -> tuple[Table, ...]:
    unit = "% of test digits"
    taught = {name: all_ for name, all_ in found.items() if not math.isnan(all_[0].teacher)}
    students = [Arm(name, tuple(r.student for r in all_)) for name, all_ in found.items()]
    teachers = [Arm(name, tuple(r.teacher for r in all_)) for name, all_ in taught.items()]
    gaps = [Arm(name, _gaps(all_)) for name, all_ in taught.items()]
    return (
        Table("Student", unit, tuple(students)),
        Table("Dynamic teacher", unit, tuple(teachers)),
        Table("Gap: dynamic teacher less student", "points", tuple(gaps)),
    )


def _gaps(results: Sequence[Result]) -> tuple[float, ...]:
    return tuple(result.teacher - result.student for result in results)


def _exact_checks(exact: Sequence[tuple[float, float]], ratio: int) -> tuple[Check, ...]:
    logits, weights = (max(values) for values in zip(*exact, strict=True))
    return (
        Check(
            "growing the student changes no logit by more than 1e-5, in training and in eval mode",
            logits <= 1e-5,
            f"{logits:.1e}",
        ),
        Check(
            f"the student is read back from a network {ratio} times as wide without any difference",
            weights == 0,
            f"{weights:.1e}",
        ),
    )


def _checks(found: Mapping[str, Sequence[Result]]) -> tuple[Check, ...]:
    students = {name: fmean(result.student for result in all_) for name, all_ in found.items()}
    grown = [f"{_GROWN} {weight}" for weight in _LAMBDAS]
    controls = [name for name in found if name.startswith(f"{_PLAIN},")]
    best, control = (max(names, key=students.__getitem__) for names in (grown, controls))
    against = f"{best}: {students[best]:.1f}"
    return (
        *_gap_checks(found),
        Check(
            "at the same epochs and learning rate it beats plain training by 1 point",
            students[best] >= students[_PLAIN] + 1,
            f"{against}; {_PLAIN}: {students[_PLAIN]:.1f}",
        ),
        Check(
            "it does not beat, by 1 point, plain training of r^2 times its learning rate, of twice"
            " its epochs, or both, all of which compute less",
            students[best] < students[control] + 1,
            f"{against}; {control}: {students[control]:.1f}",
        ),
    )


def _gap_checks(found: Mapping[str, Sequence[Result]]) -> tuple[Check, ...]:
    gaps = [abs(fmean(_gaps(found[f"{_GROWN} {weight}"]))) for weight in _LAMBDAS]
    strange = [abs(fmean(_gaps(found[f"{_UNRELATED} {weight}"]))) for weight in _LAMBDAS]
    pairs = list(zip(gaps, strange, _LAMBDAS, strict=True))
    return (
        Check(
            f"the dynamic teacher ends within {_GAP:g} points of the student",
            max(gaps) <= _GAP,
            ", ".join(f"{gap:.1f} at lambda {weight}" for gap, _, weight in pairs),
        ),
        Check(
            "at the same lambda an unrelated wide teacher ends further from the student",
            all(gap < other for gap, other, _ in pairs),
            ", ".join(f"{other:.1f} against {gap:.1f} at {weight}" for gap, other, weight in pairs),
        ),
    )
