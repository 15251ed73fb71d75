"""The experiment of `gap-preserving`: its numbers are its own, and its checks hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline.experiments.gap_preserving import DigitNet, Digits, SharedGrowth
from edgedistill.pipeline.methods.expansion import plan_growth

if TYPE_CHECKING:
    from edgedistill.pipeline.experiments.contract import Experiment

TINY = {"epochs": 2, "training": 96, "width": 2, "static_width": 4}


def test_a_tiny_run_has_every_arm_and_control() -> None:
    told: list[tuple[int, int, str]] = []
    outcome = SharedGrowth(**TINY).run(2, lambda *what: told.append(what))
    students, teachers, gaps = outcome.tables
    names = [arm.name for arm in students.arms]
    for control in ("labels only", "lr x r^2", "2x epochs", "lambda 1", "unrelated", "kd"):
        assert any(control in name for name in names), control
    arms = [arm for table in outcome.tables for arm in table.arms]
    assert all(len(arm.values) == 2 for arm in arms)
    assert all(0 <= value <= 100 for arm in students.arms for value in arm.values)
    assert len(teachers.arms) == len(gaps.arms) == 4
    by_name = {arm.name: arm.values for arm in students.arms}
    for taught, gap in zip(teachers.arms, gaps.arms, strict=True):
        pairs = zip(taught.values, by_name[taught.name], strict=True)
        assert gap.values == pytest.approx([a - b for a, b in pairs])
    done = [what[0] for what in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][1]
    growing, reading = outcome.checks[:2]  # exact at any size
    assert growing.holds
    assert reading.holds
    assert len(outcome.checks) == 6


def test_the_same_seeds_give_the_same_figures() -> None:
    first, again = (SharedGrowth(**TINY).run(1, lambda *_: None) for _ in range(2))
    assert first == again


def test_the_digits_are_split_without_overlap() -> None:
    digits, other = Digits.drawn(0, 300), Digits.drawn(1, 300)
    assert digits.images.shape == (300, 1, 8, 8)
    assert digits.test_images.shape == (1497, 1, 8, 8)
    rows = {tuple(row) for row in digits.images.flatten(1).tolist()}
    assert not any(tuple(row) in rows for row in digits.test_images.flatten(1).tolist())
    assert not torch.equal(digits.images, other.images)


def test_the_network_grows_in_every_layer() -> None:
    net = DigitNet(4)
    layers = {name.rpartition(".")[0] for name, _ in net.named_parameters()}
    assert plan_growth(net).keys() == layers


def test_it_keeps_the_contract() -> None:
    experiment: Experiment = SharedGrowth()
    assert experiment.seeds >= 3
    assert "70.07" in experiment.claim
    assert "Controls" in experiment.setting


@pytest.mark.slow
def test_the_checks_hold() -> None:
    outcome = SharedGrowth().run(SharedGrowth.seeds, lambda *_: None)
    assert [check for check in outcome.checks if not check.holds] == []
    assert all(
        math.isfinite(value)
        for table in outcome.tables
        for arm in table.arms
        for value in arm.values
    )
