"""What is ExecuTorch's own: bare numbers for errors, layouts in memory, a pool of threads."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.pipeline.contracts import Artifact
from edgedistill.pipeline.errors import TargetError

from .conftest import to_pte

pytest.importorskip("executorch")


def load(path, precision, threads):
    from edgedistill.targets.runtimes import executorch

    return executorch.load(path, precision, threads)


@pytest.fixture
def runtime(conv):
    return load(conv.artifacts["executorch"].root / "model.pte", "fp32", 1)


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A net over three channels, whose layouts in memory differ, and its file."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    path = tmp_path_factory.mktemp("colours") / "model.pte"
    path.write_bytes(to_pte(module, (torch.zeros(1, 3, 8, 8),)))
    return module, path


def test_channels_last_in_memory_does_not_matter(colours):
    """ExecuTorch itself gives another answer here, without a word."""
    module, path = colours
    runtime = load(path, "fp32", 1)
    nhwc = np.random.default_rng(0).standard_normal((1, 8, 8, 3), np.float32)
    image = nhwc.transpose(0, 3, 1, 2)
    assert not image.flags.c_contiguous
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
        itself = runtime._method.call([torch.from_numpy(image)])[0].numpy()
    assert np.abs(itself - expected).max() > 1e-3
    (name,) = (spec.name for spec in runtime.inputs)
    np.testing.assert_allclose(runtime.run({name: image})[0], expected, atol=1e-5)
    np.testing.assert_allclose(runtime.prepare({name: image})(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("array", "what"),
    [(np.zeros((1, 1, 4, 8), np.float32), "shape"), (np.zeros((2, 1, 8, 8), np.float32), "shape"),
     (np.zeros((1, 8, 8), np.float32), "shape"), (np.zeros((1, 1, 8, 8)), "dtype")],
)  # fmt: skip
@pytest.mark.parametrize("way", ["run", "prepare"])
def test_a_number_is_explained(runtime, array, what, way):
    with pytest.raises(TargetError, match=f"another {what} than the file takes") as caught:
        getattr(runtime, way)({"input_0": array})
    assert f"({str(array.dtype)!r}, {array.shape})" in caught.value.message
    assert "('float32', (1, 1, 8, 8))" in caught.value.message
    assert "0x1" in str(caught.value.__cause__)


def test_a_refused_feed_leaves_the_program_usable(runtime, conv):
    with pytest.raises(TargetError):
        runtime.run({"input_0": np.zeros((1, 1, 4, 8), np.float32)})
    feeds = conv.feeds(1)
    (logits,) = runtime.run({"input_0": feeds["image"]})
    np.testing.assert_allclose(logits, conv.expected(feeds)["logits"], atol=1e-5)


def test_outputs_are_the_callers(runtime):
    first = runtime.run({"input_0": np.ones((1, 1, 8, 8), np.float32)})[0]
    kept = first.copy()
    runtime.run({"input_0": np.zeros((1, 1, 8, 8), np.float32)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no whole ExecuTorch program"), (b"this is no model" * 40, "no whole ExecuTorch"),
     (None, "cannot load")],
)  # fmt: skip
def test_files_that_are_none(tmp_path, content, words):
    path = tmp_path / "model.pte"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TargetError, match=words) as caught:
        load(path, "fp32", 1)
    assert ".pte file" in caught.value.hint


def test_a_truncated_file(conv, tmp_path):
    whole = (conv.artifacts["executorch"].root / "model.pte").read_bytes()
    (tmp_path / "model.pte").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TargetError, match=r"model\.pte is no whole ExecuTorch program"):
        load(tmp_path / "model.pte", "fp32", 1)


def test_an_operator_without_a_kernel(tmp_path):
    class Sort(nn.Module):
        def forward(self, x):
            return torch.sort(x)[0]

    (tmp_path / "model.pte").write_bytes(to_pte(Sort(), (torch.zeros(1, 4),)))
    with pytest.raises(TargetError, match="for which the installed ExecuTorch has no kernel"):
        load(tmp_path / "model.pte", "fp32", 1)


def test_names_that_our_exporter_left(conv, tmp_path, cpu):
    from edgedistill.exporters.executorch import ExecuTorchExporter

    ExecuTorchExporter().export(conv.module, conv.signature, tmp_path)
    bare = Artifact("executorch", "", tmp_path, {"model.pte": ""}, None, "", "")
    with cpu.open(bare, threads=1) as session:
        assert [spec.name for spec in session.signature.inputs] == ["image"]
        assert [spec.name for spec in session.signature.outputs] == ["logits"]
        assert session.facts().precision == "as in the file"


def test_threads_reach_the_pool_and_torch_adds_none(cpu, conv):
    counts = {}
    for threads in (1, 4):
        with cpu.open(conv.artifacts["executorch"], threads) as session:
            session.run(conv.feeds(1))
            counts[threads] = len(list(Path(f"/proc/{session.pid}/task").iterdir()))
    assert counts[4] == counts[1] + 3


def test_torch_copies_large_outputs_alone(tmp_path):
    """Its own threads would spin beside those that were asked for."""
    path = tmp_path / "model.pte"
    path.write_bytes(to_pte(nn.Conv2d(16, 64, 3), (torch.zeros(1, 16, 66, 66),)))
    code = f"""
import json, os
from pathlib import Path
import numpy as np
from edgedistill.targets.runtimes.executorch import load
runtime = load(Path({str(path)!r}), "fp32", 1)
before = len(os.listdir("/proc/self/task"))
runtime.run({{"input_0": np.zeros((1, 16, 66, 66), np.float32)}})
print(json.dumps([before, len(os.listdir("/proc/self/task"))]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True
    )
    before, after = json.loads(done.stdout)
    assert after == before


@pytest.mark.parametrize("label", ["int8", "int8-dynamic"])
def test_the_label_tells_the_precision(cpu, conv, label):
    labelled = dataclasses.replace(conv.artifacts["executorch"], precision=label)
    with cpu.open(labelled, threads=1) as session:
        assert session.facts().precision == label
