"""What must hold exactly for `attention-transfer`, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from edgedistill.pipeline.contracts import Batch, Tap
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.attention_transfer import (
    AttentionTransfer,
    attention_loss,
    attention_map,
)
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.training.taps import reduce

N, C = 6, 4
PAIRS = [Tap("middle", "attention"), Tap("last", "attention")]


def feature(seed: int, channels: int = 5, side: int = 4) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn((N, channels, side, side), generator=random, dtype=torch.float64)


def transfer(**options: Any) -> AttentionTransfer:
    return AttentionTransfer(AttentionTransfer.Options(**options))


def batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    student = torch.randn((N, C), generator=random, dtype=torch.float64, requires_grad=True)
    return Batch(
        student,
        torch.randn((N, C), generator=random, dtype=torch.float64),
        torch.arange(N) % C,
        epoch=0,
        progress=0.0,
        index=torch.arange(N),
        student_features={t: attention_map(feature(i)) for i, t in enumerate(PAIRS)},
        teacher_features={t: attention_map(feature(i + 9, 8, 2)) for i, t in enumerate(PAIRS)},
    )


def test_channels_may_be_permuted_and_their_scale_is_nothing() -> None:
    f, other = feature(0), attention_map(feature(1, channels=9))
    base = attention_loss(attention_map(f), other)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    for same in (f[:, order], 7.5 * f, -f, 1e-3 * f):
        torch.testing.assert_close(attention_loss(attention_map(same), other), base)
    assert not torch.isclose(attention_loss(attention_map(f.flip(3)), other), base)


def test_sum_and_mean_over_the_channels_are_the_same() -> None:
    f, other = feature(0), attention_map(feature(1))
    summed = f.square().sum(1)
    torch.testing.assert_close(
        attention_loss(summed, other), attention_loss(attention_map(f), other)
    )


def test_the_loop_reduces_a_feature_to_its_attention_map() -> None:
    assert torch.equal(reduce(feature(0), PAIRS[0], "stage1"), attention_map(feature(0)))


def test_equal_maps_have_no_loss_and_no_gradient() -> None:
    student = attention_map(feature(0)).requires_grad_()
    loss = attention_loss(student, 3 * student.detach())
    loss.backward()
    assert loss.item() < 1e-30
    assert float(student.grad.abs().max()) < 1e-15


def test_it_is_the_mean_of_the_squared_differences_of_unit_maps() -> None:
    a, b = attention_map(feature(0)).flatten(1), attention_map(feature(1)).flatten(1)
    gap = a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)
    got = attention_loss(a.view(N, 4, 4), b.view(N, 4, 4))
    torch.testing.assert_close(got, gap.square().sum() / (N * 16))


@pytest.mark.parametrize("side", [2, 4, 7])
def test_a_sample_costs_at_most_4_over_the_positions(side: int) -> None:
    one, far = torch.zeros(2, 1, side, side, dtype=torch.float64)
    one[0, 0, 0], far[0, -1, -1] = 1, 1
    # Maps of squares do not oppose each other; the bound is that of any two unit vectors.
    assert float(attention_loss(one, far)) == pytest.approx(2 / side**2)
    assert float(attention_loss(one, -one)) == pytest.approx(4 / side**2)
    for seed in range(20):
        a, b = (attention_map(feature(s, side=side)) for s in (seed, seed + 100))
        assert float(attention_loss(a, b)) <= 4 / side**2


@pytest.mark.parametrize(("ours", "theirs"), [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((4, 8), (8, 2))])
def test_of_two_maps_the_larger_is_pooled(ours, theirs) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand((N, *size), generator=random, dtype=torch.float64) for size in (ours, theirs)
    )
    size = [min(pair) for pair in zip(ours, theirs, strict=True)]
    small = [_blocks(maps, *size) for maps in (a, b)]
    torch.testing.assert_close(attention_loss(a, b), attention_loss(*small))


def _blocks(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Means over equal blocks."""
    rows, columns = maps.shape[1] // height, maps.shape[2] // width
    return maps.view(N, height, rows, width, columns).mean((2, 4))


def test_dead_maps_and_huge_ones_stay_finite_in_fp32() -> None:
    for scale in (0.0, 1e-12, 1e12):
        student = (scale * feature(0).float()).requires_grad_()
        loss = attention_loss(attention_map(student), attention_map(feature(1).float()))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()


def test_the_loss_is_the_labels_and_beta_times_the_sum_over_the_pairs() -> None:
    given = batch()
    parts = transfer().loss(given, None)
    terms = [attention_loss(given.student_features[t], given.teacher_features[t]) for t in PAIRS]
    assert parts.keys() == {"labels", "attention"}
    torch.testing.assert_close(parts["attention"], 1000 * (terms[0] + terms[1]))
    assert torch.equal(parts["labels"], _none(given)["labels"])
    assert not transfer().needs.teacher


def test_the_kd_term_is_that_of_kd() -> None:
    given = batch()
    parts, kd = transfer(alpha=0.9).loss(given, None), _kd(alpha=0.9).loss(given, None)
    assert parts.keys() == {*kd, "attention"}
    assert all(torch.equal(parts[name], kd[name]) for name in kd)


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_without_beta_it_is_kd_or_none_bit_for_bit(alpha: float) -> None:
    method, kd, given = transfer(beta=0, alpha=alpha), _kd(alpha=alpha), batch()
    assert method.needs == kd.needs
    parts, wanted = method.loss(given, None), kd.loss(given, None)
    assert parts.keys() == wanted.keys()
    assert all(torch.equal(parts[name], wanted[name]) for name in wanted)
    if alpha == 0:
        assert torch.equal(parts["labels"], _none(given)["labels"])


def test_without_beta_a_whole_training_is_that_of_kd_bit_for_bit(kit) -> None:
    got, wanted = (
        kit.loop(method, kit.model(seed=4), kit.teacher()).fit()
        for method in (transfer(beta=0, alpha=0.9), kit.kd())
    )
    assert kit.equal(got.student.state_dict(), wanted.student.state_dict())


def test_weights_are_those_of_attention_and_kd_and_are_not_normalised() -> None:
    given, method = batch(), transfer(alpha=0.5)
    weights = torch.linspace(0, 2, N, dtype=torch.float64)
    weighted, plain = method.loss(replace(given, weights=weights), None), method.loss(given, None)
    assert torch.equal(weighted["labels"], plain["labels"])
    assert not torch.isclose(weighted["teacher"], plain["teacher"])
    ours, theirs = given.student_features, given.teacher_features
    each = torch.stack(
        [sum(attention_loss(ours[t][[i]], theirs[t][[i]]) for t in PAIRS) for i in range(N)]
    )
    torch.testing.assert_close(weighted["attention"], 1000 * (weights * each).sum() / N)


def test_a_layer_in_two_pairs_is_asked_for_once() -> None:
    method = transfer(layers=[["last", "middle"], ["last", "last"]])
    assert method.needs.student_taps == (Tap("last", "attention"),)
    assert method.needs.teacher_taps == tuple(PAIRS)


def test_in_the_loop_attention_becomes_alike_and_nothing_stays_on_the_student(kit) -> None:
    method = transfer(layers=[["stage1", "stage1"]])
    loop = kit.loop(method, kit.model(seed=4), kit.teacher(), epochs=8, schedule="constant")
    result = loop.fit()
    losses = [record["loss"]["attention"] for record in result.history]
    assert losses[-1] < 0.8 * losses[0]
    assert loop.trainable.helpers is None
    assert result.student.state_dict().keys() == kit.model().state_dict().keys()


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_feature_without_space_is_refused_by_name_and_shape(kit, role: str) -> None:
    models = {"student": kit.model(), "teacher": kit.teacher(), role: kit.model("mlp")}
    with pytest.raises(TrainingError, match=r"expected a map \(N, C, H, W\)") as caught:
        kit.loop(transfer(), models["student"], models["teacher"])
    message = caught.value.message
    assert role in message
    assert "'hidden" in message
    assert "16)" in message
    assert "layers" in caught.value.hint


def test_a_pair_with_one_position_is_left_alone_beside_one_with_more(kit) -> None:
    loop = kit.loop(transfer(), kit.model(), kit.teacher())  # 2x2 in the middle, 1x1 at the end
    assert loop.study.teacher_shape(PAIRS[1]) == (1, 1)
    assert loop.study.teacher_shape(PAIRS[0]) == (2, 2)


def test_maps_of_one_position_alone_are_refused(kit) -> None:
    method = transfer(layers=[["stage2", "stage3"]])
    with pytest.raises(TrainingError, match="one position") as caught:
        kit.loop(method, kit.model(), kit.teacher())
    assert "layers" in caught.value.hint


@pytest.mark.parametrize(
    "wrong", [{"layers": []}, {"layers": [["middle"]]}, {"beta": -1}, {"alpha": 2}, {"kd": True}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AttentionTransfer.Options(**wrong)


def _kd(**options: float) -> KnowledgeDistillation:
    return KnowledgeDistillation(KnowledgeDistillation.Options(**options))


def _none(given: Batch) -> dict[str, torch.Tensor]:
    return dict(LabelsOnly(LabelsOnly.Options()).loss(given, None))
