"""The walk over a plan, on small plans of our own; the whole pipeline: tests/test_end_to_end.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgedistill.pipeline.config import Config
from edgedistill.pipeline.contracts import Stage
from edgedistill.pipeline.errors import ExportError, Interrupted, StageError, StoreError
from edgedistill.pipeline.plan import Plan
from edgedistill.pipeline.run import key_of, recipe, run_plan
from edgedistill.pipeline.store import Store


def writes(text):
    def run(inputs, workspace):
        (workspace.out / "text").write_text(text)
        workspace.describe.kind = "text"

    return run


def copies(inputs, workspace):
    """Write what the inputs hold, in the order of their names."""
    texts = [(a.root / "text").read_text() for _, a in sorted(inputs.items())]
    (workspace.out / "text").write_text("+".join(texts))


def fails(inputs, workspace):
    (workspace.out / "half").write_text("half")
    raise ExportError("cannot", "another way")


def stage(name, needs=(), run=copies, settings=None, **more):
    return Stage(name, tuple(needs), settings or {}, 1, run, **more)


class Runner:
    """Runs plans on one store and keeps what happened."""

    def __init__(self, folder):
        self.store, self.events = Store(folder / "store"), []

    def __call__(self, *stages, again=()):
        self.events.clear()
        plan = Plan(Config(), stages)
        return run_plan(plan, self.store, lambda e: self.events.append((e.stage, e.kind)), again)

    def of(self, kind):
        return sorted(name for name, event in self.events if event == kind)


@pytest.fixture
def run(tmp_path):
    return Runner(tmp_path)


def chain(text="a", settings=None):
    return (
        stage("a", run=writes(text), settings=settings),
        stage("b", ["a"]),
        stage("c", ["b"]),
    )


def test_an_unchanged_plan_does_nothing(run):
    first = run(*chain())
    assert run.of("done") == ["a", "b", "c"]
    second = run(*chain())
    assert run.of("cached") == ["a", "b", "c"]
    assert run.of("started") == []
    assert first.artifacts == second.artifacts


def test_an_identical_remake_stops_the_rerun_there(run):
    run(*chain())
    run(*chain(settings={"new": 1}))
    assert (run.of("done"), run.of("cached")) == (["a"], ["b", "c"])
    run(*chain("other", settings={"new": 2}))
    assert run.of("done") == ["a", "b", "c"]


def test_again_remakes_one_stage(run):
    run(*chain())
    run(*chain(), again={"b"})
    assert (run.of("done"), run.of("cached")) == (["b"], ["a", "c"])


def test_the_key_knows_all_that_matters(run):
    inputs = run(*chain()).artifacts
    base = stage("x", ["a"], settings={"epochs": 1})

    def key(changed, artifacts=inputs):
        return key_of(recipe(changed, artifacts))

    same = [
        replace(base, run=fails), replace(base, alone=False),
        replace(base, settings={"epochs": 1}),
    ]  # fmt: skip
    other = [
        replace(base, name="y"), replace(base, version=2), replace(base, settings={"epochs": 2}),
        replace(base, needs=("a", "b")), replace(base, optional=("c",)),
        replace(base, libraries=("numpy",)), replace(base, libraries=("no-such-library",)),
    ]  # fmt: skip
    assert {key(changed) for changed in same} == {key(base)}
    keys = {key(changed) for changed in [base, *other]}
    assert len(keys) == len(other) + 1
    newer = {**inputs, "a": replace(inputs["a"], digest="0" * 64)}
    assert key(base, newer) != key(base)
    rekeyed = {**inputs, "a": replace(inputs["a"], key="0" * 64, root=Path("elsewhere"))}
    assert key(base, rekeyed) == key(base)


def test_a_failure_takes_what_needs_it_and_nothing_else(run, tmp_path):
    outcome = run(
        stage("a", run=writes("a")),
        stage("bad", ["a"], fails),
        stage("after", ["bad"]),
        stage("good", ["a"]),
        stage("end", ["a"], optional=("bad", "after", "good")),
    )
    assert run.of("failed") == ["bad"]
    assert run.of("skipped") == ["after"]
    assert run.of("done") == ["a", "end", "good"]
    assert outcome.failures.keys() == {"bad"}
    assert (outcome.artifacts["end"].root / "text").read_text() == "a+a"
    assert not list((tmp_path / "store").rglob("half"))


def test_a_failure_is_tried_again(run):
    run(stage("a", run=fails))
    run(stage("a", run=writes("a")))
    assert run.of("done") == ["a"]


def test_a_later_stage_is_told_the_failures(run):
    told = {}

    def listens(inputs, workspace):
        told.update(workspace.failures)
        writes("x")(inputs, workspace)

    run(stage("bad", run=fails), stage("end", run=listens, optional=("bad",)))
    assert "cannot" in told["bad"]
    assert "another way" in told["bad"]


def test_a_failure_beside_a_stage_is_not_told_to_it(tmp_path):
    failed, told = threading.Event(), {}

    def listens(inputs, workspace):
        told.update(workspace.failures)
        writes("x")(inputs, workspace)

    def listen(event):
        if (event.stage, event.kind) == ("bad", "failed"):
            failed.set()
        if (event.stage, event.kind) == ("beside", "started"):
            assert failed.wait(20)

    stages = (stage("bad", run=fails, alone=False), stage("beside", run=listens, alone=False))
    outcome = run_plan(Plan(Config(), stages), Store(tmp_path / "store"), listen)
    assert (outcome.artifacts.keys(), outcome.failures.keys()) == ({"beside"}, {"bad"})
    assert told == {}


@pytest.mark.parametrize("alone", [True, False])
def test_what_nobody_foresaw_stops_one_stage(run, alone):
    def breaks(inputs, workspace):
        raise MemoryError

    outcome = run(
        stage("bad", run=breaks, alone=alone), stage("after", ["bad"]),
        stage("good", run=writes("a")),
    )  # fmt: skip
    assert (run.of("failed"), run.of("skipped"), run.of("done")) == (["bad"], ["after"], ["good"])
    error = outcome.failures["bad"]
    assert isinstance(error, StageError)
    assert "MemoryError" in error.message
    assert "-v" in error.hint
    assert isinstance(error.__cause__, MemoryError)


@pytest.mark.parametrize("damage", ["changed", "lost", "added"])
def test_damage_is_noticed_and_made_again(run, damage):
    root = run(*chain()).artifacts["b"].root
    if damage == "changed":
        (root / "text").write_text("A")
    elif damage == "lost":
        (root / "text").unlink()
    else:
        (root / "more").touch()
    outcome = run(*chain())
    assert (run.of("damaged"), run.of("done")) == (["b"], ["b"])
    assert (outcome.artifacts["b"].root / "text").read_text() == "a"


def test_stages_that_wait_for_children_run_side_by_side_and_others_alone(run):
    lock, active, seen = threading.Lock(), set(), {}
    both = threading.Barrier(2, timeout=20)

    def busy(name, meet):
        def work(inputs, workspace):
            with lock:
                active.add(name)
                seen[name] = set(active)
            if meet:
                both.wait()  # passes only while the other one runs too
            with lock:
                seen[name] |= active
                active.remove(name)
            writes(name)(inputs, workspace)

        return work

    run(
        stage("p", run=busy("p", True), alone=False),
        stage("q", run=busy("q", True), alone=False),
        stage("r", run=busy("r", False)),
    )
    if os.cpu_count() == 1:
        pytest.skip("side by side needs two workers")
    assert run.of("done") == ["p", "q", "r"]
    assert seen["r"] == {"r"}


SCRIPT = """
import sys, time
from pathlib import Path
from edgedistill.pipeline.config import Config
from edgedistill.pipeline.contracts import Stage
from edgedistill.pipeline.plan import Plan
from edgedistill.pipeline.run import run_plan
from edgedistill.pipeline.store import Store

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

def work(inputs, workspace):
    with (folder / "made").open("a") as stream:
        stream.write("made\\n")
    (workspace.scratch / "step").touch()
    (workspace.out / "text").write_text("half")
    (folder / "started").touch()
    for _ in range(int(seconds * 100)):
        time.sleep(0.01)
        workspace.progress(0, 1, "")
    (workspace.out / "text").write_text("whole")

def listen(event):
    if event.kind != "progress":
        print(event.kind, flush=True)

plan = Plan(Config(), (Stage("slow", (), {}, 1, work, alone=sys.argv[3] == "alone"),))
run_plan(plan, Store(folder / "store"), listen)
"""


def start(folder, seconds, alone="alone"):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(seconds), alone],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_two_processes_make_an_artefact_once(tmp_path):
    first = start(tmp_path, 1.5)
    wait_for(tmp_path / "started")
    second = start(tmp_path, 1.5)
    told = [process.communicate(timeout=30)[0].split() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert told == [["started", "done"], ["waiting", "cached"]]
    assert (tmp_path / "made").read_text() == "made\n"


def test_ctrl_c_ends_the_wait_for_another_process(tmp_path):
    first = start(tmp_path, 30)
    wait_for(tmp_path / "started")
    second = start(tmp_path, 0, "beside")
    assert second.stdout.readline() == "waiting\n"
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=10)
    assert "Interrupted" in errors
    first.kill()
    first.communicate()


def test_kill_in_mid_stage_then_the_same_again(tmp_path):
    process = start(tmp_path, 30)
    wait_for(tmp_path / "started")
    process.kill()
    process.communicate()
    store = tmp_path / "store"
    assert [p.name for p in store.glob("*/*/text")] == []
    assert len(list(store.rglob("scratch/step"))) == 1
    again = start(tmp_path, 0)
    assert again.communicate(timeout=30)[0].split() == ["started", "done"]
    assert [p.read_text() for p in store.glob("slow/*/text")] == ["whole"]


def test_interrupt_is_one_error_and_stores_nothing(run):
    def interrupted(inputs, workspace):
        (workspace.out / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(stage("a", run=interrupted))
    assert caught.value.exit_code == 130
    run(stage("a", run=writes("a")))
    assert run.of("done") == ["a"]


def test_a_library_that_finds_the_disk_full_is_explained(tmp_path, monkeypatch):
    def full(inputs, workspace):
        raise RuntimeError("PytorchStreamWriter failed writing file data.pkl: file write failed")

    monkeypatch.setattr("edgedistill.pipeline.store._FULL_BYTES", 1e30)  # any disk counts as full
    run = Runner(tmp_path)
    outcome = run(stage("a", run=full))
    assert isinstance(outcome.failures["a"], StoreError)
    assert "no disk space" in outcome.failures["a"].message
    assert "PytorchStreamWriter" in outcome.failures["a"].message


def test_what_failed_counts_only_for_a_stage_that_tells_it():
    def stage(tells: bool) -> Stage:
        return Stage("x", (), {}, 1, lambda inputs, workspace: None, tells_failures=tells)

    failed = {"bundle": "no disk space left"}
    assert recipe(stage(False), {}, failed) == recipe(stage(False), {})
    assert recipe(stage(True), {}, failed) != recipe(stage(True), {})
    assert recipe(stage(True), {}, {}) == recipe(stage(True), {})
