"""Does a checkpoint from inside the teacher's transition teach what the final teacher cannot?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..contracts import Figure
from ..methods.course import Course
from ..methods.none import LabelsOnly
from ..methods.progressive import Progressive
from ..methods.schedules import two_shot
from .contract import Arm, Check, Outcome, Table
from .parity import SparseParityTask
from .parity_claims import (
    AT_LAST,
    CE,
    INSIDE,
    LATE,
    ONE_SHOT,
    OUTSIDE,
    PROGRESSIVE,
    TEACHER,
    TEMPERED,
    TWO_SHOT,
    check_leak,
    check_same,
    compare_speeds,
)
from .parity_training import (
    Lesson,
    Setting,
    Students,
    Teachers,
    steps_to_solve,
    train_teachers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ..contracts import Moment

CHANCE = 0.5


@dataclass(frozen=True)
class SparseParity:
    """Steps that a narrow network needs to learn a sparse parity, by who teaches it.

    Attributes:
        dimensions: length of a sample.
        degree: coordinates whose product is the label.
        teacher_width: hidden units of the teacher.
        student_width: hidden units of the student.
        teacher_steps: length of the teacher's training.
        student_steps: longest training of a student.
        lr: learning rate of plain SGD, constant.
        batch: fresh samples per step.
        every: steps between evaluations.
        interval: steps between the checkpoints of the progressive arms.
        switch: steps that a two-shot arm spends with its first checkpoint.
        late: steps from the transition to the checkpoint of the late arm.
        test_count: samples of an evaluation.
        probe_count: samples on which correlations are measured.
    """

    claim: ClassVar[str] = (
        "One checkpoint from inside the teacher's phase transition, then the final teacher, lets a "
        "small student learn as fast as the teacher; the final teacher alone does not help "
        "(Panigrahi et al., 2025, sparse parity with d = 100, k = 6)."
    )
    setting: ClassVar[str] = (
        "Sparse parity with d = 50, k = 4 and fresh samples; MLPs of one hidden layer, teacher of "
        "width 1,000, student of width 16; plain SGD at 0.1, batch 32; teacher 8,000 steps, "
        "student at most 40,000; 4,096 samples every 250 steps to evaluate. Much smaller than the "
        "paper's. Controls: labels only, the final teacher alone, a checkpoint 1,000 steps too "
        "late."
    )
    seeds: ClassVar[int] = 5

    dimensions: int = 50
    degree: int = 4
    teacher_width: int = 1000
    student_width: int = 16
    teacher_steps: int = 8000
    student_steps: int = 40_000
    lr: float = 0.1
    batch: int = 32
    every: int = 250
    interval: int = 500
    switch: int = 2000
    late: int = 1000
    test_count: int = 4096
    probe_count: int = 100_000

    @property
    def task(self) -> SparseParityTask:
        return SparseParityTask(self.dimensions, self.degree)

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        setting = self._setting(seeds, progress)
        teachers = train_teachers(setting, self.teacher_width, self.teacher_steps // self.every)
        courses = [Course.of(teachers.curve(seed), CHANCE) for seed in range(seeds)]
        lessons = self._lessons(teachers, courses)
        students = Students(setting, self.student_width, lessons, teachers)
        students.train(self.student_steps // self.every)
        curves = {TEACHER: teachers.accuracies}
        curves |= {name: torch.stack(curve) for name, curve in students.curves.items()}
        return self._judge(curves, courses, self._correlations(teachers, courses))

    def _setting(self, seeds: int, progress: Callable[[int, int, str], None]) -> Setting:
        total = (self.teacher_steps + self.student_steps) // self.every
        done = itertools.count(1)
        return Setting(
            self.task, seeds, self.lr, self.batch, self.every,
            self.task.draw(self.test_count, torch.Generator().manual_seed(0)),
            lambda note: progress(next(done), total, note),
        )  # fmt: skip

    def _lessons(self, teachers: Teachers, courses: Sequence[Course]) -> list[Lesson]:
        """The arms of students."""
        share, coarse = self.switch / self.student_steps, self.interval // self.every

        def follow(name: str, kept_every: int, **options: Any) -> Lesson:
            parsed = Progressive.Options(**options)
            methods = [Progressive(parsed) for _ in courses]
            for seed, method in enumerate(methods):
                method.follow(teachers.curve(seed, kept_every), CHANCE)
            return Lesson(name, methods[0], tuple(method.checkpoint for method in methods))

        two = follow(TWO_SHOT, 1, course="two-shot", labels="hard", switch=share)
        return [
            Lesson(CE, LabelsOnly(LabelsOnly.Options())),
            follow(ONE_SHOT, 1, course="one-shot", labels="hard"),
            follow(PROGRESSIVE, coarse, course="time-matched", labels="hard"),
            two,
            Lesson(LATE, two.method, tuple(self._too_late(course) for course in courses)),
            follow(TEMPERED, coarse, course="time-matched", labels="tempered"),
        ]

    def _too_late(self, course: Course) -> Callable[[Moment], int | None]:
        """The two-shot schedule with a checkpoint from after the transition."""
        share, last = self.switch / self.student_steps, course.curve[-1].epoch
        epoch = min(_middle(course) + self.late // self.every, last)
        return lambda moment: two_shot(
            epoch, (moment.epoch + moment.step / moment.steps) / moment.epochs, share
        )

    def _correlations(
        self, teachers: Teachers, courses: Sequence[Course]
    ) -> dict[str, list[float]]:
        """What the teachers' hard labels tell of monomials of degree 1 to that of the support."""
        inputs, _ = self.task.draw(self.probe_count, torch.Generator().manual_seed(1))
        middles = [_middle(course) for course in courses]
        cases: dict[str, tuple[bool, list[int] | list[None]]] = {
            INSIDE: (True, middles),
            OUTSIDE: (False, middles),
            AT_LAST: (True, [None] * len(courses)),
        }
        means = {}
        for name, (inside, epochs) in cases.items():
            answers = [teachers.answer(seed, epoch, inputs) for seed, epoch in enumerate(epochs)]
            each = [self.task.correlations(inputs, a.argmax(1), inside) for a in answers]
            means[name] = [fmean(values) for values in zip(*each, strict=True)]
        return means

    def _judge(
        self,
        curves: Mapping[str, Tensor],
        courses: Sequence[Course],
        tells: Mapping[str, Sequence[float]],
    ) -> Outcome:
        arms = [Arm(name, steps_to_solve(curve, self.every)) for name, curve in curves.items()]
        jumps = tuple(float(_middle(course) * self.every) for course in courses)
        before = tuple(100 * course.point(_middle(course)).accuracy for course in courses)
        tables = (
            Table("Steps until 99 % of fresh samples are right", "steps", tuple(arms), 0),
            Table(
                "Checkpoint before the teacher's largest jump", "steps", (Arm(TEACHER, jumps),), 0
            ),
            Table("Its accuracy", "% of fresh samples", (Arm(TEACHER, before),)),
        )
        visible = sum(course.transition.visible for course in courses)
        checks = (
            *compare_speeds({arm.name: median(arm.values) for arm in arms}),
            check_same(curves, ONE_SHOT),
            check_same(curves, LATE),
            Check(
                "the transition is visible by the method's own rule in every teacher",
                visible == len(courses), f"{visible} of {len(courses)}",
            ),
            check_leak(tells),
        )  # fmt: skip
        return Outcome(tables, checks, (self._accuracies(curves), _degrees(tells)))

    def _accuracies(self, curves: Mapping[str, Tensor]) -> Figure:
        series = {
            name: (
                [self.every * (i + 1) for i in range(len(curve))],
                (100 * curve.mean(1)).tolist(),
            )
            for name, curve in curves.items()
        }
        note = "Mean over the seeds; an arm ends when all its students are above 99 %."
        return Figure("Who teaches decides how soon", "steps", "accuracy, %", series, note)


def _middle(course: Course) -> int:
    """Epoch of the checkpoint just before the largest jump."""
    return course.kept[course.transition.index]


def _degrees(tells: Mapping[str, Sequence[float]]) -> Figure:
    series = {name: (range(1, len(values) + 1), values) for name, values in tells.items()}
    note = "Only mistakes made in the transition tell which coordinates matter, by a lower degree."
    return Figure("What the labels tell", "degree of monomial", "mean |correlation|", series, note)
