"""What must hold exactly for `kd` and its variants, in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.calibration import ece, fit_temperature
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.losses import soft_divergence, standardize
from edgedistill.pipeline.methods.none import LabelsOnly

N, C = 8, 10


class Unreadable:
    """Labels that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the labels were read: {name}")

    @classmethod
    def __torch_function__(cls, *args: object, **kwargs: object) -> object:
        raise AssertionError("the labels were read")


def logits(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3 * torch.randn((N, C), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kd(**options: float) -> KnowledgeDistillation:
    return KnowledgeDistillation(KnowledgeDistillation.Options(**options))


def batch(student: torch.Tensor, teacher: torch.Tensor | None, targets=None) -> Batch:
    targets = torch.arange(N) if targets is None else targets
    return Batch(student, teacher, targets, epoch=0, progress=0.0, index=torch.arange(N))


def total(method: KnowledgeDistillation, *args: object) -> torch.Tensor:
    return sum(method.loss(batch(*args), None).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_the_teacher_it_is_cross_entropy_bit_for_bit(dtype: torch.dtype) -> None:
    student = logits(0, dtype)
    parts = kd(alpha=0).loss(batch(student, None), None)
    none = LabelsOnly(LabelsOnly.Options()).loss(batch(student, None), None)
    assert parts.keys() == none.keys() == {"labels"}
    assert torch.equal(parts["labels"], none["labels"])
    assert torch.equal(parts["labels"], F.cross_entropy(student, torch.arange(N)))
    assert not kd(alpha=0).needs.teacher


def test_a_perfect_student_has_no_loss_and_no_gradient() -> None:
    student = logits(0).requires_grad_()
    loss = total(kd(alpha=1), student, logits(0))
    loss.backward()
    assert abs(loss.item()) < 1e-14
    assert float(student.grad.abs().max()) < 1e-14


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_gradient_is_the_published_one(temperature: float, alpha: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    total(kd(alpha=alpha, temperature=temperature), student, teacher).backward()
    z, one_hot = student.detach(), F.one_hot(torch.arange(N), C)
    gap = (z / temperature).softmax(1) - (teacher / temperature).softmax(1)
    soft = alpha * temperature * gap / N
    hard = (1 - alpha) * (z.softmax(1) - one_hot) / N
    assert float((student.grad - soft - hard).abs().max()) < 1e-12


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    student, teacher = logits(0), logits(1)
    moved = torch.linspace(-50, 50, N, dtype=torch.float64)[:, None]
    for temperature in (1.0, 4.0):
        base = soft_divergence(student, teacher, temperature)
        for other in ((student + moved, teacher), (student, teacher - moved)):
            torch.testing.assert_close(
                soft_divergence(*other, temperature), base, rtol=1e-12, atol=0
            )


def test_averaging_over_the_classes_would_be_too_small_by_their_number() -> None:
    student, teacher = logits(0), logits(1)
    per_element = F.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
    )
    ratio = float(soft_divergence(student, teacher, 1.0) / per_element.mean())
    assert ratio == pytest.approx(C, rel=1e-12)


def test_at_a_high_temperature_it_matches_the_logits() -> None:
    teacher = logits(1) - logits(1).mean(1, keepdim=True)
    errors = []
    for temperature in (4.0, 20.0, 1000.0):
        student = (logits(0) - logits(0).mean(1, keepdim=True)).requires_grad_()
        soft_divergence(student, teacher, temperature).backward()
        limit = (student.detach() - teacher) / (N * C)
        errors.append(float((student.grad - limit).norm() / limit.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_no_gradient_reaches_a_teacher_that_is_detached_by_its_source() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    total(kd(), student, teacher.detach()).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_labels_are_not_read_where_they_have_no_weight() -> None:
    method = kd(alpha=1)
    assert not method.needs.labels
    parts = method.loss(batch(logits(0), logits(1), Unreadable()), None)
    assert set(parts) == {"teacher"}
    with pytest.raises(AssertionError, match="the labels were read"):
        kd(alpha=0.5).loss(batch(logits(0), logits(1), Unreadable()), None)


def test_the_parts_are_mixed_by_alpha() -> None:
    student, teacher = logits(0), logits(1)
    parts = kd(alpha=0.25, temperature=3).loss(batch(student, teacher), None)
    hard, soft = F.cross_entropy(student, torch.arange(N)), soft_divergence(student, teacher, 3.0)
    torch.testing.assert_close(parts["labels"], 0.75 * hard)
    torch.testing.assert_close(parts["teacher"], 0.25 * soft)


def test_extreme_logits_stay_finite_in_fp32() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = soft_divergence(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0}, {"alpha": 1.5}, {"alpha": -1}, {"a": 1},
        {"hard": True, "standardize": True}, {"hard": True, "calibrate": True},
        {"standardize": True, "calibrate": True},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        KnowledgeDistillation.Options(**wrong)


VARIANTS = [{}, {"hard": True}, {"standardize": True}]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_reads_labels_at_alpha_1_or_the_teacher_at_alpha_0(variant) -> None:
    free, plain = kd(alpha=1, **variant), kd(alpha=0, **variant)
    assert not free.needs.labels
    assert set(free.loss(batch(logits(0), logits(1), Unreadable()), None)) == {"teacher"}
    assert not plain.needs.teacher
    parts = plain.loss(batch(logits(0), logits(1)), None)
    assert torch.equal(parts.pop("labels"), F.cross_entropy(logits(0), torch.arange(N)))
    assert not parts


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_those_of_the_teacher_term_and_are_not_normalised(variant) -> None:
    method, given = kd(alpha=0.5, **variant), batch(logits(0), logits(1))
    weights = torch.linspace(0, 2, N, dtype=torch.float64)
    whole = method.loss(replace(given, weights=weights), None)
    each = torch.stack([_only(method, given, i)["teacher"] for i in range(N)])
    torch.testing.assert_close(whole["teacher"], (weights * each).sum() / N)
    plain = method.loss(given, None)
    assert torch.equal(whole["labels"], plain["labels"])
    ones = method.loss(replace(given, weights=torch.ones(N, dtype=torch.float64)), None)
    torch.testing.assert_close(ones["teacher"], plain["teacher"], rtol=1e-12, atol=0)


def _only(method: KnowledgeDistillation, given: Batch, i: int):
    row = slice(i, i + 1)
    one = replace(
        given,
        student=given.student[row], teacher=given.teacher[row], targets=given.targets[row],
        index=given.index[row],
    )  # fmt: skip
    return method.loss(one, None)


def test_hard_is_cross_entropy_with_the_answers_of_the_teacher() -> None:
    student, teacher = logits(0), logits(1)
    parts = kd(alpha=0.5, hard=True, temperature=7).loss(batch(student, teacher), None)
    expected = 0.5 * F.cross_entropy(student, teacher.argmax(1))
    assert torch.equal(parts["teacher"], expected)
    colder = kd(alpha=0.5, hard=True).loss(batch(student, 100 * teacher), None)
    assert torch.equal(parts["teacher"], colder["teacher"])


def test_hard_with_a_perfect_teacher_is_cross_entropy() -> None:
    student, right = logits(0), F.one_hot(torch.arange(N), C).double()
    none = F.cross_entropy(student, torch.arange(N))
    torch.testing.assert_close(total(kd(alpha=0.3, hard=True), student, right), none)


def test_standardised_rows_have_mean_0_and_deviation_1() -> None:
    z = standardize(5 * logits(0) + 3)
    torch.testing.assert_close(z.mean(1), torch.zeros(N, dtype=z.dtype), rtol=0, atol=1e-14)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(N, dtype=z.dtype))
    torch.testing.assert_close(standardize(z), z)


def test_standardized_kd_ignores_shift_and_positive_scale_of_either_row() -> None:
    student, teacher = logits(0), logits(1)
    scale = torch.linspace(0.1, 30, N, dtype=torch.float64)[:, None]
    shift = torch.linspace(-50, 50, N, dtype=torch.float64)[:, None]
    method = kd(alpha=1, standardize=True)
    base = total(method, student, teacher)
    for moved in ((scale * student + shift, teacher), (student, scale * teacher + shift)):
        torch.testing.assert_close(total(method, *moved), base, rtol=1e-9, atol=0)
    assert not torch.isclose(total(method, student, -teacher), base)
    scaled_student = (2 * teacher + 1).requires_grad_()
    loss = total(method, scaled_student, teacher)
    loss.backward()
    assert abs(loss.item()) < 1e-14
    assert float(scaled_student.grad.abs().max()) < 1e-14


def test_standardize_changes_nothing_for_logits_that_are_standard_already() -> None:
    student, teacher = standardize(logits(0)), standardize(logits(1))
    torch.testing.assert_close(
        total(kd(standardize=True), student, teacher), total(kd(), student, teacher)
    )


def test_equal_logits_standardise_to_zeros_with_finite_gradients() -> None:
    student = torch.full((N, C), 3.0, requires_grad=True)
    loss = total(kd(alpha=1, standardize=True), student, logits(1, torch.float32))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@dataclass
class TeacherOnly:
    """A study of which only the teacher's validation split is looked at."""

    logits: torch.Tensor
    labels: torch.Tensor
    rehearsal: bool = False

    def teacher_logits(self, split: str) -> torch.Tensor:
        assert split == "validation"
        return self.logits

    def targets(self, split: str) -> torch.Tensor:
        assert split == "validation"
        return self.labels


def overconfident(scale: float = 1.0, count: int = 2000) -> TeacherOnly:
    """Labels drawn from a distribution whose logits the teacher triples."""
    random = torch.Generator().manual_seed(3)
    z = torch.randn((count, C), generator=random)
    labels = torch.multinomial(z.softmax(1), 1, generator=random).squeeze(1)
    return TeacherOnly(3 * scale * z, labels)


def test_calibrate_divides_the_teacher_by_its_fitted_temperature() -> None:
    study, method = overconfident(), kd(alpha=1, calibrate=True)
    helpers = method.helpers(study)
    fitted = fit_temperature(study.logits, study.labels)
    assert fitted == pytest.approx(3, rel=0.05)
    assert float(helpers.get_buffer("temperature")) == pytest.approx(fitted)
    assert list(helpers.parameters()) == []
    student, teacher = logits(0), logits(1)
    got = method.loss(batch(student, teacher), helpers)["teacher"]
    torch.testing.assert_close(
        got, soft_divergence(student, teacher / fitted, 4.0), rtol=1e-6, atol=0
    )
    assert method.begin_epoch(study, helpers) == {"teacher_temperature": pytest.approx(fitted)}


def test_calibrate_is_remembered_in_the_state() -> None:
    method = kd(calibrate=True)
    first, second = method.helpers(overconfident()), method.helpers(overconfident(scale=2))
    second.load_state_dict(first.state_dict())
    given = batch(logits(0), logits(1))
    assert torch.equal(method.loss(given, first)["teacher"], method.loss(given, second)["teacher"])


def test_calibrate_by_1_is_kd_bit_for_bit() -> None:
    method, given = kd(calibrate=True), batch(logits(0), logits(1))
    helpers = method.helpers(overconfident())
    helpers.temperature.fill_(1.0)
    assert torch.equal(method.loss(given, helpers)["teacher"], kd().loss(given, None)["teacher"])


def test_without_calibrate_or_a_teacher_nothing_is_fitted() -> None:
    for method in (kd(), kd(calibrate=True, alpha=0)):
        assert method.helpers(TeacherOnly(None, None)) is None
        assert method.begin_epoch(None, None) == {}
        assert method.figures(None, None) == ()


def test_the_figure_tells_the_error_before_and_after() -> None:
    study, method = overconfident(), kd(calibrate=True)
    (figure,) = method.figures(study, method.helpers(study))
    before, after = ece(study.logits, study.labels), ece(study.logits / 3, study.labels)
    assert after < before / 3
    assert f"as it is: T = 1.00, ECE {before:.3f}" in figure.series
    assert all(len(x) == len(y) > 1 for x, y in figure.series.values())


def test_a_teacher_without_a_best_temperature_is_told() -> None:
    right = TeacherOnly(5 * F.one_hot(torch.arange(C), C).float(), torch.arange(C))
    with pytest.raises(TrainingError, match="right on all 10 samples") as caught:
        kd(calibrate=True).helpers(right)
    assert "calibrate" in caught.value.hint


def test_every_variant_runs_in_the_loop_and_calibrate_ends_in_the_history(kit) -> None:
    teacher = kit.loop(kit.none(), kit.model("resnet8"), epochs=2).fit().student
    trained = {}
    for name in ("plain", "hard", "standardize", "calibrate"):
        method = kit.kd(**({} if name == "plain" else {name: True}))
        result = kit.loop(method, kit.model(seed=4), teacher, epochs=1).fit()
        trained[name] = kit.weights(result.student)
        told = result.history[0].get("method", {})
        assert (told.get("teacher_temperature", 0) > 0) == (name == "calibrate")
        assert len(result.figures) == (name == "calibrate")
    assert not any(
        kit.equal(trained["plain"], other) for name, other in trained.items() if name != "plain"
    )
