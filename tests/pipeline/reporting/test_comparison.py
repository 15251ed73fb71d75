from __future__ import annotations

import pytest

from edgedistill.pipeline.reporting import comparison


def row(method, seeds=(0, 1), **changes):
    gap = {"value": 1.04, "low": -0.5, "high": 2.58, "over": "seeds"}
    return {
        "method": method, "seeds": list(seeds), "accuracies": [90.0, 92.0],
        "accuracy": {"mean": 91.0, "low": 78.3, "high": 103.7}, "to": {"none": gap},
        "agreement": 95.0, "seconds_per_epoch": 0.5, "seconds_ratio": 1.25,
        "failures": {}, **changes,
    }  # fmt: skip


def record(*rows, best=None, seeds=(0, 1)):
    return {
        "methods": list(rows), "best": best, "seeds": list(seeds), "references": ["none", "kd"],
        "teacher": 97.0,
    }  # fmt: skip


FAILED = {
    "seeds": [], "accuracy": None, "to": {}, "agreement": None, "seconds_per_epoch": None,
    "seconds_ratio": None, "failures": {"0": "it broke", "1": "it broke"},
}  # fmt: skip


def test_cells():
    found = comparison.grid(record(row("kd"), row("x", **FAILED)))
    assert found.rows[0] == (
        "kd", "91.0 ± 12.7 %", "+1.0 (-0.5 to 2.6)", "-", "95.0 %", "0.500", "1.25x",
    )  # fmt: skip
    assert set(found.rows[1][1:]) == {"-"}
    assert len(found.heads) == len(found.rows[0])


def test_seeds_are_shown_where_some_failed_and_some_did_not():
    partly = row("kd", seeds=(1,), failures={"0": "it broke"})
    found = comparison.grid(record(row("none"), partly))
    assert found.heads[-1] == "seeds"
    assert [cells[-1] for cells in found.rows] == ["2/2", "1/2"]


def test_one_seed_has_an_accuracy_without_interval():
    alone = row("kd", accuracy={"mean": 91.0, "low": None, "high": None})
    assert comparison.grid(record(alone, seeds=[0])).rows[0][1] == "91.0 %"
    assert any("one seed" in note for note in comparison.notes(record(alone, seeds=[0])))


@pytest.mark.parametrize(
    ("best", "seeds", "told"),
    [("kd", (0, 1), "kd is best"), (None, (0, 1), "no method can be told"),
     (None, (0,), "over test samples")],
)  # fmt: skip
def test_the_verdict(best, seeds, told):
    assert told in comparison.verdict(record(row("none"), row("kd"), best=best, seeds=seeds))


def test_no_verdict_where_a_training_failed():
    found = record(row("none"), row("kd", **FAILED), best=None)
    assert "no verdict: not every training of kd ended well" in comparison.verdict(found)


def test_few_seeds_are_called_few():
    assert any("run 5" in note for note in comparison.notes(record(row("none"), seeds=[0, 1])))


def test_a_picture_where_every_training_failed():
    assert comparison.draw_png(record(row("kd", **FAILED))).startswith(b"\x89PNG")
