"""Answers of the files in their runtimes, on the real libraries."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill.pipeline.contracts import Signature
from edgedistill.pipeline.errors import TargetError
from edgedistill.targets.local import RUNTIMES, LocalCpu

KINDS = ("onnx", "openvino", "tflite", "executorch")
LIBRARIES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tflite": "ai_edge_litert",
    "executorch": "executorch",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 3, 64, 130])
def test_conv_answers_like_torch(cpu, conv, kind, samples):
    feeds = conv.feeds(samples)
    with cpu.open(conv.artifacts[kind], threads=1) as session:
        outputs = session.run(feeds)
    np.testing.assert_allclose(outputs["logits"], conv.expected(feeds)["logits"], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_inputs_and_outputs_keep_names_and_order(cpu, two, kind):
    feeds = two.feeds(5)
    backwards = dict(reversed(feeds.items()))
    with cpu.open(two.artifacts[kind], threads=1) as session:
        outputs = session.run(backwards)
    assert list(outputs) == ["mixed", "total"]
    for name, expected in two.expected(feeds).items():
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_signature_the_files_own_names_are_used(cpu, conv, kind):
    bare = dataclasses.replace(conv.artifacts[kind], signature=None)
    feeds = conv.feeds(2)
    with cpu.open(bare, threads=1) as session:
        (name,) = (spec.name for spec in session.signature.inputs)
        (outputs,) = session.run({name: feeds["image"]}).values()
    np.testing.assert_allclose(outputs, conv.expected(feeds)["logits"], atol=1e-5)


def test_a_large_input_is_passed_on_in_parts(cpu, conv, monkeypatch):
    monkeypatch.setattr("edgedistill.targets.session.PART_BYTES", 1)
    feeds = conv.feeds(150)
    with cpu.open(conv.artifacts["onnx"], threads=1) as session:
        outputs = session.run(feeds)
    np.testing.assert_allclose(outputs["logits"], conv.expected(feeds)["logits"], atol=1e-5)


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_a_fixed_batch_is_padded_and_cut(cpu, conv, tmp_path, samples):
    import openvino as ov

    model = ov.Core().read_model(conv.artifacts["openvino"].root / "model.xml")
    model.reshape([4, 1, 8, 8])
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    fixed = dataclasses.replace(conv.artifacts["openvino"], root=tmp_path)
    feeds = conv.feeds(samples)
    with cpu.open(fixed, threads=1) as session:
        outputs = session.run(feeds)
        assert session.signature.inputs[0].shape == (4, 1, 8, 8)
        assert session.time(conv.feeds(4), 3).shape == (3,)
        with pytest.raises(TargetError, match=r"fixed to 4"):
            session.time(conv.feeds(1), 3)
    np.testing.assert_allclose(outputs["logits"], conv.expected(feeds)["logits"], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_facts_and_times(cpu, conv, kind, threads):
    with cpu.open(conv.artifacts[kind], threads) as session:
        assert session.facts().first_ms is None
        seconds = session.time(conv.feeds(1), 20)
        facts = session.facts()
    assert seconds.shape == (20,)
    assert seconds.dtype == np.float64
    assert (seconds > 0).all()
    assert facts.runtime == RUNTIMES[kind].runtime
    assert facts.threads == threads
    assert facts.precision == "fp32"
    assert "CPU" in facts.device
    assert facts.version[0].isdigit()
    assert facts.load_ms > 0
    assert facts.first_ms > 0


def test_threads_reach_the_runtime(cpu, conv):
    """Onnxruntime makes `threads - 1` threads beside the caller's."""
    counts = {}
    for threads in (1, 4):
        with cpu.open(conv.artifacts["onnx"], threads) as session:
            session.run(conv.feeds(1))
            counts[threads] = len(list(Path(f"/proc/{session.pid}/task").iterdir()))
    assert counts[4] == counts[1] + 3


def test_peak_memory_is_the_workers_own(cpu, conv):
    """This process holds torch; a worker that reported its parent's size would show it."""
    with cpu.open(conv.artifacts["tflite"], threads=1) as session:
        session.run(conv.feeds(1))
        peak = session.facts().peak_rss_bytes
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert 10e6 < peak < own / 2


@pytest.mark.parametrize("kind", KINDS)
def test_worker_imports_one_runtime_only(conv, kind):
    """The worker's own code on a real file, in a fresh interpreter that then shows its modules."""
    choice = RUNTIMES[kind]
    artifact = conv.artifacts[kind]
    (name,) = (f for f in artifact.files if f.endswith(choice.suffix))
    code = f"""
import sys
from importlib import import_module
from pathlib import Path
import numpy as np
from edgedistill.targets import worker
load = import_module("edgedistill.targets.runtimes.{choice.runtime}").load
runtime = load(Path({str(artifact.root / name)!r}), "fp32", 1)
runtime.run({{runtime.inputs[0].name: np.zeros((1, 1, 8, 8), np.float32)}})
print(*sorted({{module.partition(".")[0] for module in sys.modules}}))
"""
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    loaded = set(shown.stdout.decode().split())
    others = {"torch", "tensorflow", "onnx", "nncf", "litert_torch", "pydantic", "click"}
    others |= {"torchao", *LIBRARIES.values()} - {LIBRARIES[kind]}
    others -= {"torch"} if kind == "executorch" else set()  # its tensors are torch's
    assert LIBRARIES[kind] in loaded
    assert not loaded & others


def test_openvino_tells_the_precision_it_computes_in(cpu, conv):
    import openvino as ov

    preferred = (
        ov.Core()
        .compile_model(conv.artifacts["openvino"].root / "model.xml", "CPU")
        .get_property("INFERENCE_PRECISION_HINT")
    )
    half = dataclasses.replace(conv.artifacts["openvino"], precision="fp16")
    with cpu.open(half, threads=1) as session:
        told = session.facts().precision
        got = session.run(conv.feeds(64))["logits"]
    error = np.abs(got - conv.expected(conv.feeds(64))["logits"])
    names = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
    assert told == names[preferred.get_type_name()]
    assert (error.max() > 1e-5) == (told != "fp32")


def test_onnxruntime_computes_an_fp16_file_in_fp32(cpu, conv, tmp_path):
    from edgedistill.exporters.onnx import OnnxExporter

    source = dataclasses.replace(conv.artifacts["onnx"], signature=conv.signature)
    OnnxExporter().convert(source, "fp16", conv.feeds(8), tmp_path)
    (path,) = tmp_path.glob("*.onnx")
    half = dataclasses.replace(source, root=tmp_path, files={path.name: ""}, precision="fp16")
    with cpu.open(half, threads=1) as session:
        assert session.facts().precision == "fp32"


def test_openvino_int8_is_read_from_the_executed_graph(cpu, conv, tmp_path):
    import nncf
    import openvino as ov

    model = ov.Core().read_model(conv.artifacts["openvino"].root / "model.xml")
    data = nncf.Dataset(list(conv.feeds(8)["image"][:, None]))
    ov.save_model(nncf.quantize(model, data, subset_size=8), tmp_path / "model.xml")
    source = conv.artifacts["openvino"]
    quantized = dataclasses.replace(source, root=tmp_path, precision="int8")
    not_quantized = dataclasses.replace(source, precision="int8")
    for artifact, precision in ((quantized, "int8"), (not_quantized, "fp32")):
        with cpu.open(artifact, threads=1) as session:
            assert session.facts().precision == precision


def test_wrong_files(cpu, conv, tmp_path):
    source = conv.artifacts["openvino"]
    shutil.copy(source.root / "model.xml", tmp_path)
    lonely = dataclasses.replace(source, root=tmp_path)
    with pytest.raises(TargetError, match=r"model\.xml needs its weights model\.bin beside it"):
        cpu.open(lonely, threads=1)
    empty = dataclasses.replace(source, files={})
    with pytest.raises(TargetError, match=r"has 0 files \*\.xml"):
        cpu.open(empty, threads=1)
    gone = dataclasses.replace(conv.artifacts["onnx"], root=tmp_path)
    with pytest.raises(TargetError, match=r"model\.onnx is missing"):
        cpu.open(gone, threads=1)


@pytest.mark.parametrize("kind", KINDS)
def test_junk_is_refused_in_a_short_message(cpu, conv, tmp_path, kind):
    for name in conv.artifacts[kind].files:
        (tmp_path / name).write_bytes(b"this is no model" * 40)
    junk = dataclasses.replace(conv.artifacts[kind], root=tmp_path)
    with pytest.raises(TargetError, match="cannot open") as caught:
        cpu.open(junk, threads=1)
    assert RUNTIMES[kind].runtime in caught.value.message
    assert len(caught.value.message) < 700


def test_signature_of_another_model_is_refused(cpu, conv, two):
    wrong = dataclasses.replace(conv.artifacts["onnx"], signature=two.signature)
    with pytest.raises(TargetError, match=r"the file has 1 inputs \['image'\], its signature 2"):
        cpu.open(wrong, threads=1)


def test_quantized_inputs_are_refused(cpu, conv, tmp_path):
    from ai_edge_quantizer import quantizer, recipe

    source = conv.artifacts["tflite"]
    tool = quantizer.Quantizer(str(source.root / "model.tflite"), recipe.static_wi8_ai8())
    samples = [{"args_0": row[None]} for row in conv.feeds(8)["image"]]
    tool.quantize(tool.calibrate({"serving_default": samples})).export_model(
        str(tmp_path / "model.tflite")
    )
    quantized = dataclasses.replace(source, root=tmp_path, precision="int8")
    with pytest.raises(TargetError, match=r"'args_0' is quantized int8 \(scale 0\.0") as caught:
        cpu.open(quantized, threads=1)
    assert "float32 inputs and outputs" in caught.value.hint


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(cpu, conv, threads):
    with pytest.raises(TargetError, match="threads; expected 1 or more"):
        cpu.open(conv.artifacts["onnx"], threads)


def test_plugin_face():
    cpu = LocalCpu()
    assert (cpu.name, cpu.evidence) == ("cpu", "measured on this host")
    assert [kind for kind in (*KINDS, "coreml") if cpu.accepts(kind)] == list(KINDS)
    assert all(cpu.missing(kind) is None for kind in KINDS)
    with pytest.raises(TargetError, match="runs no artefacts of the kind 'coreml'"):
        cpu.missing("coreml")


def test_a_missing_runtime_gives_the_pip_line():
    """A fresh interpreter in which the library cannot be found."""
    code = """
import sys
from importlib.machinery import PathFinder
class Hide:
    def find_spec(name, path=None, target=None):
        return None if name == "openvino" else real(name, path, target)
real = PathFinder.find_spec
sys.meta_path = [Hide if finder is PathFinder else finder for finder in sys.meta_path]
from edgedistill.targets.local import LocalCpu
missing = LocalCpu().missing("openvino")
print(missing.libraries, missing.pip_line, LocalCpu().missing("onnx"))
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout
    assert shown.split("\n")[0] == "('openvino',) pip install 'edgedistill[openvino]' None"


def test_importing_the_target_needs_no_runtime():
    code = (
        "import sys, edgedistill.targets.local\nprint(*{m.partition('.')[0] for m in sys.modules})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not set(shown.stdout.split()) & {*LIBRARIES.values(), "torch"}


def test_signature_keeps_layouts_and_tells_the_files_shapes(cpu, conv):
    with cpu.open(conv.artifacts["tflite"], threads=1) as session:
        (spec,) = session.signature.inputs
    assert (spec.name, spec.layout, spec.shape) == ("image", "NCHW", (1, 1, 8, 8))
    assert isinstance(session.signature, Signature)
