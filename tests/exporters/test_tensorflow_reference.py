"""A second opinion on .tflite files by TensorFlow's reference kernels."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.exporters import tensorflow_reference
from edgedistill.exporters.tensorflow_reference import second_opinion
from edgedistill.pipeline.contracts import Missing
from edgedistill.pipeline.errors import ExportError, MissingDependency

pytest.importorskip("tensorflow")
pytest.importorskip("litert_torch")


def file_of(artifact):
    return artifact.root / "model.tflite"


@pytest.mark.parametrize(
    ("name", "precision", "limit"),
    [("cnn", "fp32", 1e-5), ("two", "fp32", 1e-5), ("cnn", "int8", 0.05)],
)
def test_both_agree_on_what_we_export(make, cases, name, precision, limit):
    feeds = cases[name].feeds
    found = second_opinion(file_of(make("tflite", name, precision)), feeds)
    assert found.output in cases[name].expected
    assert found.scale > 0.1
    assert found.relative <= limit
    assert found.agreement >= 0.9


def test_they_are_two_runtimes(make, cases, monkeypatch):
    """A file that one of them reads otherwise is noticed."""
    other = file_of(make("tflite", "cnn", "int8"))
    reference = tensorflow_reference._reference
    monkeypatch.setattr(tensorflow_reference, "_reference", lambda file: reference(other))
    found = second_opinion(file_of(make("tflite", "cnn")), cases["cnn"].feeds)
    assert 1e-4 < found.relative < 0.2
    assert found.max_abs == pytest.approx(found.relative * found.scale)


def test_what_cannot_be_compared(tmp_path, make, cases):
    (tmp_path / "junk.tflite").write_text("no model")
    with pytest.raises(ExportError, match=r"LiteRT cannot open .*junk.tflite"):
        second_opinion(tmp_path / "junk.tflite", {})
    file = file_of(make("tflite", "cnn"))
    with pytest.raises(ExportError, match=r"feeds are \['picture'\], the file's inputs"):
        second_opinion(file, {"picture": np.zeros((1, 1))})
    (name,) = cases["cnn"].feeds
    with pytest.raises(ExportError, match="LiteRT cannot run the file"):
        second_opinion(file, {name: np.zeros((1, 1, 3, 3), np.float32)})


def test_without_tensorflow(make, cases, monkeypatch):
    lacking = Missing(("tensorflow",), "tensorflow")
    monkeypatch.setattr(tensorflow_reference, "missing_libraries", lambda names, extra: lacking)
    with pytest.raises(MissingDependency, match="second opinion needs tensorflow") as caught:
        second_opinion(file_of(make("tflite", "cnn")), cases["cnn"].feeds)
    assert caught.value.hint == "pip install 'edgedistill[tensorflow]'"
