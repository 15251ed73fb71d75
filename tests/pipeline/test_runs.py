from __future__ import annotations

import json

import pytest

from edgedistill.pipeline.contracts import Description
from edgedistill.pipeline.errors import ConfigError
from edgedistill.pipeline.run import Event, Outcome, key_of
from edgedistill.pipeline.runs import RunFolder

RECIPE = {"stage": "report", "version": 1, "settings": {}, "needs": {}, "libraries": {}}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs", "x")


def make(folder, text, settings=None):
    made_of = {**RECIPE, "settings": settings or {}}
    key = key_of(made_of)
    out, _ = folder.store.work_folders(key)
    (out / "report.json").write_text(text)
    artifact = folder.store.commit("report", key, Description("report"))
    return Outcome({"report": artifact}, {"report": made_of})


def test_publishes_copies_and_links(folder):
    folder.publish(make(folder, "one"))
    assert (folder.path / "report.json").read_text() == "one"
    assert (folder.path / "stages/report/report.json").read_text() == "one"
    assert not (folder.path / "artifact.json").exists()
    folder.publish(make(folder, "two", {"new": 1}))
    assert (folder.path / "report.json").read_text() == "two"
    assert (folder.path / "stages/report/report.json").read_text() == "two"
    assert sorted(p.name for p in folder.path.iterdir()) == ["report.json", "run.json", "stages"]


def test_a_runs_folder_may_be_moved(folder, tmp_path):
    folder.publish(make(folder, "one"))
    folder.runs.rename(tmp_path / "moved")
    found = RunFolder.find(tmp_path / "moved" / "x")
    assert not (found.path / "stages/report").readlink().is_absolute()
    assert (found.path / "stages/report/report.json").read_text() == "one"
    assert found.artifacts().keys() == {"report"}


def test_damaged_artefacts_are_not_given(folder):
    outcome = make(folder, "one")
    folder.publish(outcome)
    (outcome.artifacts["report"].root / "report.json").write_text("other")
    assert folder.artifacts() == {}


def test_a_run_without_a_stage_keeps_its_recipe(folder):
    folder.publish(make(folder, "one"))
    folder.publish(Outcome())
    assert folder.recipes().keys() == {"report"}


def test_the_log_has_one_line_per_event(folder):
    folder.log(Event("started", "teacher"))
    folder.log(Event("progress", "teacher", done=1, total=2))
    folder.log(Event("done", "teacher", seconds=1.5))
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert [(x["stage"], x["event"], x["seconds"]) for x in lines] == [
        ("teacher", "started", 0.0), ("teacher", "done", 1.5),
    ]  # fmt: skip


def test_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="not the folder of a run"):
        RunFolder.find(tmp_path)
