"""The experiment of progressive distillation: tiny, and whole."""

from __future__ import annotations

import math

import pytest

from edgedistill.pipeline.experiments.progressive import SparseParity

TINY = SparseParity(
    dimensions=8, degree=2, teacher_width=64, student_width=8, teacher_steps=1000,
    student_steps=1600, lr=0.2, every=50, interval=100, switch=200, late=400, test_count=256,
    probe_count=2000,
)  # fmt: skip


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def outcome(told):
    return TINY.run(2, lambda *report: told.append(report))


def arms(outcome) -> dict[str, tuple[float, ...]]:
    return {arm.name: arm.values for arm in outcome.tables[0].arms}


def test_every_arm_and_control_is_shown(outcome) -> None:
    assert list(arms(outcome)) == [
        "teacher", "student, labels only", "one-shot, hard labels", "progressive, hard labels",
        "two-shot, hard labels", "two-shot, late checkpoint", "progressive, T = 1",
    ]  # fmt: skip
    assert all(len(values) == 2 for values in arms(outcome).values())
    assert all(value % 50 == 0 or math.isinf(value) for v in arms(outcome).values() for value in v)


def test_a_perfect_teacher_tells_what_the_labels_tell(outcome) -> None:
    shown = arms(outcome)
    assert all(math.isfinite(steps) for steps in shown["teacher"])
    assert shown["one-shot, hard labels"] == shown["student, labels only"]
    same = [check for check in outcome.checks if "'one-shot" in check.statement]
    assert [check.holds for check in same] == [True], same


def test_it_is_deterministic(outcome) -> None:
    assert TINY.run(2, lambda *report: None) == outcome


def test_the_progress_rises_to_its_end_at_most(outcome, told) -> None:
    done, totals = [step for step, _, _ in told], {total for _, total, _ in told}
    assert done == list(range(1, len(done) + 1))
    assert totals == {52}
    assert done[-1] <= 52


def test_the_figures_have_a_line_for_every_arm_and_degree(outcome) -> None:
    curves, degrees = outcome.figures
    assert list(curves.series) == list(arms(outcome))
    assert all(len(x) == len(y) for x, y in curves.series.values())
    assert [list(x) for x, _ in degrees.series.values()] == [[1, 2]] * 3


@pytest.mark.slow
def test_the_claim_holds_at_the_size_of_the_experiment() -> None:
    outcome = SparseParity().run(SparseParity.seeds, lambda *report: None)
    assert [check for check in outcome.checks if not check.holds] == []
