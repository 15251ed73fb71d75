"""What must hold exactly for `kd`, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.methods.kd import KnowledgeDistillation, soft_divergence
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
    return Batch(student, teacher, torch.arange(N) if targets is None else targets, 0, 0.0)


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


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"alpha": 1.5}, {"alpha": -1}, {"a": 1}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        KnowledgeDistillation.Options(**wrong)
