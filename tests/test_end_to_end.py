"""The whole command, typed as a user types it: resume, failures, goals, interrupts, bad data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from edgedistill.pipeline.bundle import open_bundle
from edgedistill.pipeline.runs import RunFolder


def last_line(ended):
    return ended.stderr.rstrip().splitlines()[-1]


def new_events(project, before):
    events = project.events()[before:]
    return {kind: {s for s, k in events if k == kind} for kind in ("done", "cached", "damaged")}


def digest(project, stage):
    return RunFolder.find(project.run).artifacts()[stage].digest


# ---------------------------------------------------------------------------- run it once more

SPY = """
import sys
from edgedistill.pipeline.cli import main
try:
    main()
finally:
    print([name for name in ("torch", "onnx", "openvino") if name in sys.modules], file=sys.stderr)
"""


def test_an_unchanged_run_does_nothing_and_imports_no_torch(copied):
    before = len(copied.events())
    ended = subprocess.run(
        [sys.executable, "-c", SPY, "run", "edge.yaml"],
        cwd=copied.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    events = copied.events()[before:]
    assert len(events) == 18
    assert {kind for _, kind in events} == {"cached"}
    assert ended.stdout == "runs/tiny/tiny.edge.zip\n"
    assert last_line(ended) == "[]"


def test_json_is_the_report(copied):
    ended = copied.type("run", "edge.yaml", "--json")
    assert json.loads(ended.stdout) == json.loads((copied.run / "report.json").read_text())


def test_other_epochs_redo_the_training_of_the_student_alone(copied):
    before = len(copied.events())
    ended = copied.type("run", "edge.yaml", "--set", "distill.epochs=1", "--until", "distill")
    assert (ended.returncode, ended.stdout) == (0, "runs/tiny/stages/distill\n")
    happened = new_events(copied, before)
    assert happened["cached"] == {"data", "teacher"}
    assert happened["done"] == {"distill"}
    stale = copied.type("bundle", copied.run)
    assert stale.returncode == 1
    assert "its distill changed since" in stale.stderr


def test_a_missed_goal_exits_3_keeps_and_marks_the_artefact(copied):
    before = len(copied.events())
    ended = copied.type("run", "edge.yaml", "--set", "evaluate.goals.accuracy=99.9")
    assert ended.returncode == 3
    assert new_events(copied, before)["done"] == {"select", "bundle", "report"}
    assert last_line(ended) == "goals missed: accuracy; everything was kept"
    report = json.loads((copied.run / "report.json").read_text())
    assert (report["passed"], report["goals"][0]["met"]) == (False, False)
    bundle = open_bundle(copied.bundle)
    assert bundle.manifest["passed"] is False
    assert "MISSED" in bundle.files["MODEL_CARD.md"].decode()
    verified = copied.type("verify", copied.bundle)
    assert verified.returncode == 0
    assert "MISSED a goal" in verified.stdout


def test_again_remakes_a_stage_and_what_follows_stays(copied):
    before = len(copied.events())
    ended = copied.type("run", "edge.yaml", "--again", "distill")
    assert ended.returncode == 0
    happened = new_events(copied, before)
    assert happened["done"] == {"distill"}
    assert "export-onnx" in happened["cached"]


def test_a_damaged_artefact_is_made_again(copied):
    weights = next(copied.run.glob("stages/distill/weights.safetensors"))
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    before = len(copied.events())
    ended = copied.type("run", "edge.yaml")
    assert ended.returncode == 0
    happened = new_events(copied, before)
    assert (happened["damaged"], happened["done"]) == ({"distill"}, {"distill"})
    assert "weights.safetensors was changed" in ended.stderr
    assert next(copied.run.glob("stages/distill/weights.safetensors")).read_bytes() == sound


# ------------------------------------------------------------------- interrupted in mid-training

LONG = ("--set", "distill.epochs=40", "--set", "distill.baseline=false", "--until", "distill")


def wait_for_checkpoint(project, process):
    """Until `distill` has finished a first epoch."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if list((project.root / "runs/.store/.work").glob("*/scratch/training.pt")):
            return
        time.sleep(0.005)
    raise AssertionError("no checkpoint of distill was seen")


@pytest.fixture(scope="module")
def uninterrupted(finished, tmp_path_factory):
    """Digest of the student of a training that nobody stopped, in a runs folder of its own."""
    root = tmp_path_factory.mktemp("uninterrupted") / "copy"
    shutil.copytree(finished.root, root, symlinks=True)
    project = type(finished)(root)
    ended = project.type("run", "edge.yaml", *LONG)
    assert ended.returncode == 0, ended.stderr
    return digest(project, "distill")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_training_resumes_to_the_very_same_student(copied, uninterrupted, blow):
    command = ("run", "edge.yaml", *LONG)
    process = copied.start(*command)
    wait_for_checkpoint(copied, process)
    process.send_signal(blow)
    _, errors = process.communicate(timeout=60)
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert errors.rstrip().splitlines()[-1] == f"resume: edgedistill {' '.join(command)}"
        assert "Traceback" not in errors
    resumed = copied.type(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert not list((copied.root / "runs/.store/.work").glob("*"))
    assert digest(copied, "distill") == uninterrupted


def test_ctrl_c_while_children_work(copied):
    before = len(copied.events())
    process = copied.start("run", "edge.yaml", "--again", "export-tflite", "--again", "export-onnx")
    deadline = time.monotonic() + 60
    while ("export-onnx", "started") not in copied.events()[before:]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    store = RunFolder.find(copied.run).store.root
    assert not list((store / "export-onnx").glob("*"))
    assert not list(store.glob(".work/*/out"))


# ----------------------------------------------------------------------------- what cannot be made

ODD_MODEL = """
from torch import nn

class Odd(nn.Module):
    '''Its control flow depends on the data: no exporter can follow it.'''

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    def forward(self, x):
        y = self.body(x)
        return y * 2 if float(y.sum()) > 0 else y

def build(num_classes, input_shape):
    import torch
    model = Odd(num_classes)
    model(torch.zeros(1, *input_shape))
    return model
"""


def test_a_model_that_no_format_can_express(project):
    (project.root / "odd.py").write_text(ODD_MODEL)
    project.write(
        name="tiny", data={"source": "digits"}, teacher={"model": "mlp", "epochs": 3},
        student={"model": "odd.py:build"}, distill={"epochs": 1, "baseline": False},
        export={"formats": ["onnx"], "precisions": ["fp32"]},
    )  # fmt: skip
    ended = project.type("run", "edge.yaml", "--until", "export-onnx")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "export-onnx failed" in ended.stderr
    assert last_line(ended) == "resume: edgedistill run edge.yaml --until export-onnx"
    assert ("distill", "done") in project.events()
    assert ended.stdout == ""


def test_one_format_fails_and_the_others_go_on(copied):
    """A conversion that may take no time fails; what the store has is not lost."""
    before = len(copied.events())
    ended = copied.type(
        "run", "edge.yaml", "--json", "--again", "export-tflite", "--set", "export.timeout=0.2"
    )
    assert ended.returncode == 1
    assert "did not finish in" in ended.stderr
    assert "export.timeout" in ended.stderr
    events = copied.events()[before:]
    assert ("export-tflite", "failed") in events
    assert {s for s, kind in events if kind == "skipped"} == {
        "quantize-tflite-fp16", "quantize-tflite-int8",
    }  # fmt: skip
    report = json.loads(ended.stdout)
    assert {a["format"] for a in report["artifacts"]} == {"onnx", "openvino"}
    assert [failure["stage"] for failure in report["failures"]] == ["export-tflite"]
    assert last_line(ended).startswith("resume: edgedistill run edge.yaml --json")
    # without that format nothing fails, and the report says so
    ended = copied.type("run", "edge.yaml", "--json", "--set", "export.formats=[onnx,openvino]")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["failures"] == []


# ------------------------------------------------------------------------------------- bad input


def arrays(path, **changes):
    generator = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 60), ("validation", 30), ("test", 30)):
        content[f"x_{split}"] = generator.normal(size=(count, 4)).astype("float32")
        content[f"y_{split}"] = generator.integers(0, 3, count)
    np.savez(path, **{**content, **changes})


BROKEN = [
    ({"x_validation": np.full((30, 4), np.nan, "float32")}, "split 'validation': input 'input'"),
    ({"x_test": np.zeros((0, 4), "float32"), "y_test": np.zeros(0, "int64")}, "it is empty"),
    ({"y_test": np.full(30, 7)}, "target 7 of sample 0: expected 0 to 2 (3 classes)"),
    ({"y_train": np.full(60, -1), "labels": ["a", "b", "c"]}, "target -1 of sample 0"),
    ({"x_test": np.zeros((30, 5), "float32")}, "split 'test' has inputs"),
]


@pytest.mark.parametrize(("changes", "told"), BROKEN, ids=[told for _, told in BROKEN])
def test_data_that_breaks_its_contract(project, changes, told):
    arrays(project.root / "x.npz", **changes)
    project.write(name="tiny", data={"source": "arrays", "path": "x.npz"})
    ended = project.type("run", "edge.yaml")
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert last_line(ended) == "resume: edgedistill run edge.yaml"
    events = project.events()
    assert ("data", "failed") in events
    assert ("teacher", "skipped") in events


@pytest.mark.parametrize(
    ("code", "told"),
    [("def splits():\n    return 1 / 0", "my.py:2: ZeroDivisionError"),
     ("def splits():\n    return [1]", "returned list, expected a dict")],
)  # fmt: skip
def test_users_code_that_fails(project, code, told):
    (project.root / "my.py").write_text(textwrap.dedent(code))
    project.write(name="tiny", data={"source": "my.py:splits"})
    ended = project.type("run", "edge.yaml", "--until", "data")
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_runs_folder_that_is_a_file(project):
    (project.root / "taken").touch()
    ended = project.type("run", "edge.yaml", "--runs", "taken", "--until", "data")
    assert ended.returncode == 1
    assert "taken is a file, expected a folder" in ended.stderr
    assert "--runs" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a tiny file system")
def test_a_full_disk_in_mid_run(project):
    folder = project.root / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not possible here")
    try:
        ended = project.type("run", "edge.yaml", "--runs", "disk/runs", "--until", "data")
        assert ended.returncode == 1
        assert "no disk space" in ended.stderr
        assert "--runs" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not list(folder.glob("runs/.store/data/*"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
