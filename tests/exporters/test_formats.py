"""Files of every exporter, run in their own runtime and compared with torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from edgedistill.pipeline.contracts import Signature, TensorSpec

CASES = ["cnn", "mlp", "two"]
# Largest error allowed: absolute for fp32, relative to the largest output for fp16.
FP32_ATOL = 1e-4
FP16_RTOL = 1e-2
INT8_MIN_SQNR_DB = 20.0


def sqnr_db(reference, candidate):
    noise = np.square(reference - candidate).sum()
    return 10 * np.log10(np.square(reference).sum() / noise)


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def skip_without(exporter, precision):
    if precision not in exporter.precisions:
        pytest.skip(f"{exporter.kind} has no {precision}")


@pytest.mark.parametrize("name", CASES)
def test_fp32_answers_like_torch(exporter, make, run, cases, name):
    case = cases[name]
    results = run(make(exporter.kind, name), case.feeds).results
    for output, expected in case.expected.items():
        np.testing.assert_allclose(results[output], expected, rtol=0, atol=FP32_ATOL)


@pytest.mark.parametrize("name", CASES)
def test_fp16_answers_like_torch(exporter, make, run, cases, name):
    skip_without(exporter, "fp16")
    case = cases[name]
    results = run(make(exporter.kind, name, "fp16"), case.feeds).results
    for output, expected in case.expected.items():
        atol = FP16_RTOL * np.abs(expected).max()
        np.testing.assert_allclose(results[output], expected, rtol=0, atol=atol)
        assert not np.array_equal(results[output], expected)


@pytest.mark.parametrize("name", CASES)
def test_int8_keeps_the_signal(exporter, make, run, cases, name):
    case = cases[name]
    results = run(make(exporter.kind, name, "int8"), case.feeds).results
    for output, expected in case.expected.items():
        assert INT8_MIN_SQNR_DB <= sqnr_db(expected, results[output]) < 70


@pytest.mark.parametrize("name", ["mlp", "two"])
def test_int8_dynamic_keeps_the_signal(exporter, make, run, cases, name):
    skip_without(exporter, "int8-dynamic")
    case = cases[name]
    results = run(make(exporter.kind, name, "int8-dynamic"), case.feeds).results
    assert INT8_MIN_SQNR_DB <= sqnr_db(case.expected["logits"], results["logits"]) < 70


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", CASES)
def test_file_is_what_the_signature_says(exporter, make, run, cases, name, precision):
    skip_without(exporter, precision)
    case = cases[name]
    artefact = make(exporter.kind, name, precision)
    answer = run(artefact, case.feeds)
    for specs, given, ports in (
        (artefact.signature.inputs, case.signature.inputs, answer.inputs),
        (artefact.signature.outputs, case.signature.outputs, answer.outputs),
    ):
        assert {spec.name: (spec.shape, spec.dtype) for spec in specs} == ports
        assert [(s.name, s.layout) for s in specs] == [(s.name, s.layout) for s in given]
        assert [spec.shape[1:] for spec in specs] == [spec.shape[1:] for spec in given]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tflite_weights_that_lie_behind_the_flatbuffer(make, run, cases, precision):
    # From 256 KiB of weights on, the quantizer writes them behind the flatbuffer.
    case = cases["wide"]
    results = run(make("tflite", "wide", precision), case.feeds).results
    for output, expected in case.expected.items():
        assert sqnr_db(expected, results[output]) >= INT8_MIN_SQNR_DB


def test_float_ports_stay_float32(exporter, make):
    signature = make(exporter.kind, "cnn", "int8").signature
    assert {spec.dtype for spec in (*signature.inputs, *signature.outputs)} == {"float32"}


def test_batch_axis_is_free_where_the_format_allows(exporter, make):
    signature = make(exporter.kind, "two").signature
    wanted = 1 if exporter.kind in ("tflite", "executorch") else None
    assert {spec.shape[0] for spec in (*signature.inputs, *signature.outputs)} == {wanted}


def test_files_shrink_with_the_precision(exporter, make):
    def weights_size(precision):
        # The graph of OpenVINO lies in a file of its own and grows with the quantization nodes.
        artefact = make(exporter.kind, "cnn", precision)
        files = [artefact.root / name for name in artefact.model_files]
        return sum(path.stat().st_size for path in files if path.suffix != ".xml")

    fp32, int8 = map(weights_size, ("fp32", "int8"))
    assert int8 < 0.4 * fp32
    if "fp16" in exporter.precisions:
        assert int8 < weights_size("fp16") < 0.6 * fp32


def test_folder_holds_the_model_and_nothing_else(exporter, make):
    wanted = {
        "onnx": {"model.onnx"},
        "openvino": {"model.xml", "model.bin"},
        "tflite": {"model.tflite"},
        "executorch": {"model.pte"},
    }
    beside = {"executorch": {"delegation.json"}}.get(exporter.kind, set())
    for precision in exporter.precisions:
        source = {"model.pt2"} if (exporter.kind, precision) == ("executorch", "fp32") else set()
        made = make(exporter.kind, "mlp", precision)
        assert set(made.model_files) == wanted[exporter.kind]
        assert set(made.files) == wanted[exporter.kind] | beside | source


def test_same_input_same_bytes(exporter, make, cases, tmp_path):
    case, source = cases["cnn"], make(exporter.kind, "cnn")
    exporter.export(copy.deepcopy(case.model), case.signature, tmp_path)
    assert folder_bytes(tmp_path) == folder_bytes(source.root)
    for precision in sorted({"fp16", "int8"} & set(exporter.precisions)):
        again = tmp_path / precision
        again.mkdir()
        exporter.convert(source, precision, case.feeds, again)
        assert folder_bytes(again) == folder_bytes(make(exporter.kind, "cnn", precision).root)


def test_no_path_of_this_machine_in_the_file(exporter, make):
    here = str(__file__).encode().rsplit(b"/", 1)[0]
    for content in folder_bytes(make(exporter.kind, "cnn").root).values():
        assert here not in content
        assert torch.__file__.encode() not in content


def test_training_mode_is_exported_in_eval(exporter, make, cases, tmp_path):
    case = cases["cnn"]
    model = copy.deepcopy(case.model).train()
    exporter.export(model, case.signature, tmp_path)
    assert folder_bytes(tmp_path) == folder_bytes(make(exporter.kind, "cnn").root)


def test_fixed_batch_stays_fixed(exporter, run, cases, tmp_path):
    case, batch = cases["mlp"], 5

    def fixed(specs):
        return tuple(TensorSpec(s.name, (batch, *s.shape[1:]), s.dtype, s.layout) for s in specs)

    wanted = Signature(fixed(case.signature.inputs), fixed(case.signature.outputs))
    float_folder, int8_folder = tmp_path / "fp32", tmp_path / "int8"
    float_folder.mkdir()
    int8_folder.mkdir()
    assert exporter.export(case.model, wanted, float_folder) == wanted
    source = _artefact(exporter.kind, float_folder, wanted)
    # 64 calibration samples are no multiple of the batch: the rest is filled up.
    assert exporter.convert(source, "int8", case.feeds, int8_folder) == wanted
    feeds = {name: array[:batch] for name, array in case.feeds.items()}
    got = run(_artefact(exporter.kind, int8_folder, wanted), feeds).results["logits"]
    assert sqnr_db(case.expected["logits"][:batch], got) >= INT8_MIN_SQNR_DB


def _artefact(kind, folder, signature):
    from edgedistill.pipeline.contracts import Artifact

    return Artifact(kind, "fp32", folder, {}, signature, "key", "digest")


@pytest.mark.parametrize(("into", "out"), [("relu", "linear"), ("weight", "x")])
def test_names_that_operators_or_weights_have(exporter, run, cases, tmp_path, into, out):
    case = cases["mlp"]
    signature = Signature(
        (TensorSpec(into, (None, 32), "float32"),), (TensorSpec(out, (None, 4), "float32"),)
    )
    written = exporter.export(case.model, signature, tmp_path)
    answer = run(_artefact(exporter.kind, tmp_path, written), {into: case.feeds["features"]})
    np.testing.assert_allclose(answer.results[out], case.expected["logits"], rtol=0, atol=FP32_ATOL)


def test_attention_with_a_fused_kernel_is_exported(exporter, run, tmp_path):
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.encode = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            return self.encode(x).mean(1)

    torch.manual_seed(0)
    model = Encoder()
    signature = Signature(
        (TensorSpec("x", (None, 6, 16), "float32"),), (TensorSpec("y", (None, 16), "float32"),)
    )
    written = exporter.export(model, signature, tmp_path)
    x = torch.randn(3, 6, 16)
    with torch.no_grad():
        expected = model(x).numpy()
    got = run(_artefact(exporter.kind, tmp_path, written), {"x": x.numpy()}).results["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=FP32_ATOL)
    assert torch.backends.mha.get_fastpath_enabled()
