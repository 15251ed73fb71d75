"""Does a student of probes on the teacher's features care what became of the teacher's head?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import stdev
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch

from ..contracts import Figure
from ..methods.intermediate_probes import IntermediateProbes
from ..methods.kd import KnowledgeDistillation
from ..methods.none import LabelsOnly
from .arms import mean, percent, told
from .batched import BatchedMLP, accuracy
from .contract import Arm, Check, Outcome, Table
from .corrupted_head import (
    CLASSES,
    PIXELS,
    Task,
    damaged,
    draw_task,
    fit_teachers,
    probe_accuracies,
    probe_targets,
    studies,
    teach,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ..contracts import Method

    Scores: TypeAlias = Mapping[tuple[float, int], Mapping[str, Arm]]

LABELS, KD, MIXED = "labels", "kd from the head", "kd from the head and labels"
BEST, MEAN = "probes, best layer", "probes, mean of layers"
SEEN = "probes, best layer, no cross-fit"
PROBES = (BEST, MEAN, SEEN)
_UNIT = "% of test digits"
_TEMPERATURE = 2.0
_LEAST_GAIN = 10.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one damage of the head did to students of one number of items.

    Attributes:
        students: by arm, one network per seed.
        probes: test accuracy of the probes of each layer `(S,)`, by layer.
    """

    students: Mapping[str, BatchedMLP]
    probes: Mapping[str, Tensor]


@dataclass(frozen=True)
class CorruptedHead:
    """The weights of the teacher's head get noise; its features stay as they are.

    Attributes:
        noises: standard deviations of the noise, in units of twice that of the head's weights;
            the first is 0.
        sizes: items that the student learns from; the last one decides the checks.
        hidden: widths of the teacher's hidden layers.
        others: items that the teacher learns from.
        validation: items on which probes are chosen.
        epochs: of the teacher.
        steps: of the student, each over all of its items.
    """

    claim: ClassVar[str] = (
        "The teacher's hidden states hold answers that the way through its head loses; students"
        " distilled from probes on them gain over students of its logits, most with few samples"
        " (Brown, Russell 2026, abstract; the figures of the paper were not at hand)"
    )
    setting: ClassVar[str] = (
        "scikit-learn's digits, 8x8. Teacher: MLP 128-128-128-128 trained on 800 other items;"
        " student: MLP 16, the same start and steps for every arm; T = 2; linear probes, chosen on"
        " 100 validation items. The head's weights get noise of 0, 1 and 2 times twice their"
        " standard deviation; all is fitted anew for each. Probes read labels, plain kd does not:"
        " controls are labels alone, and kd half from the labels; and probes without a cross-fit."
    )
    seeds: ClassVar[int] = 6

    noises: tuple[float, ...] = (0.0, 1.0, 2.0)
    sizes: tuple[int, ...] = (50, 100)
    hidden: tuple[int, ...] = (128, 128, 128, 128)
    others: int = 800
    validation: int = 100
    epochs: int = 30
    steps: int = 300

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        task = draw_task(seeds, max(self.sizes), self.others, self.validation)
        places = [(noise, size) for noise in self.noises for size in self.sizes]
        teachers = fit_teachers(task.teacher, self.hidden, self.epochs)
        progress(1, 1 + len(places), "teachers")
        lessons: dict[tuple[float, int], Lesson] = {}
        for noise, size in places:
            lessons[noise, size] = self._lesson(task, damaged(teachers, noise), size)
            progress(1 + len(lessons), 1 + len(places), f"noise {noise:g}, {size} items")
        heads = {noise: damaged(teachers, noise) for noise in self.noises}
        return self._judge(task, heads, lessons)

    def methods(self) -> dict[str, Method]:
        """The arms by name."""
        kd = KnowledgeDistillation
        return {
            LABELS: LabelsOnly(LabelsOnly.Options()),
            KD: kd(kd.Options(temperature=_TEMPERATURE, alpha=1)),
            MIXED: kd(kd.Options(temperature=_TEMPERATURE, alpha=0.5)),
            BEST: self._probes(),
            MEAN: self._probes(combine="mean"),
            SEEN: self._probes(folds=1),
        }

    def _probes(self, **options: Any) -> IntermediateProbes:
        layers = tuple(f"hidden{i + 1}" for i in range(len(self.hidden)))
        settings = {"layers": layers, "temperature": _TEMPERATURE, **options}
        return IntermediateProbes(IntermediateProbes.Options(**settings))

    def _lesson(self, task: Task, teachers: BatchedMLP, size: int) -> Lesson:
        """All arms, and all probes, of one damage and one number of items."""
        items = task.student.part(0, size)
        start = BatchedMLP.initialised((PIXELS, 16, CLASSES), range(len(teachers)))
        students, accuracies = {}, {}
        for name, method in self.methods().items():
            teacher = teachers(items.inputs).detach() if method.needs.teacher else None
            if isinstance(method, IntermediateProbes):
                seen = studies(task, items, teachers, start, method.needs.teacher_taps)
                helpers = [method.helpers(study) for study in seen]
                teacher = probe_targets(method, seen, helpers)
                accuracies[name] = probe_accuracies(task, teachers, helpers)
            students[name] = teach(method, start, items, teacher, self.steps)
        return Lesson(students, accuracies[BEST])

    def _judge(
        self,
        task: Task,
        heads: Mapping[float, BatchedMLP],
        lessons: Mapping[tuple[float, int], Lesson],
    ) -> Outcome:
        """All over the test split."""

        def right(nets: BatchedMLP) -> Tensor:
            return accuracy(nets(task.test_inputs), task.test_targets)

        scores = {
            place: {name: percent(name, right(nets)) for name, nets in lesson.students.items()}
            for place, lesson in lessons.items()
        }
        teachers = [percent(f"noise {noise:g}", right(nets)) for noise, nets in heads.items()]
        last = lessons[self.noises[0], self.sizes[-1]].probes
        layers = [percent(name, values) for name, values in last.items()]
        tables = (
            Table("Accuracy of the teacher", _UNIT, tuple(teachers)),
            *(self._table(size, scores) for size in self.sizes),
            Table(f"Accuracy of the probes, {self.sizes[-1]} items", _UNIT, tuple(layers)),
        )
        same = _same_students(lessons, self.noises[0])
        checks = (same, *self._checks(scores), _best_layer(layers))
        return Outcome(tables, checks, (self._figure(scores),))

    def _table(self, size: int, scores: Scores) -> Table:
        arms = [scores[self.noises[0], size][LABELS]]
        for noise in self.noises:
            taught = [arm for name, arm in scores[noise, size].items() if name != LABELS]
            arms += [Arm(f"noise {noise:g}: {arm.name}", arm.values) for arm in taught]
        return Table(f"Accuracy of the student, {size} items", _UNIT, tuple(arms))

    def _checks(self, scores: Scores) -> tuple[Check, ...]:
        """With the largest number of items: the worst head, and the sound one; labels with all."""
        sound, worst = (
            scores[noise, self.sizes[-1]] for noise in (self.noises[0], self.noises[-1])
        )
        gains = [mean(worst[name]) - mean(worst[KD]) for name in PROBES]
        damage = Check(
            f"noise {self.noises[-1]:g}: all students of probes are at least {_LEAST_GAIN:g} points"
            " better than kd",
            min(gains) >= _LEAST_GAIN,
            told([worst[name] for name in (KD, *PROBES)]),
        )
        smaller = [scores[self.noises[0], size] for size in self.sizes]
        against_kd = [_level_with_kd(sound, name) for name in (BEST, SEEN)]
        return damage, *against_kd, *(_better_than_labels(smaller, name) for name in (BEST, SEEN))

    def _figure(self, scores: Scores) -> Figure:
        """Students of the largest number of items by noise, mean over the seeds."""
        size = self.sizes[-1]
        series = {
            name: (self.noises, [mean(scores[noise, size][name]) for noise in self.noises])
            for name in self.methods()
        }
        title = f"Students of a teacher with a damaged head, {size} items"
        x = "noise of the head (of twice the std of its weights)"
        return Figure(title, x, _UNIT, series, "Mean over the seeds.")


def _same_students(lessons: Mapping[tuple[float, int], Lesson], sound: float) -> Check:
    """Whether students of probes have the same bits for every damage of the head."""
    pairs = [
        torch.equal(ours, theirs)
        for (noise, size), lesson in lessons.items()
        for name in PROBES
        for ours, theirs in zip(
            lesson.students[name].parameters,
            lessons[sound, size].students[name].parameters,
            strict=True,
        )
        if noise != sound
    ]
    statement = "students of probes are bit for bit the same, whatever the noise of the head"
    return Check(statement, all(pairs), f"{sum(pairs)} of {len(pairs)} weight tensors are equal")


def _level_with_kd(sound: Mapping[str, Arm], name: str) -> Check:
    """Of an arm, with a head that nothing was done to."""
    differences = [a - b for a, b in zip(sound[name].values, sound[KD].values, strict=True)]
    middle, error = sum(differences) / len(differences), _standard_error(differences)
    return Check(
        f"noise 0: {name}: at most two standard errors from kd; no gain is claimed",
        abs(middle) <= 2 * error,
        f"{told([sound[KD], sound[name]])}; paired {middle:+.1f}, standard error {error:.1f}",
    )


def _better_than_labels(by_size: Sequence[Mapping[str, Arm]], name: str) -> Check:
    """Of an arm; the labels that its probes read could have taught the student directly."""
    return Check(
        f"{name}: better than labels alone, for every number of items",
        all(mean(scores[name]) > mean(scores[LABELS]) for scores in by_size),
        "; ".join(told([scores[LABELS], scores[name]]) for scores in by_size),
    )


def _best_layer(layers: Sequence[Arm]) -> Check:
    """The last layer against the best of those before it."""
    best = max(layers[:-1], key=mean)
    statement = "probes on some earlier layer are at least as good as those on the last one"
    return Check(statement, mean(best) >= mean(layers[-1]), told([best, layers[-1]]))


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean; infinite for a single value, which says nothing of its spread."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
