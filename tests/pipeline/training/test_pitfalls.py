"""What distillation frameworks got wrong, one test each.

The numbers are those of a checklist of known faults; those that are missing here concern what does
not exist yet (several processes; 12, a warm-up of the distillation's weight) or are tested
elsewhere (caches and features beside their code; 28 after export).
"""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedistill.pipeline.contracts import Method, Needs
from edgedistill.pipeline.errors import ModelError
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.losses import soft_divergence
from edgedistill.pipeline.training.checkpoint import FILE
from edgedistill.pipeline.training.signals import LiveTeacher, check_apart

IMAGES = torch.randn((5, 1, 8, 8), generator=torch.Generator().manual_seed(3))


class Watching(KnowledgeDistillation):
    """`kd` that shows each batch, and the loss that it gives, to a function."""

    def __init__(self, options, watch) -> None:
        super().__init__(options)
        self.watch = watch

    def helpers(self, study):
        self.student = study.network

    def loss(self, batch, helpers):
        parts = super().loss(batch, helpers)
        self.watch(self.student, batch, parts)
        return parts


class Spy(nn.Module):
    """Records what the network inside is asked."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, x.clone()))
        return self.inner(x)


class Projected(Method):
    """Labels only, through a trainable layer and a buffer that are not the student's."""

    needs = Needs(labels=True, teacher=False)

    def helpers(self, study):
        projector = nn.Linear(3, 3)
        projector.register_buffer("steps", torch.zeros(()))
        return projector

    def loss(self, batch, helpers):
        helpers.steps += 1
        return {"labels": F.cross_entropy(helpers(batch.student), batch.targets)}


def watching(watch, **options) -> Watching:
    return Watching(KnowledgeDistillation.Options(**options), watch)


def test_01_teacher_is_in_eval_at_every_step(kit) -> None:
    teacher = nn.Sequential(kit.teacher(), nn.Dropout(0.5))
    spy = Spy(teacher)
    before = kit.weights(spy)
    assert any("running_mean" in key for key in before)
    loop = kit.loop(kit.kd(), teacher=spy, progress=lambda *_: spy.train())
    loop.fit()
    assert len(spy.seen) == loop.steps
    assert not any(training for training, _ in spy.seen)
    assert kit.equal(before, kit.weights(spy))
    live = LiveTeacher(spy.train(), torch.device("cpu"))
    assert torch.equal(live.logits({"image": IMAGES}), live.logits({"image": IMAGES}))


def test_02_teacher_has_no_gradient_and_is_not_optimised_or_stored(kit) -> None:
    teacher, wanted = kit.teacher(), []
    method = watching(lambda student, batch, parts: wanted.append(batch.teacher.requires_grad))
    loop = kit.loop(method, teacher=teacher)
    loop.fit()
    assert wanted
    assert not any(wanted)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    optimised = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in loop.trainable.student.parameters()}
    stored = torch.load(loop.scratch / FILE, weights_only=True)
    assert stored["trainable"].keys() == {f"student.{key}" for key in kit.model().state_dict()}
    assert len(stored["optimizer"]["state"]) == len(optimised)


@pytest.mark.parametrize("part", ["module", "parameter", "everything"])
def test_03_teacher_and_student_share_nothing(kit, part) -> None:
    student, teacher = kit.model(seed=1), kit.model(seed=2)
    check_apart(teacher, student)
    if part == "module":
        teacher.stage1 = student.stage1
    elif part == "parameter":
        teacher.head[2].bias = student.head[2].bias
    else:
        teacher = student
    with pytest.raises(ModelError, match="share") as caught:
        check_apart(teacher, student)
    named = {"module": "stage1", "parameter": "head.2.bias", "everything": "the whole model"}
    assert named[part] in caught.value.message


def test_05_student_is_back_in_train_mode_after_each_validation(kit) -> None:
    modes = []

    def watch(student, batch, parts) -> None:
        modes.append({module.training for module in student.modules()})

    loop = kit.loop(watching(watch, alpha=0.5), teacher=kit.teacher(), epochs=3)
    result = loop.fit()
    assert modes == [{True}] * loop.steps
    assert not any(module.training for module in result.student.modules())


def test_06_divergence_is_a_mean_over_the_batch_not_over_the_classes() -> None:
    student, teacher = (torch.randn((8, 10), dtype=torch.float64) for _ in range(2))
    p, q = teacher.softmax(1).numpy(), student.softmax(1).numpy()
    by_hand = float(np.sum(p * (np.log(p) - np.log(q)))) / 8
    assert float(soft_divergence(student, teacher, 1.0)) == pytest.approx(by_hand, rel=1e-12)
    twice = soft_divergence(student.repeat(2, 1), teacher.repeat(2, 1), 1.0)
    assert float(twice) == pytest.approx(by_hand, rel=1e-12)


def test_07_temperature_squared_keeps_the_gradient_at_one_scale(kit) -> None:
    random = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn((64, 10), generator=random) for _ in range(2))
    norms = []
    for temperature in (1.0, 2.0, 4.0, 8.0):
        student = logits.clone().requires_grad_()
        soft_divergence(student, teacher, temperature).backward()
        norms.append(float(student.grad.norm()))
    assert max(norms) < 2 * min(norms)  # without T^2: a factor of about 64


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_08_direction_is_teacher_against_student(temperature) -> None:
    teacher = temperature * torch.tensor([[0.98, 0.01, 0.01]], dtype=torch.float64).log()
    student = temperature * torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    forward = 0.98 * math.log(0.98 / 0.5) + 2 * 0.01 * math.log(0.01 / 0.25)
    backward = 0.5 * math.log(0.5 / 0.98) + 2 * 0.25 * math.log(0.25 / 0.01)
    assert backward > 2 * forward  # the wrong order would be seen
    got = float(soft_divergence(student, teacher, temperature))
    assert got == pytest.approx(temperature**2 * forward, rel=1e-12)


def test_09_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    student = torch.randn((8, 10), dtype=torch.float64, requires_grad=True)
    loss = soft_divergence(student, student.detach().clone(), 4.0)
    loss.backward()
    assert abs(loss.item()) < 1e-15
    assert float(student.grad.abs().max()) < 1e-15


def test_10_the_loss_is_fp32_under_mixed_precision(kit) -> None:
    seen, inside = [], []

    def watch(student, batch, parts) -> None:
        tensors = (batch.student, batch.teacher, *parts.values())
        seen.append(({t.dtype for t in tensors}, torch.is_autocast_enabled("cpu")))

    student = kit.model()
    student.head.register_forward_hook(lambda module, args, out: inside.append(out.dtype))
    loop = kit.loop(watching(watch), student, kit.teacher(), epochs=1, precision="bf16-mixed")
    inside.clear()  # setting up tried the layout of its features
    loop.fit()
    assert set(inside) == {torch.bfloat16}  # mixed precision was really on
    assert seen == [({torch.float32}, False)] * loop.steps
    assert {p.dtype for p in student.parameters()} == {torch.float32}


def test_13_teacher_and_student_see_the_same_pixels(kit) -> None:
    teacher, student = Spy(kit.teacher()), Spy(kit.model())
    loop = kit.loop(kit.kd(), student, teacher, shift=2, flip=True)
    loop.fit()
    learned = [x for training, x in student.seen if training]
    asked = [x for _, x in teacher.seen]
    assert len(learned) == len(asked) == loop.steps
    assert all(torch.equal(a, b) for a, b in zip(learned, asked, strict=True))
    assert not torch.equal(learned[0], learned[loop.steps // 2])  # epochs differ


def test_17_helpers_are_trained_and_stored_but_not_exported(kit) -> None:
    loop = kit.loop(Projected(), epochs=3)
    first, keys = kit.weights(loop.trainable.helpers), kit.model().state_dict().keys()
    optimised = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in loop.trainable.helpers.parameters()} <= optimised
    loop._train_epoch()
    assert not torch.equal(first["weight"], loop.trainable.helpers.weight)

    whole = kit.loop(Projected(), epochs=3)
    student = whole.fit().student
    assert student.state_dict().keys() == keys
    stored = torch.load(whole.scratch / FILE, weights_only=True)["trainable"]
    assert {key for key in stored if key.startswith("helpers.")} == {
        "helpers.weight", "helpers.bias", "helpers.steps",
    }  # fmt: skip
    again = kit.loop(Projected(), scratch=whole.scratch, epochs=3)
    again.fit()  # nothing is left to do: this is what the checkpoint restored
    assert kit.equal(kit.weights(whole.trainable.helpers), kit.weights(again.trainable.helpers))
    assert int(again.trainable.helpers.steps) == whole.steps


@pytest.mark.parametrize("name", ["kd", "none"])
def test_24_the_finished_student_is_bare(kit, name) -> None:
    teacher = kit.teacher() if name == "kd" else None
    student = kit.loop(getattr(kit, name)(), teacher=teacher).fit().student
    for module in student.modules():
        hooks = [v for k, v in vars(module).items() if k.endswith("_hooks") and v]
        assert hooks == []
    assert type(student) is type(kit.model())
    assert student.state_dict().keys() == kit.model().state_dict().keys()
    for copied in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        assert torch.equal(copied(IMAGES), student(IMAGES))


def test_26_the_best_epoch_of_the_validation_split_is_kept_and_the_last_recorded(kit) -> None:
    epochs, snapshots = 4, []
    keep = lambda epoch, student: snapshots.append(copy.deepcopy(student))  # noqa: E731
    kit.loop(on_epoch=keep, epochs=epochs, lr=0.03, schedule="constant").fit()
    validation = kit.split(60, seed=5)
    answers = [m.eval()(validation.inputs["image"]).argmax(1) for m in snapshots]
    assert not torch.equal(answers[1], answers[3])
    validation.targets[:] = answers[1]  # so the second epoch is all right on validation
    result = kit.loop(validation=validation, epochs=epochs, lr=0.03, schedule="constant").fit()
    assert result.best == 1
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    assert result.history[1]["validation_accuracy"] == 1.0
    assert result.history[-1]["validation_accuracy"] < 1.0
    assert kit.equal(result.student.state_dict(), snapshots[1].state_dict())


def test_26_of_equal_accuracies_the_lower_loss_is_kept(kit) -> None:
    result = kit.loop(epochs=5, validation=kit.split(3, seed=1)).fit()
    ranks = [(r["validation_accuracy"], -r["validation_loss"]) for r in result.history]
    assert len({accuracy for accuracy, _ in ranks}) < len(ranks)
    assert result.best == max(range(5), key=ranks.__getitem__)


@pytest.mark.parametrize("model", ["dscnn", "mlp"])
def test_27_the_seed_decides_the_weights(kit, model) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        student = kit.model(model)
        return kit.loop(student=student, seed=seed, shift=1, flip=True).fit().student.state_dict()

    first = trained(0)
    assert kit.equal(first, trained(0))
    assert not kit.equal(first, trained(1))


def test_labels_are_never_read_where_none_are_needed(kit) -> None:
    split = kit.split()
    lies = type(split)(split.inputs, (split.targets + 1) % kit.classes)
    results = [
        kit.loop(kit.kd(alpha=1), teacher=kit.teacher(), train=train).fit().student.state_dict()
        for train in (split, lies)
    ]
    assert kit.equal(*results)


def test_without_weight_on_the_teacher_kd_is_none_to_the_bit(kit) -> None:
    results = [
        kit.loop(method, student=kit.model("mlp"), shift=1).fit()
        for method in (kit.kd(alpha=0), kit.none())
    ]
    assert kit.equal(*(r.student.state_dict() for r in results))
    assert kit.untimed(results[0].history) == kit.untimed(results[1].history)
