"""Do hints train a net that is too deep and too thin for plain gradient descent?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..contracts import Figure
from ..methods.fitnets import FitNets
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from .arms import mean, percent, told, train_teachers
from .batched import accuracy
from .contract import Arm, Check, Outcome, Table
from .digits import CLASSES, PIXELS, flat, load_digits
from .hinted import Lesson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..contracts import Method
    from ..training.tensors import SplitTensors
    from .batched import BatchedMLP

LABELS, KD, TEACHER = "labels", "kd", "teacher"
TWO, ONE = "fitnets, two stages", "fitnets, one stage"
HE = math.sqrt(6)  # from the weights of nn.Linear, of variance 1 / (3 in), to 2 / in


@dataclass(frozen=True)
class DeepAndThin:
    """Plain nets of growing depth, without skip connections or normalisation, taught four ways.

    Attributes:
        depths: hidden layers of the students; the claim is tried on the second, and that one is
            also started from larger weights.
        width: units of each hidden layer.
        teacher_width: units of the teacher's two hidden layers.
        steps: of every student, both stages counted.
        teacher_steps: of the teachers before them.
        batch: samples a step.
        lr: of every student.
    """

    claim: ClassVar[str] = (
        "CIFAR-10, 30 M multiplications: labels train nets of up to 5 layers, kd of up to 7, hints"
        " of up to 13; hints and kd at once failed to learn. MNIST: 1.9 % errors with labels,"
        " 0.65 % with kd, 0.51 % with hints (Romero and others 2015, sections 3.1, 3.3 and 4.1)"
    )
    setting: ClassVar[str] = (
        "scikit-learn's digits, 8x8. Teacher: MLP 128-128. Students: plain MLPs of width 16 with 4,"
        " 8 and 12 hidden layers, nn.Linear's own initialisation, SGD with momentum and clipped"
        " gradients; every arm has the same steps, batches and first weights, and the defaults of"
        " fitnets (T = 3, a = 0.5). Control: the same net started from weights of He and others"
        " (2015), sqrt(6) times larger."
    )
    seeds: ClassVar[int] = 5

    depths: tuple[int, int, int] = (4, 8, 12)
    width: int = 16
    teacher_width: int = 128
    steps: int = 1500
    teacher_steps: int = 1000
    batch: int = 64
    lr: float = 0.1

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        splits = load_digits()
        x, y = flat(splits["train"]), splits["train"].targets
        sizes = (PIXELS, self.teacher_width, self.teacher_width, CLASSES)
        starts = [(depth, 1.0) for depth in self.depths] + [(self.depths[1], HE)]
        total = self.teacher_steps + len(starts) * self.steps

        def say(step: int, note: str = "teachers", before: int = 0) -> None:
            progress(before + step, total, note)

        teacher = train_teachers(x, y, sizes, seeds, self.teacher_steps, say)
        groups = []
        for number, (depth, gain) in enumerate(starts):
            lesson = Lesson(self, x, y, teacher, depth, gain)
            before = self.teacher_steps + number * self.steps

            def told_depth(step: int, before: int = before, depth: int = depth) -> None:
                say(step, f"{depth} hidden layers", before)

            students = lesson.train(self.methods(), seeds, told_depth)
            groups.append(_score({**students, TEACHER: teacher}, splits["test"]))
        return self._judge(groups)

    def methods(self) -> dict[str, Method]:
        """Arms by name; kd has the temperature and the weights of fitnets."""
        two = FitNets(FitNets.Options())
        return {
            LABELS: LabelsOnly(LabelsOnly.Options()),
            KD: KnowledgeDistillation(two.base.options),
            TWO: two,
            ONE: FitNets(FitNets.Options(stages="one")),
        }

    def _judge(self, groups: list[dict[str, Arm]]) -> Outcome:
        """Tables by depth, checks and the figure."""
        names = [f"{depth} hidden layers" for depth in self.depths]
        names.append(f"Control: {self.depths[1]} hidden layers, He initialisation")
        tables = tuple(
            Table(name, "% of test digits", tuple(group.values()))
            for name, group in zip(names, groups, strict=True)
        )
        series = {
            name: (self.depths, tuple(mean(group[name]) for group in groups[:-1]))
            for name in groups[0]
        }
        note = "Mean over the seeds, nn.Linear's own initialisation; 10 % is a guess."
        figure = Figure(
            "How deep a plain thin net may be", "hidden layers", "% right", series, note
        )
        return Outcome(tables, _checks(*groups), (figure,))


def _score(nets: Mapping[str, BatchedMLP], test: SplitTensors) -> dict[str, Arm]:
    rows, targets = flat(test), test.targets
    return {name: percent(name, accuracy(net(rows), targets)) for name, net in nets.items()}


def _checks(
    shallow: dict[str, Arm], deep: dict[str, Arm], deepest: dict[str, Arm], control: dict[str, Arm]
) -> tuple[Check, ...]:
    plain, hints = [deep[LABELS], deep[KD]], deep[TWO]
    return (
        Check(
            "the shallowest net needs no hints: labels reach at least 90 %",
            mean(shallow[LABELS]) >= 90,
            told([shallow[LABELS], shallow[TWO]]),
        ),
        Check(
            "hints train a net that plain training does not: two stages at least 80 %, and 25"
            " points above labels and kd (second depth)",
            mean(hints) >= 80 and all(mean(hints) >= mean(arm) + 25 for arm in plain),
            told([hints, *plain]),
        ),
        Check(
            "two stages are at least 10 points better than both at once (second depth)",
            mean(hints) >= mean(deep[ONE]) + 10,
            told([hints, deep[ONE]]),
        ),
        Check(
            "kd alone trains deeper nets than labels do, as in the paper (second depth)",
            mean(deep[KD]) > mean(deep[LABELS]),
            told(plain),
        ),
        Check(
            "hints train the deepest net too: two stages at least 80 % (third depth)",
            mean(deepest[TWO]) >= 80,
            told([deepest[TWO]]),
        ),
        Check(
            "hints are still better by 1 point where the initialisation is right (control)",
            mean(control[TWO]) >= mean(control[LABELS]) + 1,
            told([control[TWO], control[LABELS]]),
        ),
    )
