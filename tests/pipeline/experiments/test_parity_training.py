"""Teachers and students of sparse parity: who is asked what, and who stops when."""

from __future__ import annotations

import pytest
import torch

from edgedistill.pipeline.experiments.parity import SparseParityTask
from edgedistill.pipeline.experiments.parity_training import (
    Lesson,
    Setting,
    Students,
    steps_to_solve,
    train_teachers,
)
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.methods.progressive import Progressive

SEEDS, EVERY = 2, 10


@pytest.fixture
def setting() -> Setting:
    task = SparseParityTask(6, 2)
    test = task.draw(64, torch.Generator().manual_seed(0))
    return Setting(task, SEEDS, 0.1, 8, EVERY, test, lambda note: None)


@pytest.fixture
def teachers(setting):
    return train_teachers(setting, width=16, epochs=4)


def labels_only(name: str = "labels") -> Lesson:
    return Lesson(name, LabelsOnly(LabelsOnly.Options()))


def taught(choose, labels: str = "hard") -> Lesson:
    method = Progressive(Progressive.Options(course="one-shot", labels=labels))
    return Lesson("taught", method, (choose,) * SEEDS)


def test_every_epoch_of_a_teacher_is_kept_as_it_was(setting, teachers) -> None:
    inputs, labels = setting.test
    for seed in range(SEEDS):
        for epoch in range(1, 5):
            right = teachers.answer(seed, epoch, inputs).argmax(1) == labels
            assert teachers.accuracies[epoch - 1, seed] == right.float().mean()
        assert torch.equal(teachers.answer(seed, None, inputs), teachers.answer(seed, 4, inputs))
    assert not torch.equal(teachers.answer(0, 1, inputs), teachers.answer(0, 4, inputs))


def test_a_curve_tells_what_is_kept(teachers) -> None:
    curve = teachers.curve(1, kept_every=2)
    assert [(point.epoch, point.kept) for point in curve] == [
        (1, False), (2, True), (3, False), (4, True),
    ]  # fmt: skip
    assert [point.accuracy for point in curve] == teachers.accuracies[:, 1].tolist()


def test_each_step_is_labelled_by_the_teacher_that_was_chosen(setting, teachers) -> None:
    asked = []
    whole = teachers.answer

    class Spy:
        def answer(self, seed, epoch, inputs):
            asked.append((seed, epoch, len(inputs)))
            return whole(seed, epoch, inputs)

    def choose(moment):
        return 1 if moment.step < 4 else None

    arms = [taught(choose), labels_only(), taught(lambda moment: None)]
    students = Students(setting, 4, arms, Spy())
    inputs, _ = setting.epoch(setting.streams(purpose=2))
    moments = [_moment(step) for step in range(EVERY)]
    got = students._lessons_of(0, moments, inputs[0])
    for step in range(EVERY):
        first = whole(0, 1 if step < 4 else None, inputs[0, step])
        torch.testing.assert_close(got[0, step], first)
        torch.testing.assert_close(got[2, step], whole(0, None, inputs[0, step]))
    assert not got[1].any(), "labels only: nobody is asked"
    assert sorted(asked, key=str) == [(0, 1, 4 * 8), (0, None, EVERY * 8)], "each sample once"


def _moment(step: int):
    from edgedistill.pipeline.contracts import Moment

    return Moment(0, 3, step, EVERY, ())


def test_the_same_lessons_give_the_same_students(setting, teachers) -> None:
    students = Students(setting, 4, [labels_only("a"), labels_only("b")], teachers)
    students.train(3)
    assert torch.equal(torch.stack(students.curves["a"]), torch.stack(students.curves["b"]))
    first, second = students.nets.weights[0].detach().view(2, SEEDS, -1)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1]), "seeds differ"


def test_arms_do_not_disturb_each_other(setting, teachers) -> None:
    ends = []
    for arms in ([labels_only()], [taught(lambda moment: 2, "soft"), labels_only()]):
        students = Students(setting, 4, arms, teachers)
        students.train(3)
        ends.append(students.nets.weights[0].detach()[-SEEDS:])
    torch.testing.assert_close(*ends)


def test_an_arm_stops_when_all_its_students_are_done(setting, teachers) -> None:
    students = Students(setting, 4, [labels_only("a"), taught(lambda moment: 1)], teachers)
    students._evaluate()
    students.curves["a"].append(torch.tensor([1.0, 0.5]))
    students._evaluate()
    assert len(students.lessons) == 2, "one of two is done"
    students.curves["a"].append(torch.tensor([0.5, 0.99]))
    students._evaluate()
    assert [lesson.name for lesson in students.lessons] == ["taught"]
    assert len(students.nets) == SEEDS
    students.train(1)
    assert len(students.curves["a"]) == 5
    assert len(students.curves["taught"]) == 4


def test_steps_count_until_the_first_evaluation_that_is_solved() -> None:
    accuracies = torch.tensor([[0.5, 0.99, 0.5], [1.0, 0.5, 0.98], [0.5, 1.0, 0.5]])
    assert steps_to_solve(accuracies, 250) == (500.0, 250.0, float("inf"))
