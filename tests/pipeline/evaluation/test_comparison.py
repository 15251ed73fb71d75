from __future__ import annotations

import numpy as np
import pytest

from edgedistill.pipeline.evaluation.comparison import Answers, Cell, Result, compare, difference
from edgedistill.pipeline.evaluation.statistics import paired_difference

SAMPLES, CLASSES = 200, 4
TARGETS = np.arange(SAMPLES) % CLASSES
REFERENCES = ("none", "kd")


def logits(wrong):
    """Answers of a model that errs on the first `wrong` samples."""
    chosen = TARGETS.copy()
    chosen[:wrong] = (chosen[:wrong] + 1) % CLASSES
    return np.eye(CLASSES)[chosen]


def cells(method, *wrong, seconds=None):
    return [
        Cell(method, seed, Result(logits(count), 0.9, 1, seconds), "")
        for seed, count in enumerate(wrong)
    ]


ANSWERS = Answers(logits(10), TARGETS)


def table(*groups):
    rows, best = compare([cell for group in groups for cell in group], ANSWERS, REFERENCES)
    return {row["method"]: row for row in rows}, best


def test_a_row_by_hand():
    rows, _ = table(cells("none", 40, 44, seconds=2.0), cells("kd", 30, 30, seconds=3.0))
    kd = rows["kd"]
    assert kd["accuracies"] == [85.0, 85.0]
    assert rows["none"]["accuracy"]["mean"] == pytest.approx(79.0)
    assert kd["to"]["none"]["value"] == pytest.approx(6.0)
    assert kd["to"]["none"]["over"] == "seeds"
    assert kd["to"].keys() == {"none"}
    assert kd["agreement"] == pytest.approx(90.0)  # both err alike on the first ten
    assert kd["seconds_ratio"] == pytest.approx(1.5)
    assert rows["none"]["seconds_ratio"] == 1.0


def test_differences_are_paired_by_seed():
    rows, _ = table(cells("none", 20, 60, 100), cells("kd", 18, 57, 98))
    gap = rows["kd"]["to"]["none"]
    assert gap["value"] == pytest.approx((1.0 + 1.5 + 1.0) / 3)
    assert gap["low"] > 0  # the seeds differ by 40 points, the pairs by half a point
    assert rows["kd"]["accuracy"]["low"] < rows["none"]["accuracy"]["mean"]


def test_one_seed_counts_the_test_samples():
    rows, best = table(cells("none", 40), cells("kd", 30))
    gap = rows["kd"]["to"]["none"]
    expected = paired_difference(logits(30).argmax(1) == TARGETS, logits(40).argmax(1) == TARGETS)
    assert (gap["value"], gap["low"], gap["high"]) == tuple(100 * x for x in expected)
    assert gap["over"] == "test samples"
    assert best == "kd"


def test_seeds_that_only_one_method_has_are_left_out_of_the_difference():
    hits = {seed: logits(10 * seed).argmax(1) == TARGETS for seed in range(3)}
    assert difference({0: hits[0]}, {1: hits[1]}) is None
    assert difference({0: hits[0], 1: hits[1]}, {1: hits[0]})["over"] == "test samples"


@pytest.mark.parametrize(
    ("third", "best"),
    [((60, 62, 61), "kd"), ((20, 22, 21), None), ((19, 23, 21), None), ((10, 11, 12), "third")],
)
def test_the_best_must_be_told_from_every_other(third, best):
    groups = cells("none", 80, 84, 82), cells("kd", 20, 22, 21), cells("third", *third)
    assert table(*groups)[1] == best


def test_two_seeds_that_agree_by_chance_make_no_winner():
    assert table(cells("none", 40, 60), cells("kd", 38, 58))[1] is None
    assert table(cells("none", 40, 60), cells("kd", 20, 40))[1] == "kd"


def test_one_method_alone_is_not_the_best():
    assert table(cells("none", 40, 60), [Cell("kd", 0, None, "it broke")])[1] is None


def test_there_is_no_best_where_a_training_failed():
    clear = cells("none", 40, 44), cells("kd", 10, 11)
    assert table(*clear)[1] == "kd"
    assert table(*clear, [Cell("third", 0, None, "no")])[1] is None


def test_a_failed_cell_is_a_row_with_its_reason():
    broken = [Cell("kd", 0, None, "no checkpoints"), *cells("kd", 30, 30)[1:]]
    rows, _ = table(cells("none", 40, 44), broken, [Cell("third", 0, None, "no")])
    assert rows["kd"]["failures"] == {"0": "no checkpoints"}
    assert rows["kd"]["seeds"] == [1]
    assert rows["kd"]["to"]["none"]["over"] == "test samples"
    assert rows["third"]["accuracy"] is None
    assert rows["third"]["agreement"] is None
    assert rows["third"]["to"] == {"none": None, "kd": None}


def test_what_was_not_timed_has_no_ratio():
    rows, _ = table(cells("none", 40), cells("kd", 30, seconds=1.0))
    assert rows["kd"]["seconds_per_epoch"] == 1.0
    assert rows["kd"]["seconds_ratio"] is None
