from __future__ import annotations

import json

import pytest

from edgedistill.pipeline.errors import ConfigError
from edgedistill.pipeline.experiments import document

RECORD = {
    "method": "kd", "seeds": 2, "seconds": 12.4, "date": "2026-01-02T03:04:05+00:00",
    "command": "edgedistill reproduce kd --seeds 2",
    "machine": {"cpu": "A CPU"}, "versions": {"edgedistill": "1.0", "torch": "2.0", "numpy": "3"},
    "tables": [{
        "title": "accuracy", "unit": "%", "digits": 1,
        "arms": [{"name": "kd | T = 4", "values": [97.0, 98.0]},
                 {"name": "labels", "values": [90.0, "inf"]}],
    }],
    "checks": [{"statement": "kd is ahead", "holds": True, "got": "97.5 against 90"}],
    "figures": [],
}  # fmt: skip
TEXT = """\
# Methods
<!-- result: kd -->
old
<!-- end -->
between
<!-- result: other -->
<!-- end -->
"""


@pytest.fixture
def files(tmp_path):
    """A result and a document with marks."""
    (tmp_path / "kd.json").write_text(json.dumps(RECORD))
    (tmp_path / "methods.md").write_text(TEXT)
    return str(tmp_path / "kd.json"), str(tmp_path / "methods.md")


def test_the_table_with_date_machine_and_command():
    assert document.markdown(RECORD).splitlines() == [
        "**accuracy (%)**",
        "",
        "| arm | mean ± 95 % | median | solved | min | max |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| kd \\| T = 4 | 97.5 ± 6.4 | 97.5 | 2/2 | 97.0 | 98.0 |",
        "| labels | - | never | 1/2 | 90.0 | never |",
        "",
        "- **holds**: kd is ahead (97.5 against 90)",
        "",
        "*2026-01-02, 2 seeds in 12 s, A CPU, edgedistill 1.0, torch 2.0:*"
        " `edgedistill reproduce kd --seeds 2`",
    ]


def test_only_what_stands_between_the_marks_is_replaced(files, tmp_path):
    assert document.main(files) == 0
    filled = (tmp_path / "methods.md").read_text("utf-8")
    before, after = TEXT.split("old\n")
    assert filled == f"{before}{document.markdown(RECORD)}\n{after}"
    assert document.main(files) == 0
    assert (tmp_path / "methods.md").read_text("utf-8") == filled  # again is the same


def test_a_text_that_looks_like_a_group_reference_stays():
    record = {**RECORD, "tables": [], "checks": [{"statement": r"\1 \g<0>", "holds": 1, "got": ""}]}
    assert r"\1 \g<0>" in document.fill(TEXT, [record])


def test_a_method_without_a_mark_leads_to_the_marks():
    with pytest.raises(ConfigError, match="no mark '<!-- result: others -->'") as caught:
        document.fill(TEXT, [{**RECORD, "method": "others"}])
    assert "did you mean 'other'" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["<!-- result: kd -->\nno end", "<!-- result: kd -->\n<!-- result: b -->\n<!-- end -->"]
)
def test_a_mark_without_an_end(text):
    with pytest.raises(ConfigError, match="has no '<!-- end -->'"):
        document.fill(text, [RECORD])


def test_a_fault_leaves_the_document(files, tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    assert document.main([files[0], str(tmp_path / "other.json"), files[1]]) == 2
    assert "not the result of an experiment" in capsys.readouterr().err
    assert document.main([str(tmp_path / "gone.json"), files[1]]) == 2
    assert "gone.json" in capsys.readouterr().err
    assert document.main([files[0]]) == 2
    assert "usage" in capsys.readouterr().err
    assert (tmp_path / "methods.md").read_text() == TEXT
