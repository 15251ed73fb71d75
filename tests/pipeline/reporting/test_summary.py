from __future__ import annotations

import copy
import io

from rich.console import Console

from edgedistill.pipeline.reporting.protocol import small_print
from edgedistill.pipeline.reporting.summary import render_summary
from edgedistill.pipeline.reporting.tables import print_report

# What only charts show, what a verdict in words stands for, and the version of the schema.
NOT_IN_WORDS = {"schema", "history", "met", "meets_goals", "passed"}


def figures_of(node, path=()):
    """Paths of every figure in a JSON tree."""
    if isinstance(node, bool) or (path and path[-1] in NOT_IN_WORDS):
        return
    if isinstance(node, int | float):
        yield path
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from figures_of(value, (*path, key))


def changed(report, path):
    other = copy.deepcopy(report)
    node = other
    for key in path[:-1]:
        node = node[key]
    value = node[path[-1]]
    node[path[-1]] = 0.5 * value if 0 < value <= 1 else 3 * value + 7
    return other


def everything(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=400))
    return f"{render_summary(report)}\n{small_print(report)}\n{out.getvalue()}"


def test_every_figure_of_the_report_is_shown_somewhere_in_words(report):
    report["artifacts"] = report["artifacts"][1:3]
    report["attribution"] = [
        hop for hop in report["attribution"] if hop["artifact"] == "onnx-int8"
    ]  # fmt: skip
    report["student"]["figures"] = []  # those are shown as pictures alone
    before = everything(report)
    paths = [path for path in figures_of(report) if path[-1] != "accuracy"]
    assert len(paths) > 100
    silent = [path for path in paths if everything(changed(report, path)) == before]
    assert silent == []


def test_summary_has_the_headline_figures(report):
    text = render_summary(report)
    assert text.startswith("# digits: All 3 goals met\n")
    for figure in ("98.0 %", "142 µs", "31.7 kB", "19.9 k", "1.08 M", "16.3x"):
        assert figure in text
    assert text.count("**tflite-int8**") == 1


def test_summary_tables_are_rectangular(report, failing):
    for found in (report, failing):
        for block in render_summary(found).split("\n\n"):
            rows = [line for line in block.splitlines() if line.startswith("|")]
            assert len({line.count(" | ") for line in rows}) <= 1


def test_hostile_names_stay_text(report):
    report["artifacts"][0]["name"] = "a|b<script>*x*\n# head"
    text = render_summary(report)
    assert "<script>" not in text.replace("\\<script>", "")
    assert "a\\|b\\<script>\\*x\\* \\# head" in text
    assert "\n# head" not in text


def test_summary_of_a_failing_run(failing):
    text = render_summary(failing)
    assert "## Failures" in text
    assert "| speedup | at least 8x | 5.6x | missed |" in text
    assert "baseline" not in text
    assert "None" not in text


def test_summary_without_artefacts(failing):
    failing.update(artifacts=[], attribution=[], goals=[])
    text = render_summary(failing)
    assert "No artefact could be evaluated" in text
    assert "## Artefacts" not in text
