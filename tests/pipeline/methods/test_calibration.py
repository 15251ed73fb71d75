"""What must hold exactly for temperature scaling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.calibration import ece, fit_temperature, reliability

COUNT, C = 20_000, 10


def calibrated(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels were drawn from their own softmax."""
    random = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn((COUNT, C), generator=random, dtype=torch.float64)
    return z, torch.multinomial(z.softmax(1), 1, generator=random).squeeze(1)


def nll(z: torch.Tensor, y: torch.Tensor, temperature: float) -> float:
    return float(F.cross_entropy(z.double() / temperature, y))


def test_calibrated_logits_have_temperature_1() -> None:
    assert fit_temperature(*calibrated()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 3.0, 40.0, 1e4])
def test_scaled_logits_have_the_temperature_scaled(scale: float) -> None:
    z, y = calibrated()
    assert fit_temperature(scale * z, y) == pytest.approx(scale * fit_temperature(z, y), rel=1e-9)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_no_temperature_is_better_and_the_likelihood_is_convex_in_its_inverse(scale) -> None:
    z, y = calibrated()
    z = scale * z + torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    best = fit_temperature(z, y)
    assert nll(z, y, best) <= nll(z, y, 1.0)
    assert all(nll(z, y, best) <= nll(z, y, best * factor) for factor in (0.5, 0.999, 1.001, 2))
    grid = torch.linspace(0.2, 3, 15) / best
    values = torch.tensor([nll(z, y, 1 / float(a)) for a in grid], dtype=torch.float64)
    assert bool((values.diff().diff() > 0).all())


def test_no_answer_changes() -> None:
    z, y = calibrated()
    assert torch.equal((z / fit_temperature(3 * z, y)).argmax(1), z.argmax(1))


def test_a_constant_added_to_a_row_changes_nothing_and_fp32_is_enough() -> None:
    z, y = calibrated()
    moved = z + torch.linspace(-1e3, 1e3, COUNT, dtype=z.dtype)[:, None]
    assert fit_temperature(moved, y) == pytest.approx(fit_temperature(z, y), rel=1e-9)
    assert fit_temperature(z.float(), y) == pytest.approx(fit_temperature(z, y), rel=1e-5)
    large = fit_temperature(1e4 * z.float(), y)  # exp() of these overflows
    assert large == pytest.approx(1e4 * fit_temperature(z, y), rel=1e-5)


def test_one_wrong_answer_is_enough_for_an_optimum() -> None:
    z, y = 30 * torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    y[0] = 1
    best = fit_temperature(z, y)
    # 19 of 20 right and three wrong classes of which one is drawn: p / (1 - p) = 19, shared by 3.
    assert best == pytest.approx(30 / torch.tensor(19.0 * 3).log().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("z", "told"),
    [
        (5 * torch.eye(4), "right on all 4 samples"),
        (torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])), "right on all 4 samples"),
        (-5 * torch.eye(4), "no better than a guess"),
        (torch.zeros(4, 4), "right on all|no better than a guess"),
        (torch.full((4, 4), float("nan")), "NaN or infinite"),
    ],
)
def test_where_there_is_no_optimum_it_says_so(z: torch.Tensor, told: str) -> None:
    with pytest.raises(TrainingError, match=told) as caught:
        fit_temperature(z, torch.arange(4))
    assert "calibrate" in caught.value.hint


def test_the_calibration_error_is_small_only_at_the_fitted_temperature() -> None:
    z, y = calibrated()
    assert ece(z, y) < 0.02
    sharp = 4 * z
    assert ece(sharp, y) > 0.1
    assert ece(sharp / fit_temperature(sharp, y), y) < 0.02


def test_the_calibration_error_of_known_answers() -> None:
    # Confidence 0.75 in four answers of which two are right.
    row = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    y = torch.tensor([0, 0, 1, 1])
    assert ece(row.expand(4, 2), y) == pytest.approx(0.25)
    confidence, accuracy, share = reliability(row.expand(4, 2), y)
    assert confidence.tolist() == pytest.approx([0.75])
    assert (accuracy.tolist(), share.tolist()) == ([0.5], [1.0])


def test_the_bins_are_equally_wide() -> None:
    likely = torch.tensor([0.3, 0.5, 0.51, 0.9], dtype=torch.float64)
    rest = ((1 - likely) / 4)[:, None].expand(4, 4)
    z = torch.cat([likely[:, None], rest], dim=1).log()
    confidence, accuracy, share = reliability(z, torch.tensor([0, 1, 0, 0]), bins=2)
    assert confidence.tolist() == pytest.approx([0.4, 0.705])
    assert (accuracy.tolist(), share.tolist()) == ([0.5, 1.0], [0.5, 0.5])


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_bins_hold_every_sample_once(bins: int) -> None:
    z, y = calibrated()
    confidence, accuracy, share = reliability(z, y, bins)
    assert float(share.sum()) == pytest.approx(1)
    assert float((share * accuracy).sum()) == pytest.approx(
        float((z.argmax(1) == y).double().mean())
    )
    assert len(confidence) <= bins
    assert bool((confidence.diff() > 0).all())
    certain = torch.tensor([[1e4, 0.0]])  # confidence 1 belongs to the last bin
    assert reliability(certain, torch.tensor([0]), bins)[2].tolist() == [1.0]
