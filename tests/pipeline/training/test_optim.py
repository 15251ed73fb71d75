"""Optimisers and schedules against figures worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from edgedistill.pipeline.training.optim import make_optimizer, make_schedule


def settings(**changes):
    usual = {
        "optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0, "schedule": "cosine", "warmup": 0.2,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **changes})


def rates(steps: int, **changes) -> list[float]:
    chosen = settings(**changes)
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(2))], chosen)
    schedule = make_schedule(optimizer, chosen, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_rises_and_falls_to_zero() -> None:
    expected = [0.25, 0.5] + [0.25 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates(10) == pytest.approx(expected)


def test_constant_stays_at_the_peak() -> None:
    assert rates(10, schedule="constant") == pytest.approx([0.25] + [0.5] * 9)
    assert rates(5, schedule="constant", warmup=0.0) == pytest.approx([0.5] * 5)


def test_without_warm_up_the_first_step_is_nearly_at_the_peak() -> None:
    found = rates(10, warmup=0.0)
    assert found[0] == pytest.approx(0.5)
    assert found == sorted(found, reverse=True)
    assert min(found) > 0


@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_of_a_step_or_two_has_a_rate(steps: int) -> None:
    assert all(0 < rate <= 0.5 for rate in rates(steps))


def step(name: str, gradients: list[float], **changes) -> float:
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = make_optimizer([parameter], settings(optimizer=name, **changes))
    for gradient in gradients:
        parameter.grad = torch.full((1,), gradient, dtype=torch.float64)
        optimizer.step()
    return float(parameter.detach())


def test_sgd_has_momentum_and_decay() -> None:
    assert step("sgd", [2.0, 1.0], lr=0.1) == pytest.approx(1 - 0.1 * 2 - 0.1 * (0.9 * 2 + 1))
    assert step("sgd", [0.0], lr=0.1, weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5)


def test_adamw_decays_apart_from_the_gradient() -> None:
    assert step("adamw", [0.0], lr=0.1, weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5)
    assert step("adamw", [7.0], lr=0.1) == pytest.approx(0.9, abs=1e-8)
