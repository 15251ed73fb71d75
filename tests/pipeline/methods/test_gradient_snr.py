"""The signal-to-noise ratio of single samples' gradients, against NumPy and on made-up noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.pipeline.methods import gradient_snr as snr
from edgedistill.pipeline.methods.losses import soft_divergence

C = 3


def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return soft_divergence(student, teacher, 2.0)


def draw(kit, count: int = 60) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    rates = torch.rand(count, generator=torch.Generator().manual_seed(3))
    return kit.split(count).inputs, 3 * torch.randn(count, C), rates


@pytest.mark.parametrize("name", ["mlp", "dscnn", "resnet8"])
def test_at_once_is_one_by_one(kit, name: str) -> None:
    network = kit.model(name).eval()
    inputs, teacher, _ = draw(kit, 6)
    at_once = snr.gradients_at_once(network, inputs, teacher, loss)
    one_by_one = snr.gradients_one_by_one(network, inputs, teacher, loss)
    assert at_once.shape == (6, sum(p.numel() for p in network.parameters()))
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-6)


def test_their_mean_is_the_gradient_of_the_batch(kit) -> None:
    network = kit.model("dscnn").eval()
    inputs, teacher, _ = draw(kit, 8)
    value = loss(network(inputs["image"]), teacher)
    whole = torch.autograd.grad(value, list(network.parameters()))
    each = snr.gradients_one_by_one(network, inputs, teacher, loss)
    wanted = torch.cat([gradient.flatten() for gradient in whole])
    torch.testing.assert_close(each.mean(0), wanted, rtol=1e-4, atol=1e-6)


def test_the_ratio_is_the_formula(kit, monkeypatch) -> None:
    network = kit.model("mlp")
    inputs, teacher, rates = draw(kit)
    monkeypatch.setattr(snr, "CHUNK_NUMBERS", 7 * sum(p.numel() for p in network.parameters()))
    deciles = snr.measure_deciles(network, inputs, teacher, rates, loss)
    each = snr.gradients_one_by_one(network.eval(), inputs, teacher, loss).double().numpy()
    for number, decile in enumerate(deciles):
        own = each[(rates.numpy() >= number / 10) & (rates.numpy() < (number + 1) / 10)]
        assert decile.count == len(own)
        spread = own.var(axis=0, ddof=1).sum()
        signal = np.square(own.mean(axis=0)).sum() - spread / len(own)
        assert decile.snr == pytest.approx(math.sqrt(max(0, signal) / spread), rel=1e-4, abs=1e-6)


def made_up(gradients: torch.Tensor) -> list[snr.Decile]:
    """Deciles of given gradients `(n, P)`, all of pass rate 0.5."""
    rows = iter(gradients.split(64))
    network = nn.Linear(gradients.shape[1], 1, bias=False)
    count = len(gradients)
    inputs, teacher = {"x": torch.zeros(count, 1)}, torch.zeros(count, C)
    return snr.measure_deciles(
        network, inputs, teacher, torch.full((count,), 0.5), loss, lambda *_: next(rows)
    )


@pytest.mark.parametrize("count", [10, 1000])
def test_few_samples_of_noise_look_no_better_than_many(count: int) -> None:
    found = [made_up(torch.randn(count, 400))[5].snr ** 2 for _ in range(20)]
    assert np.mean(found) < 0.2 / count  # uncorrected it is 1 / count


def test_a_known_signal_is_found() -> None:
    gradients = torch.randn(2000, 100) + 0.5
    assert made_up(gradients)[5].snr == pytest.approx(0.5, rel=0.03)


def test_what_cannot_be_told_is_nan() -> None:
    assert math.isnan(made_up(torch.randn(1, 4))[5].snr)
    assert math.isnan(made_up(torch.ones(6, 4))[5].snr)
    assert math.isnan(made_up(torch.zeros(6, 4))[5].snr)
    assert math.isnan(made_up(torch.randn(9, 4))[0].snr)


def test_deciles_of_the_ends() -> None:
    rates = torch.tensor([0.0, 0.0999, 0.1001, 0.95, 1.0])
    assert snr.decile_numbers(rates).tolist() == [0, 0, 1, 9, 9]


def test_rare_deciles_are_drawn_whole_and_common_ones_cut() -> None:
    rates = torch.cat([torch.full((900,), 0.97), torch.full((4,), 0.5), torch.full((96,), 0.02)])
    rows = snr.draw_by_decile(rates, 200, seed=0)
    assert len(set(rows.tolist())) == len(rows)
    assert snr.decile_numbers(rates[rows]).bincount(minlength=10).tolist() == [
        20, 0, 0, 0, 0, 4, 0, 0, 0, 20,
    ]  # fmt: skip
    assert torch.equal(rows, snr.draw_by_decile(rates, 200, seed=0))
    assert not torch.equal(rows, snr.draw_by_decile(rates, 200, seed=1))


def test_the_network_is_left_as_it_was(kit) -> None:
    network = kit.model("dscnn").train()
    network[1].eval()
    modes, weights = [m.training for m in network.modules()], kit.weights(network)
    snr.measure_deciles(network, *draw(kit, 12), loss, snr.gradients_one_by_one)
    assert [m.training for m in network.modules()] == modes
    assert kit.equal(weights, kit.weights(network))
    assert all(p.grad is None for p in network.parameters())


def test_frozen_parameters_are_left_out(kit) -> None:
    network = kit.model("mlp").eval()
    first = next(network.parameters()).requires_grad_(False)
    inputs, teacher, _ = draw(kit, 2)
    size = sum(p.numel() for p in network.parameters()) - first.numel()
    for gradients in (snr.gradients_at_once, snr.gradients_one_by_one):
        assert gradients(network, inputs, teacher, loss).shape == (2, size)


class Branching(nn.Module):
    """Decides by a value, which torch.vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(x.flatten(1))
        return logits if float(logits.detach().sum()) > 0 else 2 * logits


class Broken(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a fault of the network itself")


@dataclass
class SmallStudy:
    """What the diagnostic reads of a study."""

    network: nn.Module
    inputs: dict[str, torch.Tensor]
    teacher: torch.Tensor
    seed: int = 0
    curve: tuple = ()
    history: list = field(default_factory=list)

    def teacher_logits(self, split: str) -> torch.Tensor:
        assert split == "train"
        return self.teacher

    def samples(self, index: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {k: v[index] for k, v in self.inputs.items()}, torch.zeros(len(index)).long()


def test_a_network_that_vmap_refuses_is_measured_one_by_one(kit) -> None:
    inputs, teacher, rates = draw(kit, 80)
    network = Branching()
    with pytest.raises(RuntimeError):
        snr.gradients_at_once(network, inputs, teacher, loss)
    shown, _ = snr.figures(SmallStudy(network, inputs, teacher), rates, loss, lambda p: p)
    assert len(shown.series["gradient SNR"][0]) > 3


def test_a_fault_of_the_network_is_not_swallowed(kit) -> None:
    inputs, teacher, rates = draw(kit)
    with pytest.raises(RuntimeError, match="a fault of the network itself"):
        snr.figures(SmallStudy(Broken(), inputs, teacher), rates, loss, lambda p: p)


@pytest.mark.parametrize("name", ["mlp", "dscnn"])
def test_the_figures_are_numbers_only(kit, name: str) -> None:
    inputs, teacher, rates = draw(kit, 90)
    rates[0] = 1.0
    study = SmallStudy(kit.model(name), inputs, teacher)
    shown, spread = snr.figures(study, rates, loss, lambda p: 4 * p * (1 - p))
    for xs, ys in (*shown.series.values(), *spread.series.values()):
        assert len(xs) == len(ys)
        assert all(isinstance(v, float) and math.isfinite(v) for v in (*xs, *ys))
    assert sum(spread.series["trained student"][1]) == pytest.approx(100)
    counts = snr.decile_numbers(rates).bincount(minlength=10)
    told = [(i + 0.5) / 10 for i in range(10) if counts[i] >= snr.FEWEST]
    assert shown.series["gradient SNR"][0] == told
    assert ", ".join(map(str, counts.tolist())) in shown.note
