from __future__ import annotations

import pytest

from edgedistill.pipeline.reporting import headlines, views


def test_verdict_passed(report):
    found = headlines.verdict(report)
    assert (found.state, found.title) == ("passed", "All 3 goals met")
    assert found.detail == "tflite-int8 was selected."


def test_verdict_counts_missed_goals_and_failed_stages(failing):
    found = headlines.verdict(failing)
    assert (found.state, found.title) == ("failed", "2 of 3 goals missed")
    assert "1 stage failed" in found.detail


def test_a_failed_stage_is_never_plain_green(report):
    report["failures"] = [{"stage": "export-onnx-fp32", "message": "no"}]
    assert headlines.verdict(report).state == "warned"


def test_not_passed_without_goals_does_not_read_as_success(failing):
    failing.update(goals=[], artifacts=[])
    found = headlines.verdict(failing)
    assert found.title == "The run did not pass"
    assert "No artefact could be evaluated" in found.detail


def test_headline_is_the_closest_when_nothing_was_selected(failing):
    for artifact, met in zip(failing["artifacts"], (1, 3, 2), strict=True):
        for place, goal in enumerate(artifact["goals"]):
            goal["met"] = place < met
    assert headlines.headline(failing)["name"] == failing["artifacts"][1]["name"]


def test_tiles_say_that_a_latency_is_noisy_or_missing(report, failing):
    chosen = views.selected(report)
    chosen["measurements"][0]["latency_ms"]["verdict"] = "noisy"
    assert "noisy: do not compare" in headlines.tiles(report)[1].remarks
    for artifact in failing["artifacts"]:
        artifact["measurements"] = []
    assert headlines.tiles(failing)[1].figure == "-"


@pytest.mark.parametrize(
    ("wanted", "limit"),
    [("at most 1.0 points", 1.0), ("at least 1.2x", 1.2), ("at most 250 µs", 0.25),
     ("at most 250 us", 0.25), ("at most 2 ms", 2.0), ("at most 200 kB", 200e3),
     ("at most 1 MiB", 2**20), ("smaller than the teacher", None), ("at most 3 apples", None)],
)  # fmt: skip
def test_goal_limit_reads_figure_and_unit(report, wanted, limit):
    report["goals"] = [{"name": "it", "wanted": wanted, "got": "", "met": True}]
    assert headlines.goal_limit(report, "it") == limit
    assert headlines.goal_limit(report, "other") is None


def test_gain_quotes_the_verdict_with_its_interval(report):
    assert headlines.gain(report) == (
        "Distillation (kd) against the baseline: +0.6 (-0.1 to 1.3) points: "
        "not distinguishable from the baseline "
        "(one seed; the interval is that of the test samples)."
    )


def test_a_second_target_is_a_row_of_its_own(report):
    first = report["artifacts"][0]
    first["measurements"].append({**first["measurements"][0], "target": "android"})
    rows = [row for row in views.artifacts(report) if row.name == first["name"]]
    assert [(row.target, row.first) for row in rows] == [("cpu", True), ("android", False)]
    assert views.targets(report) == ["cpu", "android"]
