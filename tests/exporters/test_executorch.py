"""What ExecuTorch files have beyond the others: delegation, and a program to convert from."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.exporters.executorch import ExecuTorchExporter
from edgedistill.pipeline.contracts import Artifact, Signature, TensorSpec
from edgedistill.pipeline.errors import ExportError

pytest.importorskip("executorch")
KIND = "executorch"


def note(artefact):
    return json.loads((artefact.root / "delegation.json").read_text())


def test_what_xnnpack_takes_over_is_told(make):
    assert note(make(KIND, "mlp")) == {
        "backend": "XnnpackBackend",
        "share": 1.0,
        "partitions": 1,
        "delegated": {"aten.add.Tensor": 1, "aten.linear.default": 3, "aten.relu.default": 2},
        "portable": {},
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_falls_back_is_told(make, precision):
    told = note(make(KIND, "two", precision))
    assert told["portable"] == {"aten.embedding.default": 1, "aten.mean.dim": 1}
    assert sum(told["delegated"].values()) == 4
    assert told["share"] == pytest.approx(4 / 6)


def test_a_model_that_xnnpack_lacks_altogether(tmp_path):
    class Cumulative(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1)

    spec = TensorSpec("x", (None, 4), "float32")
    signature = Signature((spec,), (TensorSpec("y", (None, 4), "float32"),))
    ExecuTorchExporter().export(Cumulative(), signature, tmp_path)
    told = json.loads((tmp_path / "delegation.json").read_text())
    assert (told["share"], told["partitions"], told["delegated"]) == (0.0, 0, {})
    assert told["portable"] == {"aten.cumsum.default": 1}


def test_size_counts_what_a_device_needs(make):
    artefact = make(KIND, "cnn")
    assert (artefact.root / "model.pt2").stat().st_size > 0
    assert artefact.size_bytes == (artefact.root / "model.pte").stat().st_size


def test_the_captured_program_is_the_model_without_its_source(make, cases):
    case, root = cases["cnn"], make(KIND, "cnn").root
    program = torch.export.load(root / "model.pt2")
    image = torch.from_numpy(case.feeds["image"][:1])
    with torch.no_grad():
        got = program.module()(image).numpy()
    np.testing.assert_allclose(got, case.expected["logits"][:1], rtol=0, atol=1e-5)
    with zipfile.ZipFile(root / "model.pt2") as archive:
        graph = archive.read("model/models/model.json")
    assert b"aten.conv2d" in graph
    assert b"def forward" not in graph
    assert b".py" not in graph


def test_the_export_leaves_the_model_as_it_was(make, cases):
    case = cases["cnn"]
    make(KIND, "cnn")
    with torch.no_grad():
        again = case.model.eval()(torch.from_numpy(case.feeds["image"])).numpy()
    np.testing.assert_array_equal(again, case.expected["logits"])


def test_recipes_find_other_ranges(make, cases, tmp_path):
    source = make(KIND, "cnn")
    ExecuTorchExporter().convert(source, "int8", cases["cnn"].feeds, tmp_path, "minmax")
    unseen = make(KIND, "cnn", "int8").root / "model.pte"
    assert (tmp_path / "model.pte").read_bytes() != unseen.read_bytes()


def test_dynamic_is_for_linear_layers(make, cases, tmp_path):
    with pytest.raises(ExportError, match="int8-dynamic was asked for, but only 512 of 39"):
        ExecuTorchExporter().convert(
            make(KIND, "cnn"), "int8-dynamic", cases["cnn"].feeds, tmp_path
        )


def test_another_process_writes_the_same_bytes(make, cases, tmp_path):
    """Nothing in a file may come from addresses or from the order of a set."""
    source = make(KIND, "mlp")
    np.savez(tmp_path / "samples.npz", **cases["mlp"].feeds)
    code = f"""
import json
from pathlib import Path
import numpy as np
from edgedistill.exporters.executorch import ExecuTorchExporter
from edgedistill.pipeline.contracts import Artifact, Signature
signature = Signature.from_json(json.loads({json.dumps(source.signature.to_json())!r}))
source = Artifact({KIND!r}, "fp32", Path({str(source.root)!r}), {{}}, signature, "", "")
out = Path({str(tmp_path / "out")!r})
out.mkdir()
samples = dict(np.load({str(tmp_path / "samples.npz")!r}))
ExecuTorchExporter().convert(source, "int8", samples, out)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    for path in make(KIND, "mlp", "int8").root.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


class Builtins(nn.Module):
    """Arguments that are called as a builtin of Python and as a parameter of torch are."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(16, 16, bias=False)
        self.scale.weight.data = 2 * torch.eye(16)

    def forward(self, input, weight):  # noqa: A002
        return self.scale(input) + weight


def test_argument_names_that_python_or_torch_has(run, tmp_path):
    specs = tuple(TensorSpec(name, (None, 16), "float32") for name in ("input", "weight"))
    signature = Signature(specs, (TensorSpec("output", (None, 16), "float32"),))
    feeds = {"input": np.eye(16, dtype=np.float32), "weight": np.ones((16, 16), np.float32)}
    folders = [tmp_path / precision for precision in ("fp32", "int8")]
    for folder in folders:
        folder.mkdir()
    written = ExecuTorchExporter().export(Builtins(), signature, folders[0])
    source = Artifact(KIND, "fp32", folders[0], {}, written, "key", "digest")
    ExecuTorchExporter().convert(source, "int8", feeds, folders[1])
    for folder in folders:
        got = run(Artifact(KIND, "", folder, {}, written, "key", "digest"), feeds).results
        np.testing.assert_allclose(got["output"], 2 * np.eye(16) + 1, atol=0.02)


def test_names_are_kept_as_they_are(run, tmp_path):
    names = ['a,"b"', "größe"]
    specs = tuple(TensorSpec(name, (None, 3), "float32") for name in names)
    signature = Signature(specs, (TensorSpec("a - b", (None, 3), "float32"),))

    class Difference(nn.Module):
        def forward(self, a, b):
            return a - b

    written = ExecuTorchExporter().export(Difference(), signature, tmp_path)
    artefact = Artifact(KIND, "fp32", tmp_path, {}, written, "key", "digest")
    feeds = {name: np.full((2, 3), 1.0 + place, np.float32) for place, name in enumerate(names)}
    answer = run(artefact, feeds)
    assert list(answer.inputs) == names
    np.testing.assert_array_equal(answer.results["a - b"], np.full((2, 3), -1.0))
