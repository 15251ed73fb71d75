"""The claim of gap-preserving distillation, tried on a small CNN and 300 digits."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..methods.expansion import grow
from ..methods.expansion_pair import Apart, Pair
from ..methods.gap_preserving import GapPreserving
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from .contract import Arm, Check, Outcome, Table
from .digit_net import DigitNet, Digits, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..contracts import Method

_GAP = 2.0  # points
_LAMBDAS = (1, 3)
_PLAIN, _GROWN, _UNRELATED = "labels only", "GPD*, lambda", "unrelated wide teacher, lambda"


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
        none = LabelsOnly(LabelsOnly.Options())
        Training(self.epochs, self.batch, self.lr).run(none, teacher, digits, None, seed)
        return teacher.eval()

    def _arm(self, recipe: Recipe, digits: Digits, static: nn.Module, seed: int) -> Result:
        network, epochs = self._network(recipe, seed), self.epochs * recipe.longer
        training = Training(epochs, self.batch, recipe.lr)
        training.run(recipe.method, network, digits, static, seed)
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
            f"on average the dynamic teacher ends within {_GAP:g} points of the student",
            max(gaps) <= _GAP,
            ", ".join(f"{gap:.1f} at lambda {weight}" for gap, _, weight in pairs),
        ),
        Check(
            "at the same lambda an unrelated wide teacher ends further from the student",
            all(gap < other for gap, other, _ in pairs),
            ", ".join(f"{other:.1f} against {gap:.1f} at {weight}" for gap, other, weight in pairs),
        ),
    )
