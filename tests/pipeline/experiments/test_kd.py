"""The experiment of `kd` at a tiny size, and whole."""

from __future__ import annotations

import pytest
import torch
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline.experiments.kd import ALL, KD, LABELS, OmittedClass, best_bias, shifted


def silent(done: int, total: int, note: str) -> None:
    pass


def run(steps: int, seeds: int, told=silent, **sizes):
    return OmittedClass(steps=steps, widths=(32, 16), **sizes).run(seeds, told)


def test_tiny_it_gives_tables_checks_a_figure_and_progress() -> None:
    told: list[tuple[int, int, str]] = []
    outcome = run(30, 2, lambda *step: told.append(step), omitted=7)
    assert [done for done, _, _ in told] == list(range(1, 61))
    assert {total for _, total, _ in told} == {60}
    assert all(len(arm.values) == 2 for table in outcome.tables for arm in table.arms)
    assert outcome.tables[0].title == "Accuracy on the digit 7"
    assert len(outcome.checks) == 4
    (figure,) = outcome.figures
    assert all(len(x) == len(y) == 61 for x, y in figure.series.values())


def test_the_same_seeds_give_the_same_figures_and_more_seeds_leave_the_first_alone() -> None:
    one, again, two = run(20, 1), run(20, 1), run(20, 2)
    assert one.tables == again.tables
    for short, long in zip(one.tables[1].arms, two.tables[1].arms, strict=True):
        assert short.values[0] == pytest.approx(long.values[0], abs=0.5)


def test_only_the_control_sees_the_class_and_the_methods_are_those_of_users() -> None:
    outcome = run(150, 1)
    seen = {arm.name: arm.values[0] for arm in outcome.tables[0].arms}
    assert seen[LABELS] == 0
    assert seen[ALL] > 50
    assert OmittedClass().methods()[KD].options.temperature == 4


def test_the_best_bias_is_the_smallest_of_the_best() -> None:
    logits = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.5, 0.0]], [[9.0, 0.0]] * 3])
    targets = torch.tensor([1, 0, 1])
    best = best_bias(logits, targets, 1, (0.0, 1.5, 2.0, 5.0))
    assert best.tolist() == [1.5, 0.0]
    moved = shifted(logits, 1, best)
    assert moved[0].argmax(1).tolist() == [1, 0, 1]
    assert torch.equal(moved[1], logits[1])


@pytest.mark.slow
def test_whole_a_class_that_was_never_seen_is_recognised() -> None:
    outcome = OmittedClass().run(OmittedClass.seeds, silent)
    assert [check.statement for check in outcome.checks if not check.holds] == []
