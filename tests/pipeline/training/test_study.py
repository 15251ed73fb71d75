"""What a method may look at outside the step, and what looking must not change."""

from __future__ import annotations

import pytest
import torch

from edgedistill.pipeline.contracts import CurvePoint, Needs, Tap
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.none import LabelsOnly

TAPS = (Tap("middle"), Tap("last", "pooled"))


class Curious(LabelsOnly):
    """Labels only, but looks at everything; `ask` is called before each epoch."""

    needs = Needs(labels=True, teacher=True, student_taps=TAPS, teacher_taps=TAPS)

    def __init__(self, ask) -> None:
        super().__init__(LabelsOnly.Options())
        self.ask = ask

    def begin_epoch(self, study, helpers):
        self.ask(study)
        return {"epochs so far": float(len(study.history))}


def loop(kit, ask, **changes):
    return kit.loop(Curious(ask), kit.model(seed=4), kit.source(kit.teacher()), **changes)


def test_it_tells_both_models_over_whole_splits(kit) -> None:
    told = []

    def ask(study) -> None:
        told.append({
            "student": study.student_logits("validation"),
            "teacher": study.teacher_logits("train"),
            "feature": study.teacher_features("train", TAPS[1]),
            "targets": study.targets("train"),
        })  # fmt: skip

    teacher, student = kit.teacher().eval(), kit.model(seed=4).eval()
    kit.loop(Curious(ask), kit.model(seed=4), kit.source(kit.teacher()), epochs=1).fit()
    train, validation = kit.split(), kit.split(30, seed=1)
    images = train.inputs["image"]
    with torch.no_grad():
        wanted, features = teacher.forward_with_taps(images, ["stage3"])
        answers = student(validation.inputs["image"])
    torch.testing.assert_close(told[0]["teacher"], wanted)
    torch.testing.assert_close(told[0]["feature"], features["stage3"].mean((2, 3)))
    torch.testing.assert_close(told[0]["student"], answers)
    assert torch.equal(told[0]["targets"], train.targets)


def test_shapes_and_names_of_taps(kit) -> None:
    told = []

    def ask(study) -> None:
        told.append((study.student_shape(TAPS[0]), study.teacher_shape(TAPS[1])))
        told.append((study.layer("student", TAPS[0]), study.layer("teacher", TAPS[1])))

    loop(kit, ask, epochs=1).fit()
    assert told == [((8, 2, 2), (16,)), ("stage2", "stage3")]


def test_looking_changes_nothing(kit) -> None:
    def ask(study) -> None:
        study.student_logits("train")
        study.student_passes("train", 2)
        study.teacher_features("validation", TAPS[0])

    one = loop(kit, ask, shift=1).fit()
    two = loop(kit, lambda study: None, shift=1).fit()
    assert kit.equal(one.student.state_dict(), two.student.state_dict())
    assert kit.untimed(one.history) == kit.untimed(two.history)


def test_what_a_method_tells_of_an_epoch_is_recorded(kit) -> None:
    history = loop(kit, lambda study: None).fit().history
    assert [record["method"] for record in history] == [
        {"epochs so far": 0.0},
        {"epochs so far": 1},
    ]


def test_passes_are_augmented_and_the_same_again(kit) -> None:
    told = []

    def ask(study) -> None:
        told.append((study.student_passes("train", 3), study.student_passes("train", 3)))

    loop(kit, ask, shift=2, epochs=1).fit()
    ((first, again),) = told
    assert first.shape == (3, 56, kit.classes)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_samples_are_the_clean_ones(kit) -> None:
    told = []
    loop(kit, lambda study: told.append(study.samples(torch.tensor([5, 2]))), shift=2).fit()
    inputs, targets = told[0]
    assert torch.equal(inputs["image"], kit.split().inputs["image"][[5, 2]])
    assert torch.equal(targets, kit.split().targets[[5, 2]])


def test_the_teachers_curve(kit) -> None:
    curve, told = (CurvePoint(1, 0.5, 1.0, True),), []
    source = kit.source(kit.teacher(), curve=curve)
    kit.loop(Curious(lambda study: told.append(study.curve)), kit.model(), source, epochs=1).fit()
    assert told == [curve]


def test_a_method_that_asks_for_a_teacher_without_needing_one_is_told(kit) -> None:
    class Hidden(Curious):
        needs = Needs(labels=True, teacher=False)

    with pytest.raises(TrainingError, match="asks for a teacher"):
        kit.loop(Hidden(lambda study: study.teacher_logits("train"))).fit()
