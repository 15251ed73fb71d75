"""What must hold exactly for `fitnets`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgedistill.pipeline.contracts import Batch, Tap
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.fitnets import FitNets, hint_loss, make_regressor
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.none import LabelsOnly

N, C = 6, 4
MIDDLE = Tap("middle")


@dataclass
class Shapes:
    """A study of which only the features' shapes are looked at."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    seed: int = 0

    def student_shape(self, tap: Tap) -> tuple[int, ...]:
        return self.student

    def teacher_shape(self, tap: Tap) -> tuple[int, ...]:
        return self.teacher

    def layer(self, role: str, tap: Tap) -> str:
        return {"student": "hidden3", "teacher": "stage2"}[role]


def fitnets(**options: Any) -> FitNets:
    return FitNets(FitNets.Options(**options))


def batch(progress: float = 0.0, student=(5,), teacher=(7,)) -> Batch:
    random = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn((N, C), generator=random, requires_grad=True),
        torch.randn((N, C), generator=random),
        torch.arange(N) % C,
        epoch=0,
        progress=progress,
        index=torch.arange(N),
        student_features={MIDDLE: torch.randn((N, *student), generator=random, requires_grad=True)},
        teacher_features={MIDDLE: torch.randn((N, *teacher), generator=random)},
    )


def test_equal_features_and_the_identity_as_regressor_have_no_loss() -> None:
    given = batch(student=(5,), teacher=(5,))
    same = given.student_features[MIDDLE]
    given = replace(given, teacher_features={MIDDLE: same.detach()})
    (loss,) = fitnets().loss(given, nn.Identity()).values()
    loss.backward()
    assert loss.item() == 0
    assert float(same.grad.abs().max()) == 0


def test_stage_1_is_half_the_mean_squared_difference() -> None:
    regressor, given = nn.Linear(5, 7), batch()
    parts = fitnets().loss(given, regressor)
    gap = regressor(given.student_features[MIDDLE]) - given.teacher_features[MIDDLE]
    assert parts.keys() == {"hint"}
    torch.testing.assert_close(parts["hint"], gap.square().sum() / (2 * N * 7))


def test_in_stage_1_the_regressor_and_the_feature_learn_and_nothing_else() -> None:
    regressor, given = nn.Linear(5, 7), batch()
    sum(fitnets().loss(given, regressor).values()).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in regressor.parameters())
    assert float(given.student_features[MIDDLE].grad.abs().max()) > 0
    assert given.student.grad is None
    assert given.teacher_features[MIDDLE].grad is None


def test_stage_2_has_no_hint_and_lambda_falls_from_4_to_1() -> None:
    method, kd = fitnets(hint_share=0.25), _kd(temperature=3, alpha=0.5)
    for progress, wanted in ((0.25, 4.0), (0.625, 2.5), (1.0, 1.0)):
        given = batch(progress)
        parts, plain = method.loss(given, nn.Linear(5, 7)), kd.loss(given, None)
        assert parts.keys() == {"labels", "teacher"}
        assert method.annealed(progress) == pytest.approx(wanted)
        torch.testing.assert_close(parts["teacher"], wanted * plain["teacher"])
        assert torch.equal(parts["labels"], plain["labels"])
    assert method.loss(batch(0.2499), nn.Linear(5, 7)).keys() == {"hint"}


def test_one_stage_adds_the_hint_to_kd_all_the_time() -> None:
    regressor, method = nn.Linear(5, 7), fitnets(stages="one")
    for progress in (0.0, 0.9):
        given = batch(progress)
        parts, plain = (
            method.loss(given, regressor),
            _kd(temperature=3, alpha=0.5).loss(given, None),
        )
        hint = hint_loss(regressor(given.student_features[MIDDLE]), given.teacher_features[MIDDLE])
        torch.testing.assert_close(parts["hint"], 100 * hint)
        assert all(torch.equal(parts[name], plain[name]) for name in ("labels", "teacher"))


NEUTRAL = [
    {"stages": "one", "beta": 0},
    {"stages": "two", "hint_share": 0, "anneal_from": 1},
]


@pytest.mark.parametrize("options", NEUTRAL)
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_without_hints_it_is_kd_or_none_bit_for_bit(options: dict[str, Any], alpha: float) -> None:
    method = fitnets(**options, alpha=alpha, temperature=5)
    kd = _kd(alpha=alpha, temperature=5)
    assert method.needs == kd.needs
    assert method.helpers(Shapes((5,), (7,))) is None
    for progress in (0.0, 0.5, 1.0):
        given = batch(progress)
        parts, plain = method.loss(given, None), kd.loss(given, None)
        assert parts.keys() == plain.keys()
        assert all(torch.equal(parts[name], plain[name]) for name in plain)
        if alpha == 0:
            none = LabelsOnly(LabelsOnly.Options()).loss(given, None)
            assert torch.equal(parts["labels"], none["labels"])


@pytest.mark.parametrize("options", NEUTRAL)
def test_without_hints_a_whole_training_is_that_of_kd_bit_for_bit(kit, options) -> None:
    method = fitnets(**options, alpha=0.9, temperature=4)
    got, wanted = (kit.loop(m, kit.model(seed=4), kit.teacher()).fit() for m in (method, kit.kd()))
    assert kit.equal(got.student.state_dict(), wanted.student.state_dict())


def test_weights_are_those_of_what_the_teacher_says() -> None:
    regressor = nn.Linear(5, 7)
    weights = torch.linspace(0, 2, N)
    for method, progress in ((fitnets(), 0.9), (fitnets(stages="one"), 0.0)):
        given = batch(progress)
        weighted = method.loss(replace(given, weights=weights), regressor)
        plain = method.loss(given, regressor)
        told = plain.keys() - {"labels"}
        assert all(not torch.isclose(weighted[n], plain[n]) for n in told)
        assert all(torch.equal(weighted[n], plain[n]) for n in plain if n not in told)


def test_a_sample_of_no_weight_gives_no_hint() -> None:
    given = batch(0.0)
    silent = fitnets().loss(replace(given, weights=torch.zeros(N)), nn.Linear(5, 7))
    assert float(silent["hint"]) == 0.0
    same = fitnets().loss(replace(given, weights=torch.ones(N)), regressor := nn.Linear(5, 7))
    torch.testing.assert_close(same["hint"], fitnets().loss(given, regressor)["hint"])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((5,), (7,)), ((9, 5), (9, 7)), ((3, 8, 8), (6, 8, 8)), ((3, 8, 8), (6, 4, 4)),
        ((6, 5, 9), (2, 5, 1)),
    ],
)  # fmt: skip
def test_the_regressor_makes_the_shapes_equal(student, teacher) -> None:
    regressor = make_regressor(student, teacher)
    assert regressor(torch.randn(2, *student)).shape == (2, *teacher)
    if len(student) == 3:
        sides = zip(student[1:], teacher[1:], strict=True)
        assert regressor.kernel_size == tuple(s - t + 1 for s, t in sides)
        assert regressor.bias is not None


@pytest.mark.parametrize(
    ("student", "teacher", "told"),
    [
        ((3, 4, 4), (6, 8, 8), "smaller"),
        ((3, 8, 4), (6, 8, 8), "smaller"),
        ((5,), (6, 8, 8), "one kind"),
        ((9, 5), (5,), "one kind"),
        ((9, 5), (4, 5), "as many tokens; they have 9 and 4"),
    ],
)
def test_shapes_that_do_not_fit_are_told_with_the_layers_and_the_settings(
    student, teacher, told
) -> None:
    with pytest.raises(TrainingError, match=told) as caught:
        fitnets().helpers(Shapes(student, teacher))
    message = caught.value.message
    assert all(part in message for part in ("hidden3", "stage2", str(student), str(teacher)))
    assert "student_layer" in caught.value.hint
    assert "teacher_layer" in caught.value.hint


def test_the_regressor_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = fitnets().helpers(Shapes((5,), (7,), seed=3))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    second = fitnets().helpers(Shapes((5,), (7,), seed=3))
    other = fitnets().helpers(Shapes((5,), (7,), seed=4))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_stage_1_leaves_the_layers_above_the_guided_one_alone(kit) -> None:
    student, weights = kit.model(seed=4), []
    before = kit.weights(student)
    loop = kit.loop(
        fitnets(hint_share=0.5), student, kit.teacher(), epochs=2,
        on_epoch=lambda epoch, student: weights.append(kit.weights(student)),
    )  # fmt: skip
    loop.fit()
    names = [name for name, _ in student.named_parameters()]
    taps = list(student.taps)
    above = taps[taps.index(loop.study.layer("student", MIDDLE)) + 1 :]
    first, second = (
        {name for name in names if not torch.equal(old[name], new[name])}
        for old, new in ((before, weights[0]), (weights[0], weights[1]))
    )
    assert first == {name for name in names if name.split(".")[0] not in above}
    assert second == set(names)
    assert {"stage3", "stage4", "head"} == set(above)


def test_the_hint_is_learned_and_the_regressor_is_not_in_the_student(kit) -> None:
    method = fitnets(hint_share=0.9)
    loop = kit.loop(method, kit.model(seed=4), kit.teacher(), epochs=10, schedule="constant")
    result = loop.fit()
    hints = [record["loss"]["hint"] for record in result.history if "hint" in record["loss"]]
    assert len(hints) == 9
    assert hints[-1] < 0.7 * hints[0]
    assert isinstance(loop.trainable.helpers, nn.Conv2d)
    assert result.student.state_dict().keys() == kit.model().state_dict().keys()


def test_a_student_with_the_smaller_map_is_refused_by_name(kit) -> None:
    method = fitnets(student_layer="last", teacher_layer="stem")
    with pytest.raises(TrainingError, match="'stage4' of the student") as caught:
        kit.loop(method, kit.model(), kit.teacher())
    assert "'stem' of the teacher" in caught.value.message


@pytest.mark.parametrize(
    "wrong", [{"hint_share": 1}, {"hint_share": -0.1}, {"stages": "three"}, {"beta": -1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FitNets.Options(**wrong)


def _kd(**options: float) -> KnowledgeDistillation:
    return KnowledgeDistillation(KnowledgeDistillation.Options(**options))
