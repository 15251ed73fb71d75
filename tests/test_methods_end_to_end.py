"""Every installed method, from edge.yaml to a verified bundle, on real digits."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest

from .conftest import Project

METHODS = sorted(entry.name for entry in entry_points(group="edgedistill.methods"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One project for all methods: they share the teacher and what it told."""
    return Project(tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("method", METHODS)
def test_it_runs_to_a_verified_bundle(shared: Project, method: str) -> None:
    shared.write(
        name="tiny",
        data={"source": "digits", "augment": {"shift": 1}},
        teacher={"model": "resnet8", "width": 8, "epochs": 3, "checkpoints": 1},
        student={"model": "dscnn", "width": 4},
        distill={"method": method, "epochs": 3, "baseline": False},
        export={"formats": ["onnx"], "precisions": ["fp32"]},
        evaluate={"seconds": 0.05},
    )
    ended = shared.type("run", "edge.yaml")
    assert ended.returncode == 0, ended.stderr
    report = json.loads((shared.run / "report.json").read_text())
    assert report["student"]["method"] == method
    assert shared.type("verify", shared.bundle).returncode == 0
