from __future__ import annotations

import numpy as np
import pytest

from edgedistill.pipeline.config import Goals
from edgedistill.pipeline.evaluation import verdict


def right(count, total=100):
    """The first `count` of `total` answers are right."""
    return np.arange(total) < count


def ratio(value, low, high):
    return {"value": value, "ci95": [low, high]}


def entry(name="onnx-int8", size=100, p50=1.0, drop=0.0, latency=None, speedup=None, **more):
    timed = {"p50": p50, "ci95": [p50, p50] if p50 else None, "verdict": "stable"}
    measured = {"latency_ms": timed, "speedup": speedup, "latency_ratio": latency}
    result = {
        "name": name, "size_bytes": size, "measurements": [measured] if p50 else [],
        "drop": {"value": drop, "ci95": [drop - 0.5, drop + 0.5]},
        "accuracy": {"value": 0.9}, "agreement": {"teacher": 0.95},
        "goals": [], "meets_goals": True, "worth_it": None,
    }  # fmt: skip
    return {**result, **more}


def test_accuracy_has_an_interval():
    found = verdict.accuracy(right(90))
    assert found["value"] == 0.9
    # Wilson by hand: centre (90 + 1.92) / 103.84 = 0.8852, half width 0.0596
    assert found["ci95"] == pytest.approx([0.8256, 0.9448], abs=2e-4)


def test_drop_is_paired_points():
    found = verdict.drop(right(90), right(87))
    assert found["value"] == pytest.approx(3.0)
    assert found["ci95"][0] < 3 < found["ci95"][1]
    assert verdict.drop(right(87), right(90))["value"] == pytest.approx(-3.0)
    same = verdict.drop(right(90), right(90))
    assert same["value"] == 0


@pytest.mark.parametrize(
    ("baseline", "student", "told"),
    [(700, 900, "above the baseline"), (900, 700, "below the baseline"),
     (900, 901, "not distinguishable from the baseline")],
)  # fmt: skip
def test_gain(baseline, student, told):
    found = verdict.gain(right(baseline, 1000), right(student, 1000))
    assert found["verdict"] == told
    assert found["value"] == pytest.approx((student - baseline) / 10)


FINE = {"value": 0.0, "ci95": [-0.3, 0.3]}


@pytest.mark.parametrize(
    ("latency", "size", "lost", "wanted"),
    [
        (ratio(0.5, 0.45, 0.55), 100, FINE, "yes"),  # surely faster
        (ratio(1.0, 0.95, 1.05), 50, FINE, "yes"),  # smaller, as fast
        (ratio(1.0, 0.95, 1.05), 95, FINE, "unclear"),  # neither
        (ratio(1.15, 1.0, 1.3), 50, FINE, "unclear"),  # smaller, but maybe slower
        (ratio(1.2, 1.1, 1.3), 50, FINE, "no"),  # surely slower
        (ratio(0.5, 0.45, 0.55), 50, {"value": 3, "ci95": [1.5, 4.5]}, "no"),  # surely worse
        (ratio(0.5, 0.45, 0.55), 50, {"value": 3, "ci95": [0.5, 5.5]}, "unclear"),  # maybe
        (None, 50, FINE, "unclear"),  # not measured
    ],
)
def test_worth_it(latency, size, lost, wanted):
    found = verdict.worth_it(entry(latency=latency, size=size), entry("onnx-fp32"), lost)
    assert found["verdict"] == wanted
    assert found["size_ratio"] == size / 100


def test_worth_it_goes_by_the_slowest_target():
    one = entry(latency=ratio(0.5, 0.45, 0.55))
    slow = entry(latency=ratio(1.5, 1.4, 1.6))
    both = {**one, "measurements": [*one["measurements"], *slow["measurements"]]}
    found = verdict.worth_it(both, entry("onnx-fp32"), FINE)
    assert (found["verdict"], found["latency_ratio"]["value"]) == ("no", 1.5)


def test_worth_it_says_that_it_is_noisy():
    noisy = entry(latency=ratio(0.5, 0.45, 0.55))
    noisy["measurements"][0]["latency_ms"]["verdict"] = "noisy"
    found = verdict.worth_it(noisy, entry("onnx-fp32"), FINE)
    assert found["why"].startswith("0.50x the latency of onnx-fp32 (noisy), ")


def test_worth_it_says_why():
    found = verdict.worth_it(
        entry(latency=ratio(1.5, 1.4, 1.6), size=40), entry("onnx-fp32"),
        {"value": 2.04, "ci95": [1.0, 3.0]},
    )  # fmt: skip
    assert found["why"] == "1.50x the latency of onnx-fp32, 0.40x its size, 2.0 points worse"


@pytest.mark.parametrize(
    ("goal", "at", "beyond", "change"),
    [
        ("accuracy_drop", 1.0, 0.99, {"drop": {"value": 1.0, "ci95": [0, 2]}}),
        ("accuracy", 90.0, 90.01, {"accuracy": {"value": 0.9}}),
        ("agreement", 95.0, 95.01, {"agreement": {"teacher": 0.95}}),
        ("speedup", 2.0, 2.01, {}),
        ("latency", 0.5, 0.49, {}),
        ("size", 2000, 1999, {"size_bytes": 2000}),
    ],
)
def test_goals_at_the_boundary(goal, at, beyond, change):
    held = {**entry(p50=0.5, speedup=ratio(2.0, 1.9, 2.1)), **change}
    assert [g["met"] for g in verdict.check_goals({goal: at}, held)] == [True]
    assert [g["met"] for g in verdict.check_goals({goal: beyond}, held)] == [False]


def test_every_goal_of_the_config_can_be_checked():
    wanted = dict.fromkeys(Goals.model_fields, 50.0)
    found = verdict.check_goals(wanted, entry(speedup=ratio(2, 1, 3)))
    assert [goal["name"] for goal in found] == list(Goals.model_fields)
    assert verdict.check_goals(dict.fromkeys(wanted), entry()) == []


@pytest.mark.parametrize("goal", ["speedup", "latency"])
def test_what_was_not_measured_is_not_met(goal):
    (found,) = verdict.check_goals({goal: 1.0}, entry(p50=None))
    assert (found["got"], found["met"]) == ("not measured", False)


def test_the_slowest_target_decides():
    held = entry(p50=1.0, speedup=ratio(3, 2, 4))
    slow = entry(p50=9.0, speedup=ratio(0.5, 0.4, 0.6))["measurements"]
    held["measurements"] += slow
    assert verdict.slowest_median(held) == 9.0
    assert not verdict.check_goals({"latency": 5.0}, held)[0]["met"]
    assert not verdict.check_goals({"speedup": 1.0}, held)[0]["met"]


def test_choose_the_fastest():
    entries = [entry("a", p50=1.0), entry("b", p50=2.0, size=1)]
    assert verdict.choose(entries) == ("a", "the fastest that meets every goal")


def test_of_those_as_fast_the_smallest():
    entries = [entry("a", p50=1.0, size=100), entry("b", p50=1.05, size=50),
               entry("c", p50=1.06, size=1)]  # fmt: skip
    name, why = verdict.choose(entries)
    assert (name, why) == ("b", "the smallest of the fastest that meet every goal")


def test_what_noise_does_not_tell_apart_is_as_fast():
    fast, small = entry("a", p50=1.0), entry("b", p50=1.2, size=50)
    assert verdict.choose([fast, small])[0] == "a"
    for held, ci95 in ((fast, [0.8, 1.3]), (small, [1.1, 1.4])):
        held["measurements"][0]["latency_ms"] |= {"ci95": ci95, "verdict": "noisy"}
    name, why = verdict.choose([fast, small])
    assert name == "b"
    assert why.endswith("; the latencies are noisy")


def test_what_misses_a_goal_is_not_chosen():
    entries = [entry("a", p50=0.1, meets_goals=False, goals=[{"met": False}]), entry("b")]
    assert verdict.choose(entries)[0] == "b"


def test_if_all_miss_the_one_that_misses_least():
    def missing(name, count, drop):
        goals = [{"met": False}] * count
        return entry(name, drop=drop, meets_goals=False, goals=goals)

    entries = [missing("a", 2, 0.0), missing("b", 1, 3.0), missing("c", 1, 2.0)]
    name, why = verdict.choose(entries)
    assert (name, why) == ("c", "no artefact meets every goal; it misses 1")


def test_nothing_to_choose():
    assert verdict.choose([]) == (None, "nothing was exported")


@pytest.mark.parametrize("meets", [True, False])
@pytest.mark.parametrize(
    ("latency", "said"),
    [(ratio(1.3, 1.2, 1.4), True), (ratio(1.03, 1.0, 1.06), True), (ratio(0.8, 0.7, 0.9), False)],
)
def test_never_an_int8_that_is_slower_without_saying_so(meets, latency, said):
    goals = [{"met": meets}]
    int8 = entry("onnx-int8", p50=1.0, size=50, latency=latency, meets_goals=meets, goals=goals)
    fp32 = entry("onnx-fp32", p50=0.98, size=200, meets_goals=False, goals=[{"met": False}] * 2)
    int8["worth_it"] = verdict.worth_it(int8, fp32, FINE)
    name, why = verdict.choose([fp32, int8])
    assert name == "onnx-int8"
    assert (f"; but {latency['value']:.2f}x the latency of onnx-fp32" in why) == said
