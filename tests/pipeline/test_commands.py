from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgedistill.pipeline import commands
from edgedistill.pipeline.configfile import load_config
from edgedistill.pipeline.contracts import Missing
from edgedistill.pipeline.errors import MissingDependency
from edgedistill.pipeline.plan import make_plan

LACKING = {
    "data": Missing(("mlxtend",), "examples"),
    "exporter": Missing(("nncf",), "openvino"),
    "report": Missing(("matplotlib",), "report"),
}

MODEL = """
import torch


class Moody(torch.nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.layer = torch.nn.Linear(features, classes)

    def forward(self, x):
        if self.training:
            raise RuntimeError("not in this mood")
        return self.layer(x.flatten(1))


def build(features=64, classes=10):
    return Moody(features, classes)
"""


@pytest.fixture
def run(project, monkeypatch):
    """`edgedistill run --until STAGE` in an environment that lacks some libraries."""

    def lacking(until, *what):
        made = make_plan(load_config(project.config, ()), project.root)
        plan = replace(made, missing=tuple(LACKING[name] for name in what))
        monkeypatch.setattr(commands, "_plan", lambda *arguments: plan)
        runs = project.root / "runs"
        return commands.run_pipeline(project.config, (), runs, until, (), False)

    return lacking


def test_until_a_stage_needs_only_what_runs(run, project):
    assert run("data", "exporter", "report") == 0
    assert (project.run / "stages" / "data").is_dir()


@pytest.mark.parametrize(
    ("until", "what", "told"),
    [("data", "data", "mlxtend"), ("export", "exporter", "nncf"), ("evaluate", "exporter", "nncf"),
     ("report", "report", "matplotlib"), (None, "report", "matplotlib")],
)  # fmt: skip
def test_what_a_stage_needs_is_asked_for_before_any_work(run, project, until, what, told):
    with pytest.raises(MissingDependency, match=told):
        run(until, what)
    assert not (project.root / "runs").exists()


def test_a_model_that_fails_in_training_takes_only_what_needs_it(project):
    (project.root / "moody.py").write_text(MODEL)
    project.write(
        name="tiny", data={"source": "digits"},
        teacher={"model": "mlp", "width": 16, "epochs": 1},
        student={"model": "moody.py:build"}, distill={"epochs": 1, "baseline": False},
        evaluate={"seconds": 0.05}, export={"formats": ["onnx"], "precisions": ["fp32"]},
    )  # fmt: skip
    ended = project.type("-v", "run", "edge.yaml")
    assert ended.returncode == 1
    line = 1 + MODEL.splitlines().index('            raise RuntimeError("not in this mood")')
    place = f"{project.root / 'moody.py'}:{line}"
    assert f"{place}: RuntimeError: not in this mood" in ended.stderr
    assert "Traceback" in ended.stderr
    assert "resume: edgedistill -v run edge.yaml" in ended.stderr
    events = project.events()
    assert ("distill", "failed") in events
    assert ("export-teacher", "done") in events
    records = map(json.loads, (project.run / "log.jsonl").read_text().splitlines())
    failed = {r["stage"]: r["message"] for r in records if r["event"] == "failed"}
    assert failed.keys() == {"distill", "evaluate-cpu"}  # no artefact is left to measure
    assert "-v" in failed["distill"]
