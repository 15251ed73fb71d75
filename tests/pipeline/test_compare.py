from __future__ import annotations

import json

import pytest
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline import compare, plugins, trials
from edgedistill.pipeline.compare import Seconds, Stopwatch, make_tasks, run_tasks
from edgedistill.pipeline.configfile import load_config
from edgedistill.pipeline.contracts import Missing
from edgedistill.pipeline.errors import (
    ConfigError,
    Interrupted,
    MissingDependency,
    TrainingError,
)
from edgedistill.pipeline.plan import make_plan
from edgedistill.pipeline.reporting import comparison
from edgedistill.pipeline.run import Event, key_of, recipe, run_plan
from edgedistill.pipeline.stages.training import TEACHER_SEED
from edgedistill.pipeline.store import Store

SECTIONS = {
    "name": "tiny", "data": {"source": "digits"},
    "teacher": {"model": "mlp", "width": 32, "epochs": 2},
    "student": {"model": "mlp", "width": 16, "depth": 1},
    "distill": {"method": "kd", "temperature": 3.0, "epochs": 2}, "train": {"seed": 5},
}  # fmt: skip
CELLS = ["none-seed5", "none-seed6", "kd-seed5", "kd-seed6"]
SULKS = """
from pydantic import BaseModel
from edgedistill.pipeline.contracts import Method, Needs
from edgedistill.pipeline.errors import TrainingError


class Sulks(Method):
    name, summary, citation = "sulks", "never trains", "Nobody, 1900"
    needs = Needs()

    class Options(BaseModel):
        pass

    def helpers(self, study):
        raise TrainingError("sulks needs checkpoints", "set teacher.checkpoints: 1")

    def loss(self, batch, helpers):
        return {}
"""


@pytest.fixture
def sulks(tmp_path, monkeypatch):
    """An environment with a method that always fails."""
    folder = tmp_path / "plugins" / "sulks-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sulks\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[edgedistill.methods]\nsulks = sulks:Sulks\n")
    (folder.parent / "sulks.py").write_text(SULKS)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    plugins._entries.cache_clear()
    yield
    plugins._entries.cache_clear()


class Comparer:
    """Compares on one store, and keeps what happened."""

    def __init__(self, project):
        self.project, self.events, self.store = project, [], Store(project.root / "runs" / ".store")
        self.project.write(**SECTIONS)

    def tasks(self, names=("kd",), seeds=2, **sections):
        self.project.write(**{**SECTIONS, **sections})
        return make_tasks(load_config(self.project.config), self.project.root, names, seeds)

    def __call__(self, names=("kd",), seeds=2, listen=lambda event: None):
        trunk, tasks = self.tasks(names, seeds)
        self.events.clear()

        def hear(event):
            self.events.append(event)
            listen(event)

        seconds = Seconds(self.project.root / "seconds.json")
        return run_tasks(trunk, tasks, self.store, seconds, hear)

    def of(self, kind):
        return [event.stage for event in self.events if event.kind == kind]


@pytest.fixture
def comparer(project):
    return Comparer(project)


# ------------------------------------------------------------------------------ what is compared


def test_the_references_are_always_there_and_everything_is_there_once(comparer):
    _, tasks = comparer.tasks(("kd", "none", "kd"))
    assert [task.name for task in tasks] == CELLS


def test_the_own_method_keeps_its_options_and_the_others_have_their_defaults(comparer):
    _, tasks = comparer.tasks()
    assert tasks[2].stage.settings["options"]["temperature"] == 3.0
    other = comparer.tasks(distill={"method": "none", "epochs": 2})[1][2]
    default = plugins.method("kd").Options().temperature
    assert other.stage.settings["options"]["temperature"] == default != 3.0


def test_seeds_are_of_the_student_alone(comparer):
    trunk, tasks = comparer.tasks()
    assert [task.stage.settings["train"]["seed"] for task in tasks] == [5, 6, 5, 6]
    teacher = next(stage for stage in trunk.stages if stage.name == "teacher")
    assert teacher.settings["train"]["seed"] == 5 + TEACHER_SEED


@pytest.mark.parametrize("method", ["kd", "none"])
def test_cells_of_the_first_seed_are_the_stages_of_a_run(comparer, method):
    _, tasks = comparer.tasks(distill={"method": method, "epochs": 2})
    plan = make_plan(load_config(comparer.project.config), comparer.project.root)
    of_run = {stage.name: stage for stage in plan.stages}
    own = {task.method: task.stage for task in tasks if task.seed == 5}
    pairs = [(own[method], of_run["distill"])]
    if method != "none":
        pairs.append((own["none"], of_run["baseline"]))
    for cell, stage in pairs:
        inputs = dict.fromkeys(stage.needs, SimpleArtifact())
        assert key_of(recipe(cell, inputs)) == key_of(recipe(stage, inputs))


class SimpleArtifact:
    digest = "digest"


def test_a_composed_method_stands_beside_its_reference(comparer):
    composed = {"method": "kd", "epochs": 2, "temperature": 3.0, "with": ["paced"]}
    _, tasks = comparer.tasks(distill=composed)
    settings = {task.method: task.stage.settings for task in tasks}
    assert list(settings) == ["none", "kd", "kd+paced"]
    assert "with" not in settings["kd"]
    assert settings["kd+paced"]["with"][0]["method"] == "paced"
    assert settings["kd"]["options"] == settings["kd+paced"]["options"]


def test_an_unknown_method_shows_before_any_work(comparer):
    with pytest.raises(ConfigError, match="'kdd'") as caught:
        comparer.tasks(("kdd",))
    assert "did you mean 'kd'" in caught.value.hint


# --------------------------------------------------------------------------------- how it is run


def test_cells_that_a_run_made_are_not_made_again(comparer):
    plan = make_plan(load_config(comparer.project.config), comparer.project.root)
    run_plan(plan.until("distill"), comparer.store)
    run_plan(plan.until("baseline"), comparer.store)
    answers, cells = comparer()
    assert comparer.of("cached") == ["data", "teacher", "none-seed5", "kd-seed5"]
    assert comparer.of("done") == ["none-seed6", "kd-seed6"]
    timed = {f"{c.method}-seed{c.seed}": c.result.seconds is not None for c in cells}
    assert timed == {
        "none-seed5": False, "none-seed6": True, "kd-seed5": False, "kd-seed6": True,
    }  # fmt: skip
    assert answers.teacher.shape == cells[0].result.logits.shape
    assert not (cells[0].result.logits == cells[1].result.logits).all()


def test_a_comparison_that_was_killed_goes_on_where_it_was(comparer):
    def kill(event):
        if (event.stage, event.kind) == ("kd-seed5", "progress") and "epoch 2" in event.message:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        comparer(listen=kill)
    assert comparer.of("done") == ["data", "teacher", *CELLS[:2]]
    _, cells = comparer()
    assert comparer.of("cached") == ["data", "teacher", *CELLS[:2]]
    assert comparer.of("done") == CELLS[2:]
    resumed = [event for event in comparer.events if event.stage == "kd-seed5"]
    steps = [event.done for event in resumed if "epoch" in event.message]
    assert steps[0] > 1  # the first epoch was not trained again
    assert all(cell.result.seconds > 0 for cell in cells)  # also those of the killed one

    before = [cell.result.seconds for cell in cells]
    _, again = comparer()
    assert comparer.of("cached") == ["data", "teacher", *CELLS]
    assert [cell.result.seconds for cell in again] == before


def test_a_cell_that_fails_leaves_the_others(sulks, comparer):
    _, cells = comparer(("sulks",), seeds=1)
    assert {cell.method: cell.reason.partition("\n")[0] for cell in cells} == {
        "none": "", "kd": "", "sulks": "sulks needs checkpoints",
    }  # fmt: skip
    assert comparer.of("failed") == ["sulks-seed5"]


def test_a_cell_that_the_plan_refuses_leaves_the_others(comparer, monkeypatch):
    real = compare.student_stage

    def refuse(name, spec, config, root):
        if config.train.seed == 6:
            raise TrainingError("not this seed")
        return real(name, spec, config, root)

    monkeypatch.setattr(compare, "student_stage", refuse)
    _, cells = comparer()
    assert [cell.reason for cell in cells] == ["", "not this seed", "", "not this seed"]
    assert comparer.of("failed") == ["none-seed6", "kd-seed6"]


def test_data_or_a_teacher_that_fails_ends_it(comparer):
    comparer.project.write(**{**SECTIONS, "teacher": {"model": "mlp", "epochs": 1, "lr": 1e30}})
    trunk, tasks = make_tasks(
        load_config(comparer.project.config), comparer.project.root, ("kd",), 1
    )
    with pytest.raises(TrainingError, match="the loss"):
        run_tasks(trunk, tasks, comparer.store, Seconds(comparer.project.root / "s"), print)


# -------------------------------------------------------------------------------------- its time


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = {"seconds": 0.0}
    monkeypatch.setattr(compare.time, "perf_counter", lambda: now["seconds"])
    return now


def hear(clock, *steps):
    watch = Stopwatch()
    for seconds, done, total in steps:
        clock["seconds"] = seconds
        watch.hear(Event("progress", "x", "", done, total))
    return watch


def test_seconds_per_epoch_are_the_pace_of_the_steps(clock):
    assert hear(clock, (7.0, 1, 100), (16.0, 91, 100)).per_epoch(10) == pytest.approx(1.0)


def test_a_resumed_training_is_timed_by_what_was_trained_here(clock):
    assert hear(clock, (7.0, 51, 100), (12.0, 100, 100)).per_epoch(10) == pytest.approx(100 / 98)


def test_what_was_counted_before_the_steps_is_left_out(clock):
    watch = hear(clock, (0.0, 1, 9), (99.0, 9, 9), (100.0, 1, 100), (109.0, 91, 100))
    assert watch.per_epoch(10) == pytest.approx(1.0)


def test_fewer_than_two_steps_tell_nothing(clock):
    assert Stopwatch().per_epoch(2) is None
    assert hear(clock, (7.0, 1, 1)).per_epoch(1) is None


def test_seconds_that_cannot_be_read_are_forgotten(tmp_path):
    (tmp_path / "seconds.json").write_text("{")
    seconds = Seconds(tmp_path / "seconds.json")
    assert seconds.of("key") is None
    seconds.remember("key", 1.5)
    seconds.remember("key", None)
    assert Seconds(tmp_path / "seconds.json").of("key") == 1.5


# ----------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison that was typed, with its document."""
    from conftest import Project

    project = Project(tmp_path_factory.mktemp("compared"))
    project.write(**SECTIONS)
    ended = project.type("compare", "edge.yaml", "--methods", "kd", "--seeds", "2", "--json")
    assert ended.returncode == 0, ended.stderr
    return project, json.loads(ended.stdout), ended


def test_what_it_leaves(compared):
    project, record, ended = compared
    folder = project.run / "compare"
    assert {path.name for path in folder.iterdir()} == {
        "compare.json", "compare.html", "compare.png", "seconds.json",
    }  # fmt: skip
    assert json.loads((folder / "compare.json").read_text()) == record
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert not (project.run / "run.json").exists()  # the cells are not the run
    assert [e for e in project.events() if e[1] == "done"][2:] == [(c, "done") for c in CELLS]
    assert "kd-seed6 done" in ended.stderr


def test_its_record(compared):
    _, record, _ = compared
    assert [row["method"] for row in record["methods"]] == ["none", "kd"]
    assert (record["seeds"], record["references"]) == ([5, 6], ["none", "kd"])
    kd = record["methods"][1]
    assert kd["to"]["none"]["over"] == "seeds"
    assert 0 <= kd["agreement"] <= 100
    assert kd["seconds_per_epoch"] > 0
    assert record["machine"]["cpu"]
    assert record["command"] == "edgedistill compare edge.yaml --methods kd --seeds 2 --json"


def test_its_page_needs_nothing_else(compared):
    project, record, _ = compared
    page = (project.run / "compare" / "compare.html").read_text("utf-8")
    assert "http" not in page
    assert page.count("<svg") == 1
    assert comparison.verdict(record) in page
    assert "Failures" not in page


def test_its_table_fits_a_terminal(compared):
    _, record, _ = compared
    found = comparison.grid(record, "+-")
    widths = [max(map(len, column)) for column in zip(found.heads, *found.rows, strict=True)]
    assert sum(widths) + 2 * len(widths) <= 110
    assert found.rows[0][0] == "none"


def test_typed_again_it_prints_a_table_and_trains_nothing(compared, project):
    done, record, _ = compared
    ended = done.type("compare", "edge.yaml", "--methods", "kd", "--seeds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "done" not in ended.stderr
    assert comparison.verdict(record) in ended.stdout
    assert ended.stdout.rstrip().endswith("runs/tiny/compare/compare.html")
    again = json.loads((done.run / "compare" / "compare.json").read_text())
    assert again["methods"] == record["methods"]


def test_a_failure_is_a_row_and_exits_1(compared, sulks):
    project, _, _ = compared
    ended = project.type("compare", "edge.yaml", "--methods", "kd,sulks", "--seeds", "1")
    assert ended.returncode == 1
    assert "failed: sulks, seed 5: sulks needs checkpoints" in ended.stdout
    assert "set teacher.checkpoints: 1" in ended.stdout
    assert "no verdict: not every training of sulks ended well" in ended.stdout
    assert "resume: edgedistill compare edge.yaml" in ended.stderr
    page = (project.run / "compare" / "compare.html").read_text("utf-8")
    assert "sulks, seed 5" in page


def test_what_is_missing_is_told_before_any_work(project, monkeypatch):
    absent = Missing(("matplotlib",), "report")
    monkeypatch.setattr(compare.report, "missing", lambda: absent)
    with pytest.raises(MissingDependency, match="matplotlib"):
        trials.compare_methods(project.config, (), project.root / "runs", ["kd"], 1, False)
    assert not (project.root / "runs").exists()
