"""What cannot be exported: always an ExportError that names format, place and way out."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.exporters._errors import essence, explained
from edgedistill.exporters.tflite import TfliteExporter
from edgedistill.pipeline.contracts import Artifact, Signature, TensorSpec
from edgedistill.pipeline.errors import DataError, ExportError

X = TensorSpec("x", (None, 4, 4), "float32")
SQUARE = Signature((X,), (TensorSpec("y", (None, 4, 4), "float32"),))


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class SliceByValue(nn.Module):
    def forward(self, x):
        return x[:, : int(x[0, 0, 0])]


class ValueRead(nn.Module):
    def forward(self, x):
        return x + torch.ones(4) * x[0].sum().item()


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j1(x)


class ComplexDeterminant(nn.Module):
    def forward(self, x):
        return x + torch.linalg.det(torch.complex(x, x)).abs()[:, None, None]


class Sort(nn.Module):
    def forward(self, x):
        return torch.sort(x, -1)[0]


class Unique(nn.Module):
    def forward(self, x):
        return torch.unique(x)


class OneBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1).reshape(2, 4, 4)


class Failing(nn.Module):
    def forward(self, x):
        raise KeyError("no such head")


class Outside(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() * 2)


class Pair(nn.Module):
    def forward(self, x):
        return x, x + 1


class Named(nn.Module):
    def forward(self, x):
        return {"y": x + 1}


def line_of(module, text):
    """`file:line` of the line of a module class that holds `text`."""
    lines, start = inspect.getsourcelines(module)
    (offset,) = [number for number, line in enumerate(lines) if text in line]
    return f"{__file__}:{start + offset}"


def refused(exporter, module, folder, signature=SQUARE):
    with pytest.raises(ExportError) as caught:
        exporter.export(module(), signature, folder)
    error = caught.value
    assert error.message.startswith(f"{exporter.kind}: ")
    assert error.hint
    assert "\n" not in error.message
    return error


@pytest.mark.parametrize(
    ("module", "text"), [(Branch, "if x.sum()"), (SliceByValue, "int(x[0, 0, 0])")]
)
def test_control_flow_on_values(exporter, tmp_path, module, text):
    error = refused(exporter, module, tmp_path)
    assert "depends on the values of its inputs" in error.message
    assert line_of(module, text) in error.message
    assert error.__cause__ is not None


def test_value_as_python_number(exporter, run, tmp_path):
    if exporter.kind not in ("onnx", "executorch"):
        error = refused(exporter, ValueRead, tmp_path)
        assert line_of(ValueRead, ".item()") in error.message
        return
    # These can say it: the file must follow the value, not keep that of the example.
    signature = exporter.export(ValueRead(), SQUARE, tmp_path)
    artefact = Artifact(exporter.kind, "fp32", tmp_path, {}, signature, "key", "digest")
    for value in (1.0, -3.0):
        x = np.full((3, 4, 4), value, np.float32)
        np.testing.assert_allclose(run(artefact, {"x": x}).results["y"], x + 16 * value)


@pytest.mark.parametrize(
    ("module", "text", "operator"),
    [(Bessel, "bessel_j1", "bessel_j1"), (ComplexDeterminant, "complex", "")],
)
def test_unsupported_operator(exporter, tmp_path, module, text, operator):
    error = refused(exporter, module, tmp_path)
    assert "not supported" in error.message
    assert operator in error.message
    assert line_of(module, text) in error.message
    assert "export.formats" in error.hint


def test_operator_that_only_the_runtime_lacks(exporter, tmp_path):
    lacking = {"tflite": "STABLEHLO_SORT", "executorch": "aten::sort"}.get(exporter.kind)
    if lacking is None:
        exporter.export(Sort(), SQUARE, tmp_path)
    else:
        assert lacking in refused(exporter, Sort, tmp_path).message


def test_output_of_another_shape(exporter, tmp_path):
    error = refused(exporter, Unique, tmp_path)
    assert "output 'y'" in error.message
    assert "(None, 4, 4)" in error.message


def test_batch_size_written_into_the_model(exporter, tmp_path):
    error = refused(exporter, OneBatch, tmp_path)
    assert "batch" in error.message or "(None, 4, 4)" in error.message or "shape" in error.message


@pytest.mark.parametrize(("module", "text"), [(Failing, "raise"), (Outside, "from_numpy")])
def test_model_that_fails(exporter, tmp_path, module, text):
    error = refused(exporter, module, tmp_path)
    assert line_of(module, text) in error.message


@pytest.mark.parametrize(("module", "text"), [(Pair, "2 tensors"), (Named, "a dict")])
def test_outputs_other_than_the_signature(exporter, tmp_path, module, text):
    assert text in refused(exporter, module, tmp_path).message


def test_free_axis_inside(exporter, tmp_path):
    signature = Signature((TensorSpec("x", (None, None, 4), "float32"),), SQUARE.outputs)
    assert "(None, None, 4)" in refused(exporter, nn.ReLU, tmp_path, signature).message


def test_name_that_tflite_cannot_write(tmp_path):
    signature = Signature((TensorSpec("input.1", (None, 4, 4), "float32"),), SQUARE.outputs)
    with pytest.raises(ExportError, match=r"tflite: 'input\.1' cannot name"):
        TfliteExporter().export(nn.ReLU(), signature, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_unknown_precision(exporter, make, cases, tmp_path, precision):
    source, known = make(exporter.kind, "mlp"), exporter.precisions[1]
    with pytest.raises(ExportError, match=f"{exporter.kind}.*{precision}.*expected one of {known}"):
        exporter.convert(source, precision, cases["mlp"].feeds, tmp_path)


def test_source_that_is_no_fp32_artefact(exporter, make, cases, tmp_path):
    source = make(exporter.kind, "mlp", exporter.precisions[1])
    with pytest.raises(ExportError, match=r"expected .* in 'fp32'"):
        exporter.convert(source, "int8", cases["mlp"].feeds, tmp_path)


def test_model_without_weights_is_not_called_int8(exporter, tmp_path):
    float_folder, int8_folder = tmp_path / "fp32", tmp_path / "int8"
    float_folder.mkdir()
    int8_folder.mkdir()

    class Wave(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    written = exporter.export(Wave(), SQUARE, float_folder)
    source = Artifact(exporter.kind, "fp32", float_folder, {}, written, "key", "digest")
    samples = {"x": np.random.default_rng(0).normal(size=(8, 4, 4)).astype(np.float32)}
    with pytest.raises(ExportError, match=f"{exporter.kind}: int8 was asked for, but only 0 of"):
        exporter.convert(source, "int8", samples, int8_folder)


def test_damaged_source(exporter, make, cases, tmp_path):
    source = make(exporter.kind, "mlp")
    junk, out = tmp_path / "junk", tmp_path / "out"
    junk.mkdir()
    out.mkdir()
    for name in source.files:
        (junk / name).write_bytes(b"no model at all")
    damaged = Artifact(exporter.kind, "fp32", junk, {}, source.signature, "key", "digest")
    precision = exporter.precisions[1]
    with pytest.raises(ExportError, match=f"{exporter.kind}: cannot convert to {precision}"):
        exporter.convert(damaged, precision, cases["mlp"].feeds, out)


def test_essence_is_the_line_that_matters():
    text = "Check 'false' failed at src/a.cpp:1:\nFrontEnd API failed:\n\nrank must be 4, got 2"
    assert essence(RuntimeError(text)) == "RuntimeError: rank must be 4, got 2"
    assert essence(RuntimeError("")) == "RuntimeError"


def test_explained_lets_our_own_errors_through():
    with pytest.raises(DataError, match="mine"), explained("onnx", "work"):
        raise DataError("mine")
    expected = pytest.raises(ExportError, match="onnx: cannot work: ValueError: 3")
    with expected as caught, explained("onnx", "work"):
        raise ValueError("3")
    assert isinstance(caught.value.__cause__, ValueError)
