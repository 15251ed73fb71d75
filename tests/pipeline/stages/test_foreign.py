"""Teachers that are no torch module, through the stages: taken over, distilled from, measured."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edgedistill.pipeline.config import Config
from edgedistill.pipeline.contracts import Artifact, Needs, Signature, Workspace
from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.errors import ExportError, ModelError
from edgedistill.pipeline.models.foreign import FOREIGN
from edgedistill.pipeline.stages import data as data_stage
from edgedistill.pipeline.stages import distill, foreign, teacher, teachersource
from edgedistill.pipeline.store import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")

KINDS = ["keras", "savedmodel", "tflite", "onnx"]


def artifact(kind: str, folder: Path, signature: Signature | None = None) -> Artifact:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    files = {name: sha256_file(folder / name) for name in names}
    return Artifact(kind, "fp32", folder, files, signature, "", "digest")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Artifact:
    root = tmp_path_factory.mktemp("digits")
    data_stage.write(load_data({"source": "digits", "options": {}}, root), "digits", root)
    return artifact("data", root)


@pytest.fixture(scope="module")
def files(digits, tmp_path_factory) -> Path:
    """A folder with one trained network in every kind of file, all but ONNX made from Keras."""
    import keras
    import tensorflow as tf

    root = tmp_path_factory.mktemp("files")
    images = np.load(digits.root / "train" / "input.npy").transpose(0, 2, 3, 1)
    targets = np.load(digits.root / "train" / "targets.npy")
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="conv")(x)
    x = keras.layers.ReLU(name="act")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    model.fit(images, targets, batch_size=64, epochs=5, verbose=0)
    model.save(root / "t.keras")
    model.export(str(root / "t.saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(root / "t.saved"))
    (root / "t.tflite").write_bytes(converter.convert())
    model.layers[-1].activation = keras.activations.softmax
    model.save(root / "softmax.keras")
    _save_onnx(images, targets, root / "t.onnx")
    return root


def _save_onnx(images, targets, path) -> None:
    """A linear classifier, fitted in closed form, that takes NHWC."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    flat = images.reshape(len(images), -1).astype(np.float64)
    weight = np.linalg.lstsq(flat, np.eye(10)[targets], rcond=1e-3)[0].astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"], axis=1),
         helper.make_node("MatMul", ["f", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 8, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))


def config(**sections) -> Config:
    base = {"student": {"model": "dscnn", "width": 4}, "train": {"devices": "cpu"}}
    return Config(**{**base, **sections})


def named(kind: str) -> dict[str, str]:
    return {kind: "t.saved" if kind == "savedmodel" else f"t.{kind}"}


def space(folder: Path) -> Workspace:
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    return Workspace(folder / "out", folder / "scratch", lambda done, total, note: None)


def take(section: dict[str, str], files: Path, digits: Artifact, folder: Path) -> Artifact:
    workspace = space(folder)
    teacher.run(config(teacher=section), files, {"data": digits}, workspace)
    return artifact("model", workspace.out, workspace.describe.signature)


@pytest.fixture(scope="module")
def taken(files, digits, tmp_path_factory) -> dict[str, Artifact]:
    return {kind: take(named(kind), files, digits, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_artefact_of_a_foreign_teacher(taken, digits, kind):
    made = taken[kind]
    note = json.loads((made.root / "model.json").read_text())
    logits = np.load(made.root / "outputs" / "test.npy")
    right = (logits.argmax(1) == np.load(digits.root / "test" / "targets.npy")).mean()
    assert note["accuracy"]["test"] == pytest.approx(right)
    assert right > 0.85
    assert note["parameters"] > 600
    kept = "nhwc" if FOREIGN[kind].converted else "nchw"
    assert note["spec"] == {"model": named(kind)[kind], "layout": kept}
    assert json.loads((made.root / "history.json").read_text()) == []
    assert not (made.root / "weights.safetensors").exists()


def in_this_process(function, arguments, scratch, timeout):
    assert function.endswith("foreign:convert_in_child")
    foreign.convert_in_child(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_the_measured_form_answers_like_the_teacher(taken, digits, tmp_path, monkeypatch, kind):
    if kind == "savedmodel":  # TensorFlow is here already; for Keras a child imports it anew
        monkeypatch.setattr(foreign, "run_in_child", in_this_process)
    workspace = space(tmp_path)
    inputs = {"data": digits, "teacher": taken[kind]}
    if FOREIGN[kind].converted:
        foreign.convert(300, inputs, workspace)
    else:
        foreign.take_over(inputs, workspace)
    assert workspace.describe.kind == FOREIGN[kind].format
    parity = json.loads((workspace.out / "parity.json").read_text())
    assert (parity["agreement"], parity["samples"]) == (1.0, 256)
    assert parity["sqnr_db"] > 100


def test_the_three_of_one_network_answer_the_same(taken):
    logits = [np.load(taken[kind].root / "outputs" / "test.npy") for kind in KINDS[:3]]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-4)


@pytest.mark.parametrize("stored", [True, False])
def test_a_student_learns_from_a_keras_layer(taken, files, digits, tmp_path, stored):
    workspace = space(tmp_path)
    if stored:
        workspace.shared = tmp_path / "shared"
    spec = distill.MethodSpec("fitnets", {"teacher_layer": "act", "student_layer": "first"})
    section = {"method": "fitnets", "epochs": 2}
    asked = config(teacher=named("keras"), distill=section)
    distill.run(spec, asked, files, {"data": digits, "teacher": taken["keras"]}, workspace)
    history = json.loads((workspace.out / "history.json").read_text())
    assert len(history) == 2
    assert all(np.isfinite(value) for record in history for value in record["loss"].values())
    assert bool(list(tmp_path.glob("shared/signals/*"))) is stored


def test_a_layer_that_is_not_there_is_told_before_any_work(files, digits, tmp_path):
    section = {"method": "fitnets", "teacher_layer": "actt"}
    with pytest.raises(ModelError, match="has no layer 'actt'"):
        teacher.run(config(teacher=named("keras"), distill=section), files, {"data": digits},
                    space(tmp_path))  # fmt: skip
    with pytest.raises(ModelError, match="TfliteTeacher: it has no layers to tap"):
        teacher.run(config(teacher=named("tflite"), distill={"method": "fitnets"}), files,
                    {"data": digits}, space(tmp_path / "other"))  # fmt: skip


def test_a_softmax_is_refused_with_the_way_to_take_it_off(files, digits, tmp_path):
    with pytest.raises(ModelError, match="the teacher gives probabilities") as caught:
        take({"keras": "softmax.keras"}, files, digits, tmp_path)
    assert "model.layers[-1].activation = None" in caught.value.hint


def test_a_wrong_number_of_classes(files, digits, tmp_path):
    import keras

    inputs = keras.Input((8, 8, 1))
    keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(inputs))).save(
        tmp_path / "seven.keras"
    )
    with pytest.raises(ModelError, match=r"teacher 'seven.keras': .*gives \(2, 7\), expected"):
        take({"keras": "seven.keras"}, tmp_path, digits, tmp_path)


def test_an_operator_that_tflite_lacks(digits, tmp_path, monkeypatch):
    """The teacher teaches all the same; its latency is what is lost."""
    import tensorflow as tf

    monkeypatch.setattr(foreign, "run_in_child", in_this_process)

    class Odd(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), name="image")])
        def logits(self, image):
            values = tf.linalg.svd(image[..., 0], compute_uv=False)
            return tf.concat([tf.reduce_sum(image, (1, 2)), values, values[:, :1]], 1)

    tf.saved_model.save(Odd(), str(tmp_path / "odd"))
    (tmp_path / "out" / "outputs").mkdir(parents=True)
    shutil.copytree(tmp_path / "odd", tmp_path / "out" / "teacher.savedmodel")
    spec = {"spec": {"model": "odd", "layout": "nhwc"}}
    (tmp_path / "out" / "model.json").write_text(json.dumps(spec))
    about = json.loads((digits.root / "data.json").read_text())
    made = artifact("model", tmp_path / "out", data_stage.signature(about))
    with pytest.raises(ExportError, match=r"no operator for tf\.Svd") as caught:
        foreign.convert(300, {"data": digits, "teacher": made}, space(tmp_path / "work"))
    assert "goes on without the teacher's latency" in caught.value.hint


def test_stored_signals_are_kept_by_all_files_of_the_teacher(taken, files, digits, tmp_path):
    made, asked = taken["savedmodel"], config(teacher=named("savedmodel"))

    def key(teacher_artifact: Artifact, folder: str) -> str:
        inputs = {"data": digits, "teacher": teacher_artifact}
        work, student = space(tmp_path / folder), torch.nn.Linear(1, 1)
        return teachersource.make(asked, files, inputs, work, student, Needs()).key(None)

    name = next(name for name in made.files if "variables.data" in name)
    shutil.copytree(made.root, tmp_path / "changed")
    with (tmp_path / "changed" / name).open("ab") as file:
        file.write(b"x")
    before = key(made, "a")
    assert key(made, "b") == before
    assert key(artifact("model", tmp_path / "changed"), "c") != before
