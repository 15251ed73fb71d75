from __future__ import annotations

import pytest

from edgedistill.pipeline.benchmark import benchmark
from edgedistill.pipeline.errors import BundleError, ConfigError, EdgeDistillError


def silent(done, total, note):
    pass


def measured(*paths):
    return benchmark(paths, ["cpu"], 1, 0.02, silent)


def test_the_same_file_twice_has_two_names(finished):
    path = next((finished.run / "stages/export-onnx/").glob("*.onnx"))
    rows = measured(path, path)
    assert [row["name"] for row in rows] == [path.name, f"{path.name} (2)"]
    assert {row["runtime"] for row in rows} == {"onnxruntime"}
    assert all(row["threads"] == 1 for row in rows)


def test_an_openvino_file(finished):
    path = next((finished.run / "stages/export-openvino/").glob("*.xml"))
    (row,) = measured(path)
    assert (row["runtime"], row["target"]) == ("openvino", "cpu")


@pytest.mark.parametrize(
    ("stage", "told"),
    [("quantize-tflite-int8", "int8"), ("quantize-openvino-int8", "int8"),
     ("quantize-onnx-int8", "as in the file"), ("export-tflite", "fp32")],
)  # fmt: skip
def test_a_bare_file_has_the_precision_that_its_runtime_reads(finished, stage, told):
    """The bare file has no label, so none is echoed."""
    suffixes = {".onnx", ".xml", ".tflite"}
    folder = finished.run / "stages" / stage
    (path,) = (found for found in folder.iterdir() if found.suffix in suffixes)
    (row,) = measured(path)
    assert row["precision"] == told


def test_a_bundle_brings_its_labels(finished):
    (row,) = measured(finished.bundle)
    assert 0 <= row["golden_accuracy"] <= 1
    assert row["golden_samples"] == 16


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("x.onnx", b"words", EdgeDistillError), ("x.tflite", b"words", EdgeDistillError),
     ("x.edge.zip", b"words", BundleError), ("x.pt", b"", ConfigError),
     ("gone.onnx", None, ConfigError)],
)  # fmt: skip
def test_what_cannot_be_measured(tmp_path, name, content, kind):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind):
        measured(tmp_path / name)


def test_an_unknown_target(finished):
    with pytest.raises(ConfigError, match="no targets plugin is called 'cpuu'"):
        benchmark([finished.bundle], ["cpuu"], 1, 0.02, silent)
