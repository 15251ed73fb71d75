"""Recovery by quantization-aware distillation: when it is made, and what it hands on."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from edgedistill.pipeline.config import Config
from edgedistill.pipeline.contracts import Artifact, Signature, TensorSpec, Workspace
from edgedistill.pipeline.stages import recover
from edgedistill.pipeline.stages.quantize import Search, Trial

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = Signature((TensorSpec("x", (None, 2), "float32"),), ())
SEARCH = Search(("minmax", "percentile"), 1.0, 8)


def trial(recipe: str, accuracy: float) -> Trial:
    return Trial(recipe, accuracy, 100 * (0.9 - accuracy), 1.0, 30.0, 9, 0.5, accuracy >= 0.89)


def quantized(folder: Path, *trials: Trial) -> Artifact:
    folder.mkdir()
    best = max(trials, key=lambda one: one.rank)
    note = {"chosen": best.recipe, "tried": [asdict(one) for one in trials]}
    (folder / "recipes.json").write_text(json.dumps(note))
    (folder / "model.onnx").write_text("before")
    files = dict.fromkeys(("recipes.json", "model.onnx"), "")
    return Artifact("onnx", "int8", folder, files, WRITTEN, "", "")


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    (tmp_path / "out").mkdir()
    return Workspace(tmp_path / "out", tmp_path / "scratch", lambda *_: None)


@pytest.fixture
def requantize(tmp_path: Path, space: Workspace, monkeypatch: pytest.MonkeyPatch):
    """`requantize(before, accuracies)`: what comes of a recovered student."""

    def act(before: Artifact | None, accuracies: dict[str, float]) -> dict:
        def make(function, job, folder, timeout) -> Signature:
            (folder / "model.onnx").write_text(f"recovered, {job['recipe']}")
            return WRITTEN

        def look(kind, precision, search, make, inputs, workspace):
            tried = [trial(recipe, accuracy) for recipe, accuracy in accuracies.items()]
            for one in tried:
                folder = workspace.scratch / one.recipe / "files"
                folder.mkdir(parents=True)
                make(one.recipe, folder)
            return tried, dict.fromkeys(accuracies, WRITTEN)

        monkeypatch.setattr(recover, "_in_child", lambda *_: WRITTEN)
        monkeypatch.setattr(recover, "to_job", lambda artifact: {})
        monkeypatch.setattr(recover, "in_child", make)
        monkeypatch.setattr(recover, "look", look)
        monkeypatch.setattr("edgedistill.pipeline.stages.quantize.finish", lambda *_: None)
        monkeypatch.setattr(recover, "finish", lambda *_: None)
        inputs = dict.fromkeys(("data", "distill", "export-onnx", "recover"))
        if before is not None:
            inputs["quantize-onnx-int8"] = before
        recover.requantize("onnx", SEARCH, 60, tmp_path, inputs, space)
        return json.loads((space.out / "recipes.json").read_text())

    return act


def test_it_is_needed_where_a_format_lost_too_much_or_has_no_file(tmp_path: Path) -> None:
    good = quantized(tmp_path / "good", trial("minmax", 0.5), trial("percentile", 0.9))
    poor = quantized(tmp_path / "poor", trial("minmax", 0.5))
    exports = {"export-onnx": good, "export-tflite": good}
    held = {"quantize-onnx-int8": good, "quantize-tflite-int8": good}
    assert not recover.needed(exports | held)
    assert recover.needed(exports | held | {"quantize-onnx-int8": poor})
    assert recover.needed(exports | {"quantize-onnx-int8": good})


def test_nothing_is_trained_where_all_holds(tmp_path: Path, space: Workspace) -> None:
    good = quantized(tmp_path / "good", trial("minmax", 0.9))
    inputs = {"export-onnx": good, "quantize-onnx-int8": good}
    recover.run(Config(), tmp_path, inputs, space)
    assert json.loads((space.out / "recovered.json").read_text())["needed"] is False
    assert [p.name for p in space.out.iterdir()] == ["recovered.json"]


def test_a_file_that_holds_is_handed_on(tmp_path: Path, space: Workspace, requantize) -> None:
    before = quantized(tmp_path / "good", trial("minmax", 0.9))
    assert requantize(before, {})["chosen"] == "minmax"
    assert (space.out / "model.onnx").read_text() == "before"
    assert (space.describe.kind, space.describe.precision) == ("onnx", "int8")


def test_a_recovered_file_takes_its_place_and_all_trials_are_told(
    tmp_path: Path, space: Workspace, requantize
) -> None:
    before = quantized(tmp_path / "poor", trial("minmax", 0.5), trial("percentile", 0.6))
    note = requantize(before, {"minmax": 0.7, "percentile": 0.9})
    assert note["chosen"] == "qad, percentile"
    assert (space.out / "model.onnx").read_text() == "recovered, percentile"
    names = [one["recipe"] for one in note["tried"]]
    assert names == ["minmax", "percentile", "qad, minmax", "qad, percentile"]


def test_a_recovery_that_made_it_worse_is_not_taken(
    tmp_path: Path, space: Workspace, requantize
) -> None:
    before = quantized(tmp_path / "poor", trial("minmax", 0.8))
    assert requantize(before, {"minmax": 0.7})["chosen"] == "minmax"
    assert (space.out / "model.onnx").read_text() == "before"


def test_where_there_was_no_file_the_recovered_one_is_taken(space: Workspace, requantize) -> None:
    assert requantize(None, {"minmax": 0.7})["chosen"] == "qad, minmax"
    assert (space.out / "model.onnx").read_text() == "recovered, minmax"


def test_it_trains_shorter_and_finer_than_the_student() -> None:
    config = Config(distill={"epochs": 20, "lr": 0.01}, quantize={"recover": "qad", "epochs": 3})
    made = recover.settings_of(config)
    assert (made.epochs, made.lr) == (3, pytest.approx(0.001))
