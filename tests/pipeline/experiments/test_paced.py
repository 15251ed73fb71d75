"""The experiment of `paced`: small, and whole."""

from __future__ import annotations

import math

import pytest
import torch
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline import plugins
from edgedistill.pipeline.experiments import paced as experiment
from edgedistill.pipeline.experiments.batched import BatchedMLP
from edgedistill.pipeline.experiments.paced import NoisyTeacher

TINY = NoisyTeacher(
    items=100, epochs=8, teacher_epochs=30, known_updates=20, cold_epochs=2
)  # fmt: skip


def mean(table, name: str) -> float:
    values = next(arm.values for arm in table.arms if arm.name == name)
    return sum(values) / len(values)


def test_a_tiny_run_has_every_arm_for_every_seed() -> None:
    steps: list[tuple[int, int]] = []
    outcome = TINY.run(2, lambda done, total, note: steps.append((done, total)))
    noisy, cold = outcome.tables
    names = [lesson.name for lesson in experiment.noisy_lessons()]
    assert [arm.name for arm in noisy.arms] == ["the teacher itself", *names]
    assert [arm.name for arm in cold.arms] == [
        "before", *(lesson.name for lesson in experiment.cold_lessons())
    ]  # fmt: skip
    for arm in (*noisy.arms, *cold.arms):
        assert len(arm.values) == 2
        assert all(0 <= value <= 100 for value in arm.values)
    assert len(outcome.checks) == 3
    assert all(check.got for check in outcome.checks)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (12, 12)
    series = outcome.figures[0].series
    assert list(series) == ["after 1 epochs", "after 4 epochs", "after 8 epochs"]
    assert all(math.isfinite(v) for xs, ys in series.values() for v in (*xs, *ys))


def test_the_same_seeds_give_the_same_figures() -> None:
    first, second = (TINY.run(1, lambda *_: None) for _ in range(2))
    assert first == second


def test_one_network_of_a_group_is_that_network() -> None:
    group = BatchedMLP.initialised((64, 32, 10), [3, 4])
    inputs = torch.randn(5, 64)
    for seed in (0, 1):
        torch.testing.assert_close(experiment._module(group, seed)(inputs), group(inputs)[seed])


def test_it_is_found_by_the_name_of_its_method() -> None:
    assert plugins.load("experiments", "paced") is NoisyTeacher
    assert NoisyTeacher.claim
    assert NoisyTeacher.setting


@pytest.mark.slow
def test_the_whole_experiment() -> None:
    outcome = NoisyTeacher().run(NoisyTeacher.seeds, lambda *_: None)
    beats, bell, floor = outcome.checks
    assert beats.holds, beats.got
    assert floor.holds, floor.got
    assert not bell.holds, bell.got  # of a softmax classifier: the paper's bell is not seen here
    noisy, cold = outcome.tables
    assert 70 < mean(noisy, "the teacher itself") < 80
    assert mean(noisy, experiment.UNIFORM) < mean(noisy, "uniform reverse KL") + 1
    assert mean(noisy, "control: clean labels only") > 94
    assert mean(cold, experiment.NO_FLOOR) < 40 < 90 < mean(cold, experiment.FLOOR)
