"""What `plan` foresees on the finished run, without doing it."""

from __future__ import annotations

import pytest

from edgedistill.pipeline.configfile import load_config
from edgedistill.pipeline.forecast import forecast
from edgedistill.pipeline.plan import make_plan
from edgedistill.pipeline.runs import RunFolder


@pytest.fixture
def foresee(finished):
    def look(*overrides, project=finished):
        plan = make_plan(load_config(project.config, overrides), project.root)
        folder = RunFolder(project.root / "runs", "tiny")
        return {line.stage: line for line in forecast(plan, folder.store, folder.recipes())}

    return look


def to_do(lines):
    return {name for name, line in lines.items() if line.state == "to do"}


def test_nothing_changed(foresee):
    assert to_do(foresee()) == set()


CHANGES = [
    ("distill.epochs=9", "distill", "epochs 2 -> 9", {"data", "teacher", "export-teacher"}),
    ("distill.temperature=2", "distill", "options.temperature 4.0 -> 2.0",
     {"data", "teacher", "export-teacher", "baseline"}),
    ("teacher.epochs=9", "teacher", "epochs 3 -> 9", {"data", "baseline"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "first", "why", "kept"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_change_of_the_training(foresee, change, first, why, kept):
    lines = foresee(change)
    assert set(lines) - to_do(lines) == kept
    assert why in lines[first].why
    assert "to do first" in lines["report"].why


def test_a_goal_redoes_the_verdict_alone(foresee):
    lines = foresee("evaluate.goals.accuracy=5")
    assert to_do(lines) == {"select", "bundle", "report"}
    assert lines["select"].why == "goals.accuracy (none) -> 5.0"


def test_one_format_less(foresee):
    lines = foresee("export.formats=[onnx,openvino]")
    assert to_do(lines) == {"evaluate-cpu", "select", "bundle", "report"}


def test_damage_is_foreseen(foresee, copied):
    weights = next(copied.run.glob("stages/distill/weights.safetensors"))
    weights.write_bytes(b"other")
    lines = foresee(project=copied)
    assert "distill" in to_do(lines)
    assert "weights.safetensors was changed" in lines["distill"].why
    assert lines["teacher"].state == "cached"
