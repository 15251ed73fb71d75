"""What must hold exactly for `paced`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.composed import Composed
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.losses import reverse_divergence, soft_divergence
from edgedistill.pipeline.methods.paced import (
    Paced,
    beta_kernel,
    effective_share,
    gold_probability,
    pass_rate,
)

N, C = 8, 5
EXPONENTS = [(1, 1), (2, 1), (1, 2), (3, 3), (0.5, 4), (10, 10)]
PUBLISHED = {"floor": 0, "warmup_epochs": 0}
NEUTRAL = {"alpha": 0, "beta": 0}


def paced(**options: object) -> Paced:
    return Paced(Paced.Options(**options))


def logits(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3 * torch.randn((N, C), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(student: torch.Tensor | None = None, **changes: object) -> Batch:
    student = logits(0) if student is None else student
    made = Batch(student, logits(1, student.dtype), torch.arange(N) % C, 0, 0.0, torch.arange(N))
    return replace(made, **changes)


def known(*rates: float) -> torch.nn.Module:
    """Helpers that hold these pass rates."""
    helpers = Paced.unknown_rates(len(rates))
    helpers.get_buffer("rates").copy_(torch.tensor(rates))
    return helpers


# The kernel.


@pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
def test_the_kernel_is_zero_at_both_ends_and_one_at_its_mode(alpha: float, beta: float) -> None:
    ends = beta_kernel(torch.tensor([0.0, 1.0]), alpha, beta)
    assert ends.tolist() == [0.0, 0.0]
    grid = torch.arange(0, 1 + 5e-6, 1e-5, dtype=torch.float64)
    kernel = beta_kernel(grid, alpha, beta)
    mode = alpha / (alpha + beta)
    assert abs(float(grid[kernel.argmax()]) - mode) <= 1.001e-5
    assert float(kernel.max()) <= 1 + 1e-12
    assert float(beta_kernel(torch.tensor(mode).double(), alpha, beta)) == pytest.approx(1, 1e-12)
    symmetric = torch.allclose(kernel, beta_kernel(1 - grid, alpha, beta), rtol=1e-9, atol=1e-12)
    assert symmetric == (alpha == beta)


def test_the_default_kernel_is_4p_1_minus_p() -> None:
    p = torch.rand(100, dtype=torch.float64)
    torch.testing.assert_close(beta_kernel(p, 1, 1), 4 * p * (1 - p), rtol=1e-15, atol=0)


def test_without_exponents_it_is_exactly_one_even_at_the_ends() -> None:
    p = torch.cat([torch.rand(1000), torch.tensor([0.0, 1.0])])
    assert torch.equal(beta_kernel(p, 0, 0), torch.ones_like(p))
    assert torch.equal(paced(**NEUTRAL).weigh(p), torch.ones_like(p))
    assert beta_kernel(torch.tensor([0.0, 1.0]), 0, 1).tolist() == [1.0, 0.0]
    assert beta_kernel(torch.tensor([0.0, 1.0]), 1, 0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("floor", [0.0, 0.05, 1.0])
def test_no_weight_is_below_the_floor_or_above_one(floor: float) -> None:
    method = paced(floor=floor)
    assert method.weigh(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([floor, floor])
    assert float(method.weigh(torch.tensor([0.5]))) == 1.0
    weights = method.weigh(torch.linspace(0, 1, 10_001))
    assert floor - 1e-7 <= float(weights.min()) <= float(weights.max()) <= 1 + 1e-7


def test_a_floor_of_a_sixth_goes_as_the_kernel_plus_a_twentieth() -> None:
    p = torch.rand(50, dtype=torch.float64)
    ratio = paced(floor=1 / 6).weigh(p) / (p * (1 - p) + 0.05)
    torch.testing.assert_close(ratio, torch.full_like(p, 10 / 3), rtol=1e-12, atol=0)


# The pass rate.


def test_the_gold_probability_is_the_limit_of_drawn_answers() -> None:
    student, targets = logits(0), torch.arange(N) % C
    chances = student.softmax(1)
    exact = gold_probability(student, targets)
    assert exact.tolist() == [float(chances[i, i % C]) for i in range(N)]
    answers = torch.multinomial(chances, 20_000, replacement=True).t()
    assert float((pass_rate(answers, targets) - exact).abs().max()) < 0.015


def test_pass_rates_are_counts_and_smoothed_ones_never_reach_the_ends() -> None:
    answers = torch.tensor([[0, 1, 2], [0, 0, 2], [0, 1, 0], [0, 1, 0]])
    targets = torch.tensor([0, 0, 1])
    assert pass_rate(answers, targets).tolist() == [1.0, 0.25, 0.0]
    assert pass_rate(answers, targets, smoothing=True).tolist() == pytest.approx([0.9, 0.3, 0.1])


def outcomes(passes: int, p: float) -> list[tuple[float, float]]:
    """Chance and estimated pass rate of every number of right answers."""
    found = []
    for right in range(passes + 1):
        answers = (torch.arange(passes)[:, None] < right).long()
        chance = math.comb(passes, right) * p**right * (1 - p) ** (passes - right)
        found.append((chance, float(pass_rate(answers, torch.tensor([1])))))
    return found


@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("passes", [2, 4, 8])
def test_the_kernel_of_sampled_rates_is_biased_by_one_factor_for_every_p(
    passes: int, p: float
) -> None:
    kernel = [
        (chance, float(beta_kernel(torch.tensor(rate).double(), 1, 1)))
        for chance, rate in outcomes(passes, p)
    ]
    expected = sum(chance * weight for chance, weight in kernel)
    assert expected == pytest.approx((1 - 1 / passes) * 4 * p * (1 - p), rel=1e-6, abs=1e-12)
    nothing = sum(chance for chance, weight in kernel if weight == 0)
    assert nothing == pytest.approx(p**passes + (1 - p) ** passes, rel=1e-12)


def test_eight_passes_give_no_weight_to_much_of_what_is_hard() -> None:
    shares = [sum(c for c, rate in outcomes(8, p) if rate in (0, 1)) for p in (0.1, 0.3, 0.5)]
    assert shares == pytest.approx([0.43, 0.058, 0.0078], rel=0.01)


# Efficiency of misspecified weights.


def efficiency(w: torch.Tensor, mu: torch.Tensor, s2: torch.Tensor) -> float:
    """`(sum w mu)^2 / (sum w^2 s^2 sum mu^2 / s^2)`: 1 for the best weights, `mu / s^2`."""
    return float((w * mu).sum() ** 2 / ((w**2 * s2).sum() * (mu**2 / s2).sum()))


@pytest.mark.parametrize("delta", [0.1, 0.3, 0.5, 0.9])
def test_weights_that_are_off_by_delta_lose_at_most_delta_squared(delta: float) -> None:
    for _ in range(200):
        mu, s2 = torch.rand(2, 50, dtype=torch.float64) + 0.01
        off = 1 + delta * (2 * torch.rand(50, dtype=torch.float64) - 1)
        assert efficiency(mu / s2, mu, s2) == pytest.approx(1, rel=1e-12)
        assert 1 - delta**2 <= efficiency(mu / s2 * off, mu, s2) < 1


@pytest.mark.parametrize("delta", [0.1, 0.3, 0.5])
def test_two_points_lose_exactly_that(delta: float) -> None:
    off = torch.tensor([1 - delta, 1 + delta], dtype=torch.float64)
    mass = 1 / off  # of the benefit mu^2 / s^2, so that both ends pull alike
    mu, s2 = mass.sqrt(), torch.ones(2, dtype=torch.float64)
    assert efficiency(mu * off, mu, s2) == pytest.approx(1 - delta**2, rel=1e-12)


# The loss.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "changes", [{}, {"floor": 0, "warmup_epochs": 0}, {"estimator": "history"}]
)
def test_neutral_is_kd_bit_for_bit(dtype: torch.dtype, changes: dict) -> None:
    ours, theirs = (logits(0, dtype).requires_grad_() for _ in range(2))
    method = paced(**NEUTRAL, **changes)
    adapted = method.adapt(batch(ours, epoch=7), known(*[0.0] * 4, *[1.0] * 4))
    assert adapted.weights is None
    loss = sum(method.loss(adapted, None).values())
    kd = KnowledgeDistillation(KnowledgeDistillation.Options(alpha=1, temperature=2))
    wanted = sum(kd.loss(batch(theirs, epoch=7), None).values())
    loss.backward()
    wanted.backward()
    assert torch.equal(loss, wanted)
    assert torch.equal(ours.grad, theirs.grad)


def test_an_item_of_no_weight_adds_exactly_nothing() -> None:
    rates = [0.3, 0.0, 0.5, 1.0, 0.2, 0.9, 0.7, 0.6]
    student, kept = logits(0).requires_grad_(), torch.tensor([r not in (0, 1) for r in rates])
    method = paced(**PUBLISHED)
    adapted = method.adapt(batch(student), known(*rates))
    loss = method.loss(adapted, None)["teacher"]
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.equal(gradient[~kept], torch.zeros(2, C, dtype=torch.float64))
    weights = adapted.weights[kept]
    without = soft_divergence(student[kept], adapted.teacher[kept], 2.0, weights)
    without = without * len(weights) / N  # the denominator stays that of the whole batch
    torch.testing.assert_close(loss, without, rtol=1e-12, atol=0)
    (wanted,) = torch.autograd.grad(without, student)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-15)


def test_the_gradient_of_each_item_is_scaled_by_its_weight() -> None:
    rates = torch.linspace(0.05, 0.95, N)
    student = logits(0).requires_grad_()
    method = paced(warmup_epochs=0)
    plain = torch.autograd.grad(method.loss(batch(student), None)["teacher"], student)[0]
    adapted = method.adapt(batch(student), known(*rates.tolist()))
    weighed = torch.autograd.grad(method.loss(adapted, None)["teacher"], student)[0]
    torch.testing.assert_close(weighed, plain * method.weigh(rates)[:, None].double())


def test_small_weights_stay_small() -> None:
    """Divided by their mean, they would weigh as much as any others, and a few enormously."""
    method = paced(**PUBLISHED)
    adapted = method.adapt(batch(), known(*[0.001] * 7, 0.01))
    assert float(adapted.weights.max()) < 0.04
    whole, part = method.loss(batch(), None)["teacher"], method.loss(adapted, None)["teacher"]
    assert float(part) < 0.04 * float(whole)


@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_a_perfect_student_has_no_loss_and_no_gradient(kl: str) -> None:
    student = (logits(1) + torch.arange(N)[:, None]).requires_grad_()
    loss = paced(kl=kl).loss(batch(student), None)["teacher"]
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-13
    assert float(gradient.abs().max()) < 1e-13


def test_both_directions_are_positive_and_differ_for_any_other() -> None:
    student = logits(0).requires_grad_()
    found = [paced(kl=kl).loss(batch(student), None)["teacher"] for kl in ("forward", "reverse")]
    for loss in found:
        assert float(loss.detach()) > 0
        assert float(torch.autograd.grad(loss, student)[0].abs().min()) > 0
    p, q = (logits(1) / 2).softmax(1), (logits(0) / 2).softmax(1)
    forward, reverse = (4 * float((a * (a / b).log()).sum() / N) for a, b in ((p, q), (q, p)))
    assert [float(loss.detach()) for loss in found] == pytest.approx([forward, reverse], rel=1e-12)
    assert abs(forward - reverse) > 0.1


@pytest.mark.parametrize("progress", [0.0, 0.2999, 0.3, 1.0])
def test_the_switch_changes_the_loss_and_nothing_else(progress: float) -> None:
    method, rates = (
        paced(kl="two-stage", switch=0.3, warmup_epochs=0),
        known(*torch.rand(N).tolist()),
    )
    adapted = method.adapt(batch(progress=progress), rates)
    assert torch.equal(adapted.weights, method.adapt(batch(), rates).weights)
    divergence = soft_divergence if progress < 0.3 else reverse_divergence
    wanted = divergence(adapted.student, adapted.teacher, 2.0, adapted.weights)
    assert torch.equal(method.loss(adapted, None)["teacher"], wanted)


def test_labels_add_an_unweighed_cross_entropy() -> None:
    made = batch(weights=torch.zeros(N))
    assert set(paced().loss(made, None)) == {"teacher"}
    parts = paced(label_weight=0.25).loss(made, None)
    wanted = 0.25 * torch.nn.functional.cross_entropy(made.student, made.targets)
    assert torch.equal(parts["labels"], wanted)
    assert float(parts["teacher"]) == 0


# The weights of a batch.


@pytest.mark.parametrize(
    "options", [{}, {"refresh": "batch"}, {"estimator": "history"}, {"estimator": "passes"}]
)
def test_weights_carry_no_gradient(options: dict) -> None:
    student = logits(0).requires_grad_()
    method, helpers = paced(warmup_epochs=0, **options), known(*[0.3] * N)
    adapted = method.adapt(batch(student), helpers)
    assert not adapted.weights.requires_grad
    assert not helpers.get_buffer("rates").requires_grad
    assert list(helpers.parameters()) == []


def test_each_sample_gets_the_weight_of_its_row() -> None:
    rates = torch.rand(20)
    index = torch.tensor([3, 19, 0, 7, 5, 11, 2, 13])
    method = paced(**PUBLISHED)
    adapted = method.adapt(batch(index=index), known(*rates.tolist()))
    assert torch.equal(adapted.weights, method.weigh(rates[index]))


def test_in_the_warm_up_all_weigh_one() -> None:
    method, helpers = paced(warmup_epochs=2), known(*[0.1] * N)
    assert method.adapt(batch(epoch=1), helpers).weights is None
    assert method.adapt(batch(epoch=2), helpers).weights is not None


def test_weights_of_others_are_multiplied() -> None:
    others = torch.rand(N)
    method, helpers = paced(warmup_epochs=0), known(*torch.rand(N).tolist())
    alone = method.adapt(batch(), helpers).weights
    assert torch.equal(method.adapt(batch(weights=others), helpers).weights, alone * others)
    neutral = paced(**NEUTRAL, warmup_epochs=0)
    assert neutral.adapt(batch(weights=others), helpers).weights is others


def test_the_batch_can_tell_the_rates() -> None:
    method, helpers = paced(refresh="batch", **PUBLISHED), known(*[0.5] * 12)
    made = batch(index=torch.arange(4, 12))
    adapted = method.adapt(made, helpers)
    rates = gold_probability(made.student, made.targets).float()
    assert torch.equal(adapted.weights, method.weigh(rates))
    assert torch.equal(helpers.get_buffer("rates"), torch.cat([torch.full((4,), 0.5), rates]))


def test_the_history_is_a_running_mean_of_right_answers() -> None:
    method = paced(estimator="history", momentum=0.75, warmup_epochs=0)
    helpers = known(*[0.5] * 12)
    made = batch(index=torch.arange(4, 12))
    right = (made.student.argmax(1) == made.targets).float()
    assert 0 < right.sum() < N
    for time in (1, 2, 3):
        adapted = method.adapt(made, helpers)
        wanted = 0.75**time * 0.5 + (1 - 0.75**time) * right
        rates = helpers.get_buffer("rates")
        torch.testing.assert_close(rates[4:], wanted)
        assert rates[:4].tolist() == [0.5] * 4
        assert torch.equal(adapted.weights, method.weigh(rates[4:]))


def test_the_history_is_kept_during_the_warm_up() -> None:
    helpers = known(*[0.5] * N)
    assert paced(estimator="history").adapt(batch(), helpers).weights is None
    assert (helpers.get_buffer("rates") != 0.5).all()


def test_it_wants_the_rates_that_it_keeps() -> None:
    with pytest.raises(TrainingError, match="without the pass rates"):
        paced().adapt(batch(), None)


@pytest.mark.parametrize(
    ("weights", "share"),
    [([0.3] * 4, 1.0), ([1, 0, 0, 0], 0.25), ([0] * 4, 0), ([1, 1, 0, 0], 0.5)],
)
def test_the_effective_sample_size(weights: list[float], share: float) -> None:
    assert effective_share(torch.tensor(weights, dtype=torch.float32)) == pytest.approx(share)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": -1}, {"beta": 11}, {"floor": 1.1}, {"warmup_epochs": -1}, {"kl": "both"},
        {"passes": 1},
        {"temperature": 0}, {"momentum": 1}, {"estimator": "passes", "refresh": "batch"},
        {"estimator": "history", "refresh": "batch"}, {"gamma": 1},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Paced.Options(**wrong)


# In the loop.


def trained(kit, method, **changes: object):
    loop = kit.loop(method, kit.model("mlp"), kit.teacher(), **changes)
    return loop, loop.fit()


def test_neutral_trains_to_the_bits_of_kd(kit) -> None:
    runs = [
        trained(kit, method)[1].student.state_dict()
        for method in (
            kit.kd(alpha=1, temperature=2),
            paced(**NEUTRAL),
            paced(warmup_epochs=2),
            paced(),
        )
    ]
    assert kit.equal(runs[0], runs[1])
    assert kit.equal(runs[0], runs[2])  # two epochs, both of the warm-up
    assert not kit.equal(runs[0], runs[3])


def test_kd_with_paced_is_paced_where_their_losses_agree(kit) -> None:
    kd = kit.kd(alpha=1, temperature=2)
    both, alone = (
        trained(kit, Composed(kd, [paced(warmup_epochs=0)])),
        trained(kit, paced(warmup_epochs=0)),
    )
    assert kit.equal(both[1].student.state_dict(), alone[1].student.state_dict())
    assert trained(kit, kd)[1].student.state_dict().keys() == alone[1].student.state_dict().keys()


def test_every_epoch_tells_how_it_weighs(kit) -> None:
    loop, result = trained(kit, paced(warmup_epochs=1), epochs=3)
    told = [record["method"] for record in result.history]
    assert [t["mean_weight"] == 1 for t in told] == [True, False, False]
    for record in told:
        assert set(record) == {"mean_pass_rate", "mean_weight", "idle_share", "effective_share"}
        assert all(0 <= value <= 1 + 1e-6 for value in record.values())
    rates = loop.trainable.helpers.get_buffer("rates")
    assert told[-1]["mean_pass_rate"] == pytest.approx(float(rates.mean()))
    assert told[-1]["mean_weight"] == pytest.approx(float(paced().weigh(rates).mean()))


def test_the_rates_are_those_of_the_student_before_the_epoch(kit) -> None:
    loop = kit.loop(paced(), kit.model("mlp"), kit.teacher())
    helpers, study = loop.trainable.helpers, loop.study
    assert helpers.get_buffer("rates").tolist() == [0.5] * 56
    loop.method.begin_epoch(study, helpers)
    wanted = gold_probability(study.student_logits("train"), study.targets("train"))
    assert torch.equal(helpers.get_buffer("rates"), wanted)


def test_passes_without_augmentation_are_refused(kit) -> None:
    with pytest.raises(TrainingError, match=r"the 4 passes .* are all the same") as caught:
        trained(kit, paced(estimator="passes", passes=4))
    assert "augment" in caught.value.hint


def test_passes_of_augmented_views_are_counted(kit) -> None:
    loop, result = trained(kit, paced(estimator="passes", passes=4), shift=2)
    rates = loop.trainable.helpers.get_buffer("rates")
    assert set((4 * rates).tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert len(set(rates.tolist())) > 2
    assert len(result.figures) == 2


class Stopped(Exception):
    """What the progress callback raises in place of Ctrl-C."""


def stop_at_six(done: int, total: int, note: str) -> None:
    if done == 6:
        raise Stopped


@pytest.mark.parametrize(
    "options", [{}, {"refresh": "batch"}, {"estimator": "history"}, {"estimator": "passes"}]
)
def test_a_resumed_training_finds_the_same_weights(kit, tmp_path, options: dict) -> None:
    def loop(folder: str, progress=lambda done, total, note: None):
        return kit.loop(
            paced(**options), kit.model("mlp"), kit.teacher(), scratch=tmp_path / folder,
            progress=progress, epochs=3, shift=1,
        )  # fmt: skip

    whole = loop("whole")
    wanted = whole.fit()
    with pytest.raises(Stopped):  # in the second epoch of four steps
        loop("cut", stop_at_six).fit()
    cut = loop("cut")
    resumed = cut.fit()
    assert kit.equal(resumed.student.state_dict(), wanted.student.state_dict())
    assert kit.equal(cut.trainable.state_dict(), whole.trainable.state_dict())
    assert kit.untimed(resumed.history) == kit.untimed(wanted.history)


@pytest.mark.parametrize(
    "options",
    [{}, {"kl": "reverse"}, {"kl": "two-stage"}, {"estimator": "history"}, {"refresh": "batch"}],
)
def test_the_report_shows_what_was_measured(kit, options: dict) -> None:
    _, result = trained(kit, paced(**options), epochs=1)
    shown, spread = result.figures
    assert shown.series["gradient SNR"][0]
    weights = paced(**options).weigh(torch.tensor(shown.series["weight w(p)"][0]))
    assert shown.series["weight w(p)"][1] == pytest.approx(weights.tolist())
    assert sum(spread.series["trained student"][1]) == pytest.approx(100)
    bare = kit.model("mlp").state_dict()
    assert result.student.state_dict().keys() == bare.keys()
