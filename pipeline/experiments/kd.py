"""Does a student recognise a class that it never saw, because its teacher speaks of it?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from ..contracts import Figure
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from .arms import draw, group_loss, mean, percent, pick, told, train_teachers
from .batched import BatchedMLP, BatchedSGD, accuracy, cosine
from .contract import Arm, Check, Outcome, Table
from .digits import CLASSES, PIXELS, flat, load_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from ..contracts import Method
    from ..training.tensors import SplitTensors

LABELS, KD, FREE = "labels", "kd", "kd, no labels read"
ALL, TEACHER = "labels, with the class", "teacher, with the class"
RAISED = "bias raised"


@dataclass(frozen=True)
class OmittedClass:
    """All examples of one digit are taken out of what the student learns from.

    Attributes:
        omitted: the digit.
        hot: temperature of the second kd arm; the first has the method's default options.
        steps: of the students, and of the teachers before them.
        batch: samples a step.
        widths: of the two hidden layers of teacher and student.
        lr: of both.
        biases: that are tried for the omitted class, on the validation split.
    """

    claim: ClassVar[str] = (
        "MNIST without a single 3 in the transfer set: the distilled student makes 206 test errors,"
        " 133 of them on the 1010 threes; with the bias of that class raised by 3.5 (the best on"
        " the test set) 109 errors, 14 on threes: 98.6 % of a digit that it never saw"
        " (Hinton, Vinyals, Dean 2015, section 3)"
    )
    setting: ClassVar[str] = (
        "scikit-learn's digits, 8x8. Teacher: MLP 256-256 trained on all ten classes with noise on"
        " its input; students: MLP 64-64, SGD, the same steps and batches for every arm. The bias"
        " is chosen on the validation split, not on the test split as in the paper. Controls:"
        " labels without the class, labels with it."
    )
    seeds: ClassVar[int] = 8

    omitted: int = 3
    hot: float = 20.0
    steps: int = 1500
    batch: int = 64
    widths: tuple[int, int] = (256, 64)
    lr: float = 0.05
    biases: tuple[float, ...] = field(default=tuple(step / 4 for step in range(61)))

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        splits = load_digits()
        x, y = flat(splits["train"]), splits["train"].targets
        sizes, total = (PIXELS, *2 * self.widths[:1], CLASSES), 2 * self.steps

        def say(step: int) -> None:
            progress(step, total, "teachers" if step <= self.steps else "students")

        teacher = train_teachers(x, y, sizes, seeds, self.steps, say, noise=0.5)
        students = self._train_students(x, y, teacher, seeds, say)
        return self._judge(splits, teacher, students)

    def methods(self) -> dict[str, Method]:
        """Arms that are trained, by name."""
        kd, none = KnowledgeDistillation, LabelsOnly
        return {
            LABELS: none(none.Options()),
            KD: kd(kd.Options()),
            f"{KD}, T = {self.hot:g}": kd(kd.Options(temperature=self.hot)),
            FREE: kd(kd.Options(alpha=1)),
            ALL: none(none.Options()),
        }

    def _train_students(
        self,
        x: Tensor,
        y: Tensor,
        teacher: BatchedMLP,
        seeds: int,
        say: Callable[[int], None],
    ) -> dict[str, BatchedMLP]:
        """The students of each arm; a seed starts every arm from the same weights."""
        methods = self.methods()
        sizes = (PIXELS, self.widths[1], self.widths[1], CLASSES)
        nets = BatchedMLP.initialised(sizes, [s for _ in methods for s in range(seeds)])
        optimizer = BatchedSGD(nets.parameters, self.lr, momentum=0.9)
        known, everything = torch.nonzero(y != self.omitted).flatten(), torch.arange(len(y))
        signals = teacher(x).detach()
        random = {
            name: [torch.Generator().manual_seed(s) for s in range(seeds)] for name in methods
        }
        for step in range(self.steps):
            drawn = [
                draw(everything if name == ALL else known, self.batch, random[name])
                for name in methods
            ]
            logits = nets(x[torch.cat(drawn)]).chunk(len(methods))
            losses = [
                group_loss(method, ours, pick(signals, rows), y[rows])
                for method, ours, rows in zip(methods.values(), logits, drawn, strict=True)
            ]
            optimizer.step(torch.stack(losses).sum(), cosine(step, self.steps))
            say(self.steps + step + 1)
        group = torch.arange(len(nets)).view(len(methods), seeds).tolist()
        return {name: nets.select(rows) for name, rows in zip(methods, group, strict=True)}

    def _judge(
        self,
        splits: Mapping[str, SplitTensors],
        teacher: BatchedMLP,
        students: Mapping[str, BatchedMLP],
    ) -> Outcome:
        """Tables over the test split; the bias is chosen on the validation split."""
        nets = {**students, TEACHER: teacher}
        test = {name: net(flat(splits["test"])).detach() for name, net in nets.items()}
        targets, validation = splits["test"].targets, splits["validation"]
        added = {}
        for name in (n for n in students if n != ALL):
            logits = students[name](flat(validation)).detach()
            added[name] = best_bias(logits, validation.targets, self.omitted, self.biases)
            test[f"{name}, {RAISED}"] = shifted(test[name], self.omitted, added[name])
        unseen = targets == self.omitted
        left_out = {n: percent(n, accuracy(z[:, unseen], targets[unseen])) for n, z in test.items()}
        overall = {n: percent(n, accuracy(z, targets)) for n, z in test.items()}
        biases = {n: Arm(n, tuple(values.tolist())) for n, values in added.items()}
        unit = f"% of the {int(unseen.sum())} test digits {self.omitted}"
        tables = (
            Table(f"Accuracy on the digit {self.omitted}", unit, tuple(left_out.values())),
            Table("Accuracy on all digits", "% of test digits", tuple(overall.values())),
            Table("Best bias to add to the class", "logits", tuple(biases.values()), digits=2),
        )
        checks = _checks(left_out, overall, biases)
        return Outcome(tables, checks, (self._figure(test[KD], targets),))

    def _figure(self, logits: Tensor, targets: Tensor) -> Figure:
        """Test accuracy of the kd arm for every bias, mean over the seeds."""
        unseen = targets == self.omitted
        series: dict[str, list[float]] = {f"the digit {self.omitted}": [], "all digits": []}
        for bias in self.biases:
            moved = shifted(logits, self.omitted, torch.full((len(logits),), bias))
            series[f"the digit {self.omitted}"] += [
                100 * float(accuracy(moved[:, unseen], targets[unseen]).mean())
            ]
            series["all digits"] += [100 * float(accuracy(moved, targets).mean())]
        title = "A class that was never seen, by the bias added to it"
        lines = {name: (self.biases, values) for name, values in series.items()}
        return Figure(
            title, "added to the logit", "% of test digits", lines, "Mean over the seeds."
        )


def _checks(
    left_out: Mapping[str, Arm], overall: Mapping[str, Arm], biases: Mapping[str, Arm]
) -> tuple[Check, ...]:
    labels, kd, raised = left_out[LABELS], left_out[KD], left_out[f"{KD}, {RAISED}"]
    ours, control = overall[f"{KD}, {RAISED}"], overall[ALL]
    return (
        Check(
            "labels alone never recognise the class that was left out: 0 % for every seed",
            max(labels.values) == 0.0,
            told([labels]),
        ),
        Check(
            "kd recognises at least 25 % of a class that it never saw",
            mean(kd) >= 25.0,
            told([kd]),
        ),
        Check(
            "its bias is what was missing: raised, at least 85 % of the class",
            mean(raised) >= 85.0 and min(biases[KD].values) > 0.0,
            f"{told([raised])}; added {told([biases[KD]], 2)}",
        ),
        Check(
            "with the bias raised it is at most 1 point behind labels that include the class",
            mean(ours) >= mean(control) - 1.0,
            told([ours, control]),
        ),
    )


def best_bias(logits: Tensor, targets: Tensor, label: int, candidates: tuple[float, ...]) -> Tensor:
    """What to add to the bias of a class for the best accuracy; the smallest of equals.

    Args:
        logits: `(S, N, C)`.
        targets: `(N,)`.
        label: the class.
        candidates: values to try, rising.

    Returns:
        One value per network, `(S,)`.
    """
    tried = torch.tensor(candidates)
    scores = [
        accuracy(shifted(logits, label, value.expand(len(logits))), targets) for value in tried
    ]
    return tried[torch.stack(scores).argmax(dim=0)]


def shifted(logits: Tensor, label: int, added: Tensor) -> Tensor:
    """Logits `(S, N, C)` with `added` `(S,)` on top of those of a class."""
    moved = logits.clone()
    moved[:, :, label] += added[:, None]
    return moved
