"""The search among recipes: what is tried, what is taken, what is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edgedistill.pipeline.contracts import Signature, TensorSpec, Workspace
from edgedistill.pipeline.errors import ExportError, ParityError
from edgedistill.pipeline.stages import quantize
from edgedistill.pipeline.stages.quantize import Search, Trial

if TYPE_CHECKING:
    from pathlib import Path

ARTIFACTS = dict.fromkeys(("data", "distill", "export-onnx"))
WRITTEN = Signature((TensorSpec("x", (None, 2), "float32"),), ())


@pytest.fixture
def seek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`seek(accuracies, drop)`: search recipes that end so; an error stands for no file."""

    def act(
        outcomes: dict[str, float | ExportError], drop: float = 1.0, final: bool = True
    ) -> dict:
        space = Workspace(tmp_path / "out", tmp_path / "scratch", lambda *_: None)
        space.out.mkdir()

        def make(function, job, folder, timeout) -> Signature:
            recipe = job["recipe"]
            if isinstance(outcomes[recipe], ExportError):
                raise outcomes[recipe]
            (folder / "model.onnx").write_text(recipe)
            return WRITTEN

        def attempt(recipe, draft, search, inputs) -> Trial:
            lost = 90.0 - outcomes[recipe]
            holds = lost <= search.accuracy_drop
            return Trial(recipe, outcomes[recipe] / 100, lost, 1.0, 30.0, 9, 0.5, holds)

        monkeypatch.setattr(quantize, "in_child", make)
        monkeypatch.setattr(quantize, "to_job", lambda artifact: {})
        monkeypatch.setattr(quantize, "_try", attempt)
        search = Search(tuple(outcomes), drop, 8)
        quantize.run("onnx", "int8", search, 60, tmp_path, final, ARTIFACTS, space)
        note = json.loads((space.out / "recipes.json").read_text())
        assert (space.out / "model.onnx").read_text() == note["chosen"]
        return note

    monkeypatch.setattr(quantize, "finish", lambda *_: None)
    return act


def names(note: dict) -> list[str]:
    return [trial["recipe"] for trial in note["tried"]]


def test_it_ends_at_the_first_that_holds(seek) -> None:
    note = seek({"minmax": 80.0, "percentile": 89.5, "entropy": 90.0})
    assert names(note) == ["minmax", "percentile"]
    assert note["chosen"] == "percentile"
    assert [trial["holds"] for trial in note["tried"]] == [False, True]


def test_where_none_holds_the_most_accurate_is_taken(seek) -> None:
    note = seek({"minmax": 70.0, "percentile": 85.0, "entropy": 80.0})
    assert names(note) == ["minmax", "percentile", "entropy"]
    assert note["chosen"] == "percentile"
    assert not any(trial["holds"] for trial in note["tried"])


def test_a_recipe_that_gives_no_file_is_told_and_the_others_go_on(seek) -> None:
    note = seek({"minmax": ExportError("onnx: no such range"), "percentile": 90.0})
    assert note["chosen"] == "percentile"
    assert note["tried"][0]["failed"] == "onnx: no such range"


def test_where_no_recipe_gives_a_file_every_reason_is_told(seek) -> None:
    with pytest.raises(ExportError, match="minmax: no range; entropy: no histogram"):
        seek({"minmax": ExportError("no range"), "entropy": ExportError("no histogram")})


def test_a_single_recipe_fails_with_its_own_words(seek) -> None:
    with pytest.raises(ExportError, match=r"^onnx: no range"):
        seek({"minmax": ExportError("onnx: no range", "try another")})


def test_a_file_that_answers_otherwise_is_refused_with_what_was_tried(seek, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ParityError("it does not answer like its source", "look")

    monkeypatch.setattr(quantize, "finish", refuse)
    with pytest.raises(ParityError, match=r"tried: minmax 50\.0%, entropy 60\.0%"):
        seek({"minmax": 50.0, "entropy": 60.0})


def test_what_can_be_recovered_is_kept_unchecked(seek, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ParityError("it does not answer like its source", "look")

    monkeypatch.setattr(quantize, "finish", refuse)
    assert seek({"minmax": 50.0, "entropy": 60.0}, final=False)["chosen"] == "entropy"
