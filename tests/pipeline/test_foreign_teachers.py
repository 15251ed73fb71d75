"""Teachers that are no torch module, as a config names them and as the whole command uses them."""

from __future__ import annotations

import json

import pytest

from edgedistill.pipeline.configfile import load_config
from edgedistill.pipeline.errors import ConfigError
from edgedistill.pipeline.models import foreign
from edgedistill.pipeline.plan import make_plan

TEXT = "data: {source: digits}\nstudent: {model: mlp}\nteacher: {%s}\n"


@pytest.fixture
def there(tmp_path):
    """Files that look right; nothing opens them before the run."""
    for name in ("t.onnx", "t.keras", "t.tflite"):
        (tmp_path / name).write_text(name)
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index"):
        (tmp_path / "saved" / name).write_text(name)
    return tmp_path


@pytest.fixture
def faults(write_yaml):
    def find(teacher):
        with pytest.raises(ConfigError) as caught:
            load_config(write_yaml(TEXT % teacher))
        return {fault.path: fault.expected for fault in caught.value.faults}

    return find


@pytest.mark.parametrize(
    ("teacher", "path", "expected"),
    [
        ("onnx: gone.onnx", "teacher.onnx", "an existing .onnx file"),
        ("keras: gone.keras", "teacher.keras", "an existing .keras file"),
        ("keras: saved", "teacher.keras", "an existing .keras file"),
        ("savedmodel: gone", "teacher.savedmodel", "an existing folder with a saved_model.pb"),
        ("savedmodel: t.keras", "teacher.savedmodel", "an existing folder with a saved_model.pb"),
        ("tflite: gone.tflite", "teacher.tflite", "an existing .tflite file"),
        ("keras: t.keras, model: mlp", "teacher.model", "nothing beside teacher.keras"),
        ("keras: t.keras, weights: t.keras", "teacher.weights", "nothing beside teacher.keras"),
        ("keras: t.keras, onnx: t.onnx", "teacher.onnx", "nothing beside teacher.keras"),
        ("model: mlp, layout: nhwc", "teacher.layout", "one of teacher.onnx, keras, savedmodel"),
        ("keras: t.keras, layout: hwc", "teacher.layout", "'nchw' or 'nhwc'"),
    ],
)
def test_fault(there, faults, teacher, path, expected):
    found = faults(teacher)
    assert list(found) == [path]
    assert expected in found[path]


@pytest.fixture
def plan(there, write_yaml):
    def make(teacher, *overrides):
        path = write_yaml(TEXT % teacher)
        made = make_plan(load_config(path, overrides), path.parent)
        return {stage.name: stage for stage in made.stages}, made

    return make


@pytest.mark.parametrize(
    ("teacher", "kind", "library"),
    [("onnx: t.onnx", "onnx", "onnxruntime"), ("tflite: t.tflite", "tflite", "ai-edge-litert"),
     ("keras: t.keras", "tflite", "keras"), ("savedmodel: saved", "tflite", "tensorflow")],
)  # fmt: skip
def test_the_stages_of_a_foreign_teacher(plan, teacher, kind, library):
    stages, _ = plan(teacher, "export.formats=[openvino]")
    assert stages["export-teacher"].settings == {"kind": kind}
    assert stages["export-teacher"].needs == ("data", "teacher")
    assert library in stages["teacher"].libraries


@pytest.mark.parametrize(
    ("teacher", "file"),
    [("onnx: t.onnx", "t.onnx"), ("keras: t.keras", "t.keras"), ("tflite: t.tflite", "t.tflite"),
     ("savedmodel: saved", "saved/variables/variables.index")],
)  # fmt: skip
def test_the_key_covers_every_file(plan, there, teacher, file):
    before = plan(teacher)[0]["teacher"].settings
    assert plan(teacher)[0]["teacher"].settings == before
    (there / file).write_text("something else")
    assert plan(teacher)[0]["teacher"].settings != before


def test_the_key_covers_the_layout(plan):
    settings = [plan(t)[0]["teacher"].settings for t in ("keras: t.keras",
                "keras: t.keras, layout: nhwc")]  # fmt: skip
    assert settings[0] != settings[1]


def test_what_is_missing_is_told_before_any_work(plan, monkeypatch):
    monkeypatch.setattr(foreign, "find_spec", lambda name: None)
    _, made = plan("keras: t.keras")
    assert ("tensorflow", "keras") in [missing.libraries for missing in made.missing]


def test_checkpoints_of_a_loaded_teacher(plan):
    with pytest.raises(ConfigError, match=r"teacher\.keras is loaded") as caught:
        plan("keras: t.keras", "distill.method=progressive")
    assert "remove teacher.keras" in caught.value.hint


SCRIPT = """
import keras, numpy as np
from pathlib import Path
from edgedistill.pipeline.data.load import load_data

data = load_data({"source": "digits"}, Path())
(x,) = data.preprocessing.apply(data.train.inputs).values()
keras.utils.set_random_seed(0)
inputs = keras.Input((8, 8, 1))
flat = keras.layers.Flatten()(keras.layers.Conv2D(16, 3, activation="relu", name="maps")(inputs))
model = keras.Model(inputs, keras.layers.Dense(10)(flat))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
model.fit(np.moveaxis(x, 1, -1), data.train.targets, epochs=5, verbose=0)
model.save("teacher.keras")
"""


@pytest.mark.slow
def test_a_keras_teacher_end_to_end(project):
    """Trained by Keras alone, distilled into a torch student, measured beside it."""
    import subprocess
    import sys

    pytest.importorskip("tensorflow")
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=project.root, check=True, timeout=300)
    project.write(
        name="tiny",
        data={"source": "digits"},
        teacher={"keras": "teacher.keras"},
        student={"model": "dscnn", "width": 8},
        distill={"epochs": 4, "lr": 0.01},
        export={"formats": ["onnx", "tflite"], "precisions": ["fp32", "int8"]},
        evaluate={"seconds": 0.05},
    )
    ended = project.type("run", "edge.yaml", timeout=600)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((project.run / "report.json").read_text())
    assert report["teacher"]["model"] == "teacher.keras"
    assert report["teacher"]["accuracy"]["value"] > 0.9
    assert report["teacher"]["measurement"]["runtime"] == "litert"
    assert [a["name"] for a in report["artifacts"]] == [
        "onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8",
    ]  # fmt: skip
    assert all(a["measurements"][0]["speedup"]["value"] > 0 for a in report["artifacts"])
    assert report["failures"] == []
    assert "oneDNN" not in ended.stderr  # the library does not chat into the progress
