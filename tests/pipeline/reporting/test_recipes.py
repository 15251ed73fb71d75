"""The table of recipes: what was tried for int8, and what came of it."""

from __future__ import annotations

from edgedistill.pipeline.reporting import views
from edgedistill.pipeline.reporting.html import render_html
from edgedistill.pipeline.reporting.summary import render_summary


def test_every_recipe_is_told_with_its_outcome(report) -> None:
    rows = [row[1:] for row in views.recipes(report) if row[0] == "onnx-int8"]
    assert [row[:2] for row in rows] == [
        ("minmax", "loses too much"), ("entropy", "onnx: no histogram"), ("percentile", "taken")
    ]  # fmt: skip
    assert rows[0][2:] == ("91.0 %", "7.2", "92.0 %", "12.5 dB", "59.0 kB", "0.710x")


def test_a_single_recipe_is_no_table(report) -> None:
    for artifact in report["artifacts"]:
        if artifact["recipes"]:
            artifact["recipes"]["tried"] = artifact["recipes"]["tried"][-1:]
    assert views.recipes(report) == []
    assert "What was tried for int8" not in render_html(report, {})
    assert "What was tried for int8" not in render_summary(report)


def test_page_and_summary_show_it(report) -> None:
    assert "What was tried for int8" in render_html(report, {})
    assert "onnx: no histogram" in render_summary(report)
