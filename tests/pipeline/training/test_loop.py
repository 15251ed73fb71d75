"""The loop itself: what it does when the loss diverges, what it reports, which models it takes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.training.checkpoint import FILE
from edgedistill.pipeline.training.loop import CHECK_EVERY, predict
from edgedistill.pipeline.training.tensors import SplitTensors


class Poisoned(LabelsOnly):
    """Gives NaN at one step, counted from 1 over the whole training."""

    def __init__(self, at: int) -> None:
        super().__init__(LabelsOnly.Options())
        self.at, self.step = at, 0

    def loss(self, batch, helpers):
        self.step += 1
        labels = super().loss(batch, helpers)["labels"]
        return {"labels": labels, "extra": labels * (math.nan if self.step == self.at else 0.0)}


class Phased(LabelsOnly):
    """A second part of the loss that is there in the second half of the training only."""

    def loss(self, batch, helpers):
        labels = super().loss(batch, helpers)["labels"]
        return {"labels": labels} | ({"late": 0 * labels + 1} if batch.progress >= 0.5 else {})


def test_nan_names_epoch_and_step_and_keeps_the_checkpoint(kit) -> None:
    steps = 4  # of one epoch
    loop = kit.loop(Poisoned(at=2 * steps + 3), epochs=4)
    with pytest.raises(TrainingError, match=r"'extra' is nan in epoch 3, step 3 of 4") as caught:
        loop.fit()
    assert "after epoch 2 is kept" in caught.value.message
    assert "lr" in caught.value.hint
    stored = torch.load(loop.scratch / FILE, weights_only=True)
    assert stored["epoch"] == len(stored["history"]) == 2
    assert all(value.isfinite().all() for value in stored["trainable"].values())
    good = kit.loop(epochs=4, scratch=loop.scratch).fit()  # and it can be gone on from
    assert len(good.history) == 4


@pytest.mark.parametrize("at", [1, CHECK_EVERY, CHECK_EVERY + 2, 2 * CHECK_EVERY + 7])
def test_nan_is_found_wherever_it_is_in_a_long_epoch(kit, at) -> None:
    loop = kit.loop(Poisoned(at), kit.model("mlp"), train=kit.split(16 * 60), epochs=1)
    with pytest.raises(TrainingError, match=rf"epoch 1, step {at} of 60; no epoch was finished"):
        loop.fit()
    assert not (loop.scratch / FILE).exists()


def test_a_learning_rate_that_is_far_too_large_is_told(kit) -> None:
    loop = kit.loop(optimizer="sgd", lr=1e30, warmup=0.0, epochs=2)
    with pytest.raises(TrainingError, match="in epoch 1"):
        loop.fit()
    assert not (loop.scratch / FILE).exists()


def test_a_last_step_that_breaks_the_weights_is_told(kit) -> None:
    split = kit.split(16)  # one step; its loss is large, but finite
    split.inputs["image"].mul_(1e20)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    loop = kit.loop(
        student=student, train=split, validation=split, optimizer="sgd", lr=1e10, warmup=0.0
    )
    with pytest.raises(TrainingError, match=r"'validation' is (nan|inf) in epoch 1, step 1 of 1"):
        loop.fit()


def test_history_has_every_part_of_the_loss(kit) -> None:
    result = kit.loop(kit.kd(alpha=0.5), teacher=kit.teacher()).fit()
    for number, record in enumerate(result.history, start=1):
        assert record["epoch"] == number
        assert set(record["loss"]) == {"labels", "teacher", "total"}
        parts = record["loss"]["labels"] + record["loss"]["teacher"]
        assert record["loss"]["total"] == pytest.approx(parts)


def test_a_part_that_comes_late_counts_as_zero_before(kit) -> None:
    method = Phased(LabelsOnly.Options())
    history = kit.loop(method, epochs=1).fit().history  # four steps: at 0, 1/4, 1/2 and 3/4
    assert history[0]["loss"]["late"] == pytest.approx(0.5)
    assert history[0]["loss"]["total"] == pytest.approx(history[0]["loss"]["labels"] + 0.5)


def test_validation_figures_are_those_of_the_whole_split(kit) -> None:
    validation, students = kit.split(300, seed=8), []
    loop = kit.loop(validation=validation, on_epoch=lambda _, s: students.append(s), epochs=1)
    record = loop.fit().history[0]
    with torch.no_grad():
        logits = students[0].eval()(validation.inputs["image"])
    right = (logits.argmax(1) == validation.targets).float().mean()
    loss = nn.functional.cross_entropy(logits, validation.targets)
    assert record["validation_accuracy"] == pytest.approx(float(right))
    assert record["validation_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_progress_counts_every_step(kit) -> None:
    told: list[tuple[int, int, str]] = []
    kit.loop(progress=lambda *args: told.append(args), epochs=2).fit()
    assert [done for done, _, _ in told] == list(range(1, 9))
    assert {total for _, total, _ in told} == {8}
    assert told[0][2] == "epoch 1/2"
    assert told[-1][2].startswith("epoch 2/2, val ")


def test_a_network_learns_what_can_be_learned(kit) -> None:
    result = kit.loop(train=kit.split(240), epochs=8, lr=0.01).fit()
    assert result.history[result.best]["validation_accuracy"] > 0.8
    assert result.history[-1]["loss"]["total"] < 0.7 * result.history[0]["loss"]["total"]


def test_predict_gives_every_logit_in_order_and_leaves_eval_mode(kit) -> None:
    split = kit.split(300)
    loop = kit.loop()
    logits = predict(loop.module.train(), split, torch.device("cpu"))
    assert logits.shape == (300, kit.classes)
    assert not logits.requires_grad
    assert not loop.trainable.student.training
    with torch.no_grad():
        alone = loop.trainable.student(split.inputs["image"][257:259])
    torch.testing.assert_close(logits[257:259], alone)


class Clip(nn.Module):
    """A 3-D convolution and a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 4, 3), nn.Linear(4 + 5, 3)

    def forward(self, *, clip: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.conv(clip).mean((2, 3, 4)), extra], 1))


def test_video_and_several_inputs_are_trained_too(kit) -> None:
    inputs = {"clip": torch.randn(40, 1, 4, 6, 6), "extra": torch.randn(40, 5)}
    split = SplitTensors(inputs, torch.arange(40) % 3)
    student = Clip()
    before = kit.weights(student)
    result = kit.loop(student=student, train=split, validation=split).fit()
    assert not kit.equal(before, result.student.state_dict())


class Wide(nn.Module):
    """Gives its logits in float64."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).double()


def test_a_method_gets_fp32_logits_from_any_student_and_teacher(kit) -> None:
    seen = set()

    class Watching(type(kit.kd())):
        def loss(self, batch, helpers):
            seen.update({batch.student.dtype, batch.teacher.dtype})
            return super().loss(batch, helpers)

    method = Watching(kit.kd().options)
    kit.loop(method, Wide(kit.model()), Wide(kit.teacher()), epochs=1).fit()
    assert seen == {torch.float32}


def test_frozen_parts_of_a_student_stay_as_they_are(kit) -> None:
    student = kit.model()
    student.stem.requires_grad_(False)
    before = student.stem[0].weight.clone()
    result = kit.loop(student=student).fit()
    assert torch.equal(result.student.stem[0].weight, before)


class Viewing(nn.Module):
    """What most tutorials write: `view` needs features that lie contiguously."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.conv(x))
        return self.head(features.view(features.size(0), -1))


@pytest.mark.parametrize("stored", [False, True])
def test_students_and_teachers_may_flatten_by_view(kit, stored) -> None:
    source = kit.source(Viewing(), stored=stored)
    loop = kit.loop(kit.kd(), Viewing(), source, shift=1, flip=True)
    assert loop.trainable.contiguous
    assert len(loop.fit().history) == 2


def test_what_can_is_trained_channels_last(kit) -> None:
    loop = kit.loop(kit.kd(), kit.model("resnet8"), kit.source(kit.teacher()))
    assert not loop.trainable.contiguous
    weights = [p for p in loop.trainable.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
