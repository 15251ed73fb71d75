"""The experiment of `fitnets` at a tiny size, and whole."""

from __future__ import annotations

import pytest
import torch
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline.experiments.batched import BatchedMLP
from edgedistill.pipeline.experiments.fitnets import KD, LABELS, ONE, TEACHER, TWO, DeepAndThin
from edgedistill.pipeline.experiments.hinted import Lesson, Regressors

TINY = DeepAndThin(depths=(1, 2, 3), width=6, teacher_width=8, steps=12, teacher_steps=10, batch=8)


def silent(done: int, total: int, note: str) -> None:
    pass


def test_tiny_it_gives_a_table_per_depth_checks_a_figure_and_progress() -> None:
    told: list[tuple[int, int, str]] = []
    outcome = TINY.run(2, lambda *step: told.append(step))
    assert [done for done, _, _ in told] == list(range(1, 59))
    assert {total for _, total, _ in told} == {10 + 4 * 12}
    assert [[arm.name for arm in t.arms] for t in outcome.tables] == [
        [LABELS, KD, TWO, ONE, TEACHER]
    ] * 4
    assert all(len(arm.values) == 2 for table in outcome.tables for arm in table.arms)
    assert len(outcome.checks) == 6
    assert set(outcome.figures[0].series) == {LABELS, KD, TWO, ONE, TEACHER}
    assert TINY.run(2, silent) == outcome


def test_every_arm_starts_from_the_weights_of_its_seed_and_stage_1_trains_the_lower_half(
    monkeypatch,
) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 64, generator=random), torch.randint(10, (40,), generator=random)
    teacher = BatchedMLP.initialised((64, 8, 8, 10), [7, 8]).copy()
    plan = DeepAndThin(width=6, teacher_width=8, steps=4, batch=8, lr=0.5)  # two steps of stage 1
    before = BatchedMLP.initialised((64, 6, 6, 6, 6, 10), [0, 1])
    lesson = Lesson(plan, x, y, teacher, depth=4, gain=1.0)

    def stop(step: int) -> None:
        if step == 2:
            raise StopIteration

    nets: list[BatchedMLP] = []
    kept = Lesson._students
    monkeypatch.setattr(
        Lesson, "_students", lambda self, seeds: nets.append(kept(self, seeds)) or nets[-1]
    )
    with pytest.raises(StopIteration):
        lesson.train(plan.methods(), 2, stop)
    two = slice(4, 6)  # the third arm
    moved = [
        not torch.equal(now[two], then)
        for now, then in zip(nets[0].weights, before.weights, strict=True)
    ]
    assert moved == [True, True, True, False, False]
    labels = slice(0, 2)
    assert not any(
        torch.equal(now[labels], then)
        for now, then in zip(nets[0].weights, before.weights, strict=True)
    )


def test_each_network_has_its_own_regressor() -> None:
    nets = BatchedMLP.initialised((3, 2), [0, 1, 2, 3])
    part = Regressors(nets, slice(1, 3))
    features = torch.randn(2, 5, 3)
    expected = features @ nets.weights[0][1:3] + nets.biases[0][1:3]
    torch.testing.assert_close(part(features.flatten(0, 1)), expected.flatten(0, 1))


@pytest.mark.slow
def test_whole_hints_train_what_plain_training_does_not() -> None:
    outcome = DeepAndThin().run(DeepAndThin.seeds, silent)
    holds = [check.holds for check in outcome.checks]
    assert holds[:3] == [True, True, True]
    # Hints mend a start that is too small for the depth: with the right one they add nothing.
    assert not holds[-1]
