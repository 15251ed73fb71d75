"""The protocol of latency, on sessions whose times are made up and therefore known."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from edgedistill.pipeline.errors import ConfigError, DataError, TargetError
from edgedistill.pipeline.evaluation.latency import (
    LatencyResult,
    LatencySettings,
    measure,
    ratio,
    warm_up,
)

FEEDS = {"x": np.zeros((1, 3), np.float32)}
QUICK = LatencySettings(seconds=0.4, samples=40, rounds=10, warmup_seconds=1.0)


class Clockwork:
    """A session that answers `time` from a formula and remembers who was asked when.

    Args:
        seconds: of the inference with this index, `(I,) -> (I,)`.
        log: shared between sessions: one entry per call.
    """

    def __init__(self, seconds, name="", log=None):
        self.seconds, self.name, self.log = seconds, name, log if log is not None else []
        self.done = 0

    def time(self, feeds, repeats):
        assert feeds is FEEDS
        index = np.arange(self.done, self.done + repeats)
        self.done += repeats
        self.log.append((self.name, repeats))
        return np.broadcast_to(self.seconds(index), index.shape).astype(np.float64)


def steady(seconds, noise=0.005, seed=0):
    rng = np.random.default_rng(seed)
    return lambda index: seconds * np.exp(rng.normal(0, noise, index.shape))


def run(settings=QUICK, **sessions):
    return measure(sessions, dict.fromkeys(sessions, FEEDS), settings)


def test_warm_up_stops_when_stable():
    """The first 200 inferences get faster and faster; the rest take a millisecond."""
    session = Clockwork(lambda index: 1e-3 * (1 + 2 * np.exp(-index / 60)))
    spent, estimate = warm_up("a", session, FEEDS, cap=10.0)
    assert estimate == pytest.approx(1e-3, rel=0.03)
    assert 150 < session.done < 500
    assert spent < 1.0


def test_warm_up_of_a_steady_session_is_three_windows():
    session = Clockwork(steady(1e-3))
    warm_up("a", session, FEEDS, cap=10.0)
    assert len(session.log) == 1 + 3


def test_warm_up_is_capped():
    session = Clockwork(lambda index: 1e-3 * 1.002**index)
    spent, _ = warm_up("a", session, FEEDS, cap=0.5)
    assert 0.5 <= spent < 1.0


def test_warm_up_can_be_switched_off():
    session = Clockwork(steady(0.01))
    _, estimate = warm_up("a", session, FEEDS, cap=0.0)
    assert session.done == 1
    assert estimate == pytest.approx(0.01, rel=0.05)


def test_every_round_covers_all_in_shuffled_order():
    log = []
    sessions = {
        name: Clockwork(steady(1e-3, seed=seed), name, log) for seed, name in enumerate("abc")
    }
    results = run(**sessions)
    slices = log[-30:]
    rounds = [[name for name, _ in slices[i : i + 3]] for i in range(0, 30, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 2
    assert list(results) == ["a", "b", "c"]
    assert {len(result.rounds) for result in results.values()} == {10}


def test_the_order_is_repeatable_and_follows_the_seed():
    def order(seed):
        log = []
        sessions = {name: Clockwork(lambda index: 1e-3, name, log) for name in "abcd"}
        settings = LatencySettings(seconds=0.4, samples=40, rounds=10, seed=seed)
        run(settings, **sessions)
        return [name for name, _ in log]

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("seconds", [2e-6, 1e-3, 0.05])
def test_both_minima_are_reached(seconds):
    result = run(a=Clockwork(steady(seconds)))["a"]
    assert result.samples.sum() >= 0.4
    assert len(result.samples) >= 40
    assert len(result.rounds) >= 10


def test_a_fast_and_a_slow_one_share_the_rounds():
    results = run(fast=Clockwork(steady(1e-4)), slow=Clockwork(steady(0.02)))
    assert len(results["fast"].rounds) == len(results["slow"].rounds)
    for result in results.values():
        assert result.samples.sum() >= 0.4
    assert len(results["slow"].samples) < len(results["fast"].samples) / 20


def test_one_that_got_faster_after_its_warm_up_is_measured_for_longer():
    session = Clockwork(lambda index: np.where(index < 40, 1e-2, 1e-3))
    result = run(a=session)["a"]
    assert result.samples.sum() >= 0.4
    assert len(result.rounds) > 10


def test_the_limit_wins_over_the_samples_but_not_over_five_rounds():
    settings = LatencySettings(seconds=1, samples=1000, rounds=20, limit_seconds=10)
    result = run(settings, a=Clockwork(lambda index: 1.0))["a"]
    assert 10 <= result.samples.sum() <= 20
    slow = run(settings, a=Clockwork(lambda index: 30.0))["a"]
    assert len(slow.rounds) == 5


def test_the_first_inferences_of_a_slice_do_not_count():
    """Another candidate has just emptied the caches: the first of each call is ten times slower."""

    class Cold(Clockwork):
        def time(self, feeds, repeats):
            seconds = super().time(feeds, repeats).copy()
            seconds[0] *= 10
            return seconds

    result = run(a=Cold(lambda index: 1e-3))["a"]
    assert result.samples.max() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("count", "given"),
    [(99, {"p90": False, "p99": False}), (100, {"p90": True, "p99": False}),
     (999, {"p90": True, "p99": False}), (1000, {"p90": True, "p99": True})],
)  # fmt: skip
def test_percentiles_only_with_enough_samples(count, given):
    samples = np.random.default_rng(0).uniform(1e-3, 2e-3, count)
    figures = LatencyResult(tuple(np.array_split(samples, 9))).to_json()
    for name, there in given.items():
        assert (figures[name] is not None) == there
    assert figures["samples"] == count


def test_json_is_in_milliseconds():
    rounds = tuple(np.array([0.001, 0.002, 0.003]) for _ in range(50))
    figures = LatencyResult(rounds).to_json()
    assert list(figures) == ["min", "p50", "p90", "p99", "ci95", "samples", "verdict"]
    assert figures["min"] == pytest.approx(1.0)
    assert figures["p50"] == pytest.approx(2.0)
    assert figures["p90"] == pytest.approx(3.0)
    assert figures["p99"] is None
    assert figures["ci95"] == pytest.approx([2.0, 2.0])
    assert json.loads(json.dumps(figures)) == figures


def test_a_steady_session_is_stable():
    result = run(a=Clockwork(steady(1e-3, noise=0.02)))["a"]
    assert result.verdict == "stable"
    low, high = result.ci95
    assert low <= result.p50 <= high
    assert result.p50 == pytest.approx(1e-3, rel=0.01)


def test_a_drifting_session_is_noisy():
    """It heats up: 10 % slower at the end, too slowly for the warm-up to notice."""
    session = Clockwork(lambda index: 1e-3 * (1 + 0.2 * index / 500))
    result = run(a=session)["a"]
    assert result.drift > 0.05
    assert result.verdict == "noisy"


def test_rounds_that_contradict_each_other_are_noisy():
    """Every second round runs at another clock: no drift, but no figure to trust either."""
    shifts = np.where(np.arange(20) % 2, 1.0, 1.3)
    rounds = tuple(1e-3 * shift * np.ones(50) for shift in shifts)
    result = LatencyResult(rounds)
    assert abs(result.drift) < 0.05
    assert result.verdict == "noisy"


def test_the_ratio_of_two_that_share_a_disturbance():
    """The machine's speed changes by a third from call to call; the ratio is 2.5 all the same."""
    calls = itertools.count()
    rng = np.random.default_rng(5)
    speeds = np.repeat(np.exp(rng.normal(0, 0.3, 400)), 2)

    def disturbed(seconds, seed):
        noise = steady(seconds, seed=seed)
        return lambda index: noise(index) * speeds[next(calls)]

    sessions = {"teacher": Clockwork(disturbed(5e-3, 1)), "student": Clockwork(disturbed(2e-3, 2))}
    settings = LatencySettings(seconds=1, samples=100, rounds=20, warmup_seconds=0.0)
    results = run(settings, **sessions)
    speedup = ratio(results["teacher"], results["student"])
    low, high = speedup.ci95
    assert low <= 2.5 <= high
    assert high - low < 0.2
    assert results["teacher"].verdict == "noisy"
    assert speedup.to_json() == {"value": speedup.value, "ci95": [low, high]}


def test_ratio_of_unpaired_results_is_refused():
    a, b = (LatencyResult(tuple(np.ones(3) for _ in range(n))) for n in (5, 6))
    with pytest.raises(DataError, match="5 rounds against 6"):
        ratio(a, b)


def test_progress_counts_up_to_its_total():
    seen = []
    measure(
        {"a": Clockwork(steady(1e-3))}, {"a": FEEDS}, QUICK,
        progress=lambda done, total, note: seen.append((done, total, note)),
    )  # fmt: skip
    assert all(done <= total for done, total, _ in seen)
    assert seen[0][2] == "warm-up a"
    assert seen[-1][2] == "round 10"


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0}, {"samples": 0}, {"rounds": 4}, {"warmup_seconds": -1}, {"limit_seconds": 1}],
)
def test_wrong_settings_name_the_value(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"{name} = {value} is out of range"):
        LatencySettings(**wrong)


def test_the_limit_follows_long_settings():
    assert LatencySettings(seconds=5).limit == 60
    assert LatencySettings(seconds=100).limit == 200
    assert LatencySettings(seconds=5, limit_seconds=8).limit == 8


def test_missing_feeds_are_named():
    with pytest.raises(ConfigError, match=r"no feeds for \['b'\]"):
        measure({"a": Clockwork(steady(1)), "b": Clockwork(steady(1))}, {"a": FEEDS}, QUICK)


@pytest.mark.parametrize("times", [[], [0.0], [np.nan], [-1.0]])
def test_impossible_times_are_refused(times):
    class Broken(Clockwork):
        def time(self, feeds, repeats):
            return np.array(times)

    with pytest.raises(TargetError, match="a: expected 1 positive times"):
        run(a=Broken(None))
