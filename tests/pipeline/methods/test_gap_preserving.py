"""The loss of `gap-preserving` against NumPy, what it leaves, and its neutral settings."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.expansion import grow
from edgedistill.pipeline.methods.expansion_pair import DYNAMIC_TEACHER, Apart, Shared
from edgedistill.pipeline.methods.gap_preserving import (
    DYNAMIC,
    GapPreserving,
    check_lossless,
    smoothed_cross_entropy,
)

N, C = 6, 4
ALONE = {"ratio": 1, "branches": 1}


def gpd(**options: object) -> GapPreserving:
    return GapPreserving(GapPreserving.Options(**options))


def logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(N, C, generator=torch.Generator().manual_seed(seed)).double()


def batch(teacher: bool = True, **changes) -> Batch:
    given = {
        "student": logits(0).requires_grad_(), "teacher": logits(1) if teacher else None,
        "targets": torch.arange(N) % C, "epoch": 0, "progress": 0.0, "index": torch.arange(N),
        "student_features": {DYNAMIC: logits(2).requires_grad_()},
    }  # fmt: skip
    return Batch(**{**given, **changes})


def soft(x, temperature: float = 1.0) -> np.ndarray:
    e = np.exp(np.asarray(x.detach()) / temperature)
    return e / e.sum(1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * (np.log(p) - np.log(q))).sum(1)


def test_every_part_of_the_loss() -> None:
    given = batch()
    weights = torch.linspace(0, 1, N).double()
    parts = gpd(lambda_dt=2, lambda_static=0.5, temperature=3, smoothing=0.2).loss(
        batch(weights=weights), None
    )
    zs, zd, zt = given.student, given.student_features[DYNAMIC], given.teacher
    rows, labels, w = np.arange(N), np.arange(N) % C, weights.numpy()
    target = 0.8 * soft(zd) + 0.2 / C
    wanted = {
        "labels": -np.log(soft(zs)[rows, labels]).mean(),
        "teacher": 0.5 * 9 * (w * divergence(soft(zt, 3), soft(zs, 3))).mean(),
        "dynamic_labels": -np.log(soft(zd)[rows, labels]).mean(),
        "dynamic_teacher": 0.5 * 9 * (w * divergence(soft(zt, 3), soft(zd, 3))).mean(),
        "from_dynamic": 2 * (w * -(target * np.log(soft(zs))).sum(1)).mean(),
    }
    assert parts.keys() == wanted.keys()
    for name, value in wanted.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-12), name


def test_the_student_does_not_pull_its_teacher() -> None:
    given = batch()
    smoothed_cross_entropy(given.student, given.student_features[DYNAMIC], 0.1).backward()
    assert given.student_features[DYNAMIC].grad is None
    smoothing = 0.1 / C + 0.9 * torch.from_numpy(soft(given.student_features[DYNAMIC]))
    gradient = (torch.from_numpy(soft(given.student)) - smoothing) / N
    assert torch.allclose(given.student.grad, gradient, atol=1e-12)


def test_what_stands_under_with_is_the_dynamic_teacher_alone() -> None:
    method = gpd()
    parts = method.terms(batch(), None)
    assert parts.keys() == {"dynamic_labels", "dynamic_teacher", "from_dynamic"}
    assert method.terms(batch(teacher=False), None).keys() == {"dynamic_labels", "from_dynamic"}
    whole = method.loss(batch(), None)
    assert all(torch.equal(whole[name], value) for name, value in parts.items())


def test_parts_of_weight_zero_are_left_out() -> None:
    """Also where another method has asked for a teacher."""
    assert gpd(lambda_dt=0, lambda_static=0).loss(batch(), None).keys() == {
        "labels", "dynamic_labels",
    }  # fmt: skip
    assert gpd(**ALONE, lambda_static=0).loss(batch(), None).keys() == {"labels"}


def test_it_asks_for_what_it_needs() -> None:
    assert gpd().needs.student_taps == (DYNAMIC,)
    assert gpd().needs.teacher
    assert not gpd(lambda_static=0).needs.teacher
    assert gpd(**ALONE).needs.student_taps == ()


@pytest.mark.parametrize("wrong", [
    {"ratio": 0}, {"branches": 5}, {"lambda_dt": -1}, {"temperature": 0}, {"smoothing": 1},
    {"noise": -1e-6}, {"unheard_of": 1},
])  # fmt: skip
def test_options_are_checked(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GapPreserving.Options(**wrong)


@pytest.mark.parametrize("name", ["dscnn", "mlp"])
def test_neutral_is_plain_training_to_the_bit(kit, name) -> None:
    """A network that nothing is added to has no other network to teach it."""
    plain = kit.loop(kit.none(), kit.model(name)).fit()
    method = gpd(**ALONE, lambda_dt=0, lambda_static=0)
    neutral = kit.loop(method, kit.model(name)).fit()
    assert kit.equal(kit.weights(plain.student), kit.weights(neutral.student))
    assert kit.untimed(plain.history) == kit.untimed(neutral.history)


def test_neutral_with_a_teacher_is_kd_of_other_weights() -> None:
    given = batch()
    parts = gpd(**ALONE, lambda_static=9, temperature=4).loss(given, None)
    labels = F.cross_entropy(given.student, given.targets)
    p, q = (F.log_softmax(z / 4, 1) for z in (given.teacher, given.student))
    soft_ = 9 * 16 * F.kl_div(q, p, reduction="batchmean", log_target=True)
    assert parts.keys() == {"labels", "teacher"}
    assert torch.equal(parts["labels"], labels)
    assert torch.equal(parts["teacher"], soft_)


def test_without_sharing_and_lambda_it_is_two_trainings(kit) -> None:
    options = {"ratio": 2, "branches": 3, "lambda_dt": 0, "lambda_static": 0, "share": False}
    loop = kit.loop(gpd(**options), kit.model("dscnn"), epochs=3)
    loop.fit()
    alone = kit.loop(kit.none(), kit.model("dscnn"), epochs=3)
    alone.fit()
    teacher = grow(kit.model("dscnn"), 2, 3, 1e-6).teacher
    grown = kit.loop(kit.none(), teacher, epochs=3)
    grown.fit()
    # The pair holds the weights of its best epoch: those of the student, and the teacher's of then.
    pair = loop.trainable.student
    assert isinstance(pair, Apart)
    assert kit.equal(kit.weights(alone.trainable.student), kit.weights(pair.student()))
    twin = kit.loop(kit.none(), grow(kit.model("dscnn"), 2, 3, 1e-6).teacher, epochs=3)
    best = loop.state.best
    for _ in range(best + 1):
        twin._train_epoch()
        twin.state.epoch += 1
    assert kit.equal(kit.weights(twin.trainable.student), kit.weights(pair.teacher))


@pytest.mark.parametrize("name", ["dscnn", "resnet8", "mlp", "mobilenetv2"])
def test_a_whole_training_leaves_a_plain_student(kit, name) -> None:
    before = kit.weights(kit.model(name))
    loop = kit.loop(gpd(), kit.model(name), kit.teacher())
    result = loop.fit()
    network, x = loop.trainable.student.eval(), kit.split().inputs["image"]
    assert isinstance(network, Shared)
    after = kit.weights(result.student)
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    assert not kit.equal(before, after)
    assert type(result.student) is type(kit.model(name))
    with torch.no_grad():
        assert torch.allclose(result.student(x), network(x), atol=1e-5)
    parts = result.history[0]["loss"].keys() - {"total"}
    assert parts == {"labels", "teacher", "dynamic_labels", "dynamic_teacher", "from_dynamic"}


def test_it_learns_and_tells_of_the_gap(kit) -> None:
    train = kit.split(160)
    result = kit.loop(gpd(lambda_static=0), kit.model("dscnn"), train=train, epochs=6).fit()
    told = [record["method"] for record in result.history]
    first, last = told[0], told[-1]
    # One function at the start, but for the noise.
    assert first["student_train_accuracy"] == first["dynamic_teacher_train_accuracy"]
    assert 0 < first["replica_divergence"] < 1e-4 < last["replica_divergence"]
    assert last["student_train_accuracy"] > first["student_train_accuracy"] + 0.2
    (figure,) = result.figures
    assert figure.series.keys() == {"dynamic teacher", "student"}
    assert figure.series["student"] == (
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [100 * t["student_train_accuracy"] for t in told],
    )  # fmt: skip


def test_a_killed_training_goes_on_to_the_same_end(kit) -> None:
    class Killed(Exception):
        pass

    def die(epoch: int, student: nn.Module) -> None:
        if epoch == 2:
            raise Killed

    whole = kit.loop(gpd(), kit.model("dscnn"), kit.teacher(), epochs=3).fit()
    loop = kit.loop(gpd(), kit.model("dscnn"), kit.teacher(), epochs=3, on_epoch=die)
    with pytest.raises(Killed):
        loop.fit()
    again = kit.loop(gpd(), kit.model("dscnn"), kit.teacher(), epochs=3, scratch=loop.scratch).fit()
    assert kit.equal(kit.weights(whole.student), kit.weights(again.student))
    assert kit.untimed(whole.history) == kit.untimed(again.history)


def test_begin_epoch_looks_without_touching(kit) -> None:
    method = gpd()
    network = method.adopt(kit.model("resnet8")).train()
    network.teacher[0].eval()  # as someone may have frozen it
    before, split = kit.weights(network), kit.split()
    study = SimpleNamespace(
        network=network, history=[], targets=lambda name: split.targets,
        samples=lambda index: ({"image": split.inputs["image"][index]}, split.targets[index]),
    )  # fmt: skip
    told = method.begin_epoch(study, None)
    assert 0 <= told["student_train_accuracy"] <= 1
    assert kit.equal(before, kit.weights(network))
    assert network.training
    assert not network.teacher[0].training
    assert method.helpers(study) is None
    assert kit.equal(before, kit.weights(network))
    assert network.training
    assert gpd(**ALONE).begin_epoch(SimpleNamespace(network=kit.model()), None) == {}


class Deceiver(nn.Module):
    """Does something else where torch.fx does not look: in eval mode, or without gradients."""

    def __init__(self, honest, other) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.rand(4))
        self.honest, self.other = honest, other

    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        return self.head(x if self.honest(self) else self.other(self, x))


@pytest.mark.parametrize(("honest", "other", "message"), [
    (lambda m: m.training, lambda m, x: x.cumsum(1), r"cannot grow cumsum\(\) in forward\(\)"),
    (lambda m: torch.is_grad_enabled(), lambda m, x: x.cumsum(1), "another function: logits"),
    (lambda m: torch.is_grad_enabled(), lambda m, x: x * m.scale, "cannot take its inputs"),
])  # fmt: skip
def test_a_student_that_the_graph_does_not_tell_of_is_found_out(
    kit, honest, other, message
) -> None:
    with pytest.raises(TrainingError, match=message):
        kit.loop(gpd(), Deceiver(honest, other), kit.teacher())


def test_an_honest_student_is_let_through(kit) -> None:
    model = kit.model("resnet8")
    check_lossless(copy.deepcopy(model), kit.split().inputs["image"], ratio=3)
    # Of branches alone there is nothing to see.
    check_lossless(copy.deepcopy(model), kit.split().inputs["image"], ratio=1)


def test_finish_gives_back_a_student_that_was_not_grown(kit) -> None:
    model = kit.model("dscnn")
    assert gpd(**ALONE).adopt(model) is model
    assert gpd(**ALONE).finish(model) is model


def test_a_transformer_is_refused_by_name(kit) -> None:
    model = kit.model("transformer", width=8, heads=2)
    with pytest.raises(TrainingError, match=r"transpose\(\) in 'stem'"):
        gpd().adopt(model)


def test_the_network_answers_as_the_student(kit) -> None:
    model, x = kit.model("dscnn").eval(), kit.split().inputs["image"]
    network = gpd(noise=0).adopt(model)
    logits_, features = network.forward_with_taps(x, ["stem", DYNAMIC_TEACHER])
    assert torch.equal(network(x), model(x))
    assert torch.equal(logits_, model(x))
    assert torch.allclose(features[DYNAMIC_TEACHER], logits_, atol=1e-5)
