from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgedistill.pipeline.reporting.tables import Column, fit, print_report


def printed(report, width):
    out = io.StringIO()
    print_report(report, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_prints_whole_names_within_the_width_and_without_ansi(report, failing, width):
    report["artifacts"][0]["name"] = "openvino-int8-dynamic"
    for found in (report, failing):
        text = printed(found, width)
        assert "\x1b" not in text
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert all(artifact["name"] in text for artifact in found["artifacts"])


def test_a_wider_console_shows_more_and_a_narrow_one_keeps_what_matters(report):
    narrow, wide = printed(report, 80), printed(report, 120)
    assert "worth it" in wide
    for title in ("artefact", "accuracy", "drop", "p50", "size"):
        assert title in narrow
    lines = {len(max(text.splitlines(), key=len)) for text in (narrow, wide)}
    assert len(lines) == 2


def test_very_narrow_folds_rather_than_truncates(report):
    report["artifacts"] = report["artifacts"][:1]
    report["artifacts"][0]["name"] = "n" * 50
    assert printed(report, 30).count("n" * 5) >= 8
    assert "…" not in printed(report, 30)


def test_marks_the_selected_and_the_noisy(report):
    lines = printed(report, 120).splitlines()
    assert sum(line.startswith("* tflite-int8") for line in lines) == 2  # artefacts, attribution
    assert [line.split()[0] for line in lines if "µs ~" in line] == ["onnx-fp16"]


def test_shows_failures_and_missed_goals(failing):
    text = printed(failing, 80)
    assert "failed: export-tflite-fp32" in text
    assert "aten.roll has no TFLite lowering." in text
    assert "2 of 3 goals missed" in text


def test_markup_and_control_characters_are_shown_not_obeyed(report):
    report["name"] = "[red]bold[/red]\x1b[31m"
    text = printed(report, 100)
    assert "[red]bold[/red]?[31m" in text
    assert "\x1b" not in text


def test_a_console_without_unicode_gets_ascii(report):
    report["name"] = "Ziffern-é"
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    print_report(report, Console(file=out, width=120))
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert "142 us" in text
    assert "Ziffern-?" in text


def test_fit_fills_by_rank_and_keeps_the_order():
    columns = [Column("a", ["1234"]), Column("b", ["12345678"], rank=2), Column("c", ["1"], rank=1)]
    assert [column.title for column in fit(columns, 8)] == ["a", "c"]
    assert [column.title for column in fit(columns, 40)] == ["a", "b", "c"]
    assert [column.title for column in fit(columns, 1)] == ["a"]


def test_a_column_of_dashes_is_left_out(failing):
    assert "speed-up" not in printed(failing, 120)
