"""Real model files for the targets: two small nets in four formats, made once a session."""

from __future__ import annotations

import hashlib
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.pipeline.contracts import Artifact, Signature, TensorSpec
from edgedistill.targets.local import LocalCpu

KINDS = ("onnx", "openvino", "tflite", "executorch")
MAIN_FILE = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "tflite": "model.tflite",
    "executorch": "model.pte",
}


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(32, 4)

    def forward(self, image):
        return self.head(self.layers(image))


class TwoInputs(nn.Module):
    """A float and an int64 input, two outputs of different shapes."""

    def __init__(self):
        super().__init__()
        self.table, self.dense = nn.Embedding(10, 6), nn.Linear(5, 6)

    def forward(self, values, tokens):
        mixed = self.dense(values) * self.table(tokens).mean(dim=1)
        return mixed, mixed.sum(dim=1, keepdim=True)


CONV = Signature((TensorSpec("image", (None, 1, 8, 8), "float32", "NCHW"),),
                 (TensorSpec("logits", (None, 4), "float32", "NC"),))  # fmt: skip
TWO = Signature(
    (TensorSpec("values", (None, 5), "float32"), TensorSpec("tokens", (None, 3), "int64")),
    (TensorSpec("mixed", (None, 6), "float32"), TensorSpec("total", (None, 1), "float32")),
)


@dataclass(frozen=True)
class Net:
    module: nn.Module
    signature: Signature
    artifacts: dict[str, Artifact]

    def feeds(self, samples, seed=0):
        """Random inputs of `samples` rows."""
        rng = np.random.default_rng(seed)
        return {
            spec.name: (
                rng.integers(0, 10, (samples, *spec.shape[1:])).astype(spec.dtype)
                if spec.dtype == "int64"
                else rng.standard_normal((samples, *spec.shape[1:])).astype(spec.dtype)
            )
            for spec in self.signature.inputs
        }

    def expected(self, feeds):
        """What torch answers."""
        with torch.no_grad():
            out = self.module(*[torch.from_numpy(feeds[s.name]) for s in self.signature.inputs])
        out = out if isinstance(out, tuple) else (out,)
        names = [spec.name for spec in self.signature.outputs]
        return {name: value.numpy() for name, value in zip(names, out, strict=True)}


def artifact(kind, folder, precision="fp32", signature=None):
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return Artifact(kind, precision, folder, files, signature, "key", "digest")


def write(kind, module, signature, examples, folder):
    folder.mkdir(parents=True)
    path = folder / MAIN_FILE[kind]
    names = [spec.name for spec in signature.inputs]
    results = [spec.name for spec in signature.outputs]
    if kind == "onnx":
        torch.onnx.export(
            module, examples, path, dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=tuple({0: "batch"} for _ in examples),
            input_names=names, output_names=results,
        )  # fmt: skip
    elif kind == "openvino":
        import openvino as ov

        shapes = [[-1, *example.shape[1:]] for example in examples]
        model = ov.convert_model(module, example_input=examples, input=shapes)
        for ports, wanted in ((model.inputs, names), (model.outputs, results)):
            for port, name in zip(ports, wanted, strict=True):
                port.get_tensor().set_names({name})
        ov.save_model(model, path, compress_to_fp16=False)
    elif kind == "executorch":
        path.write_bytes(to_pte(module, tuple(example[:1] for example in examples)))
    else:
        import litert_torch

        with redirect_stdout(StringIO()):
            litert_torch.convert(module, tuple(e[:1] for e in examples)).export(str(path))
    return artifact(kind, folder, signature=signature)


def to_pte(module, examples):
    """An ExecuTorch program for XNNPACK, in the shapes of the examples; it keeps no names."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module.eval(), examples, strict=False)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return edge.to_executorch().buffer


def make(root, module, signature, examples):
    module = module.eval()
    return Net(module, signature, {
        kind: write(kind, module, signature, examples, root / kind) for kind in KINDS
    })  # fmt: skip


@pytest.fixture(scope="session")
def conv(tmp_path_factory) -> Net:
    torch.manual_seed(0)
    return make(tmp_path_factory.mktemp("conv"), Conv(), CONV, (torch.randn(2, 1, 8, 8),))


@pytest.fixture(scope="session")
def two(tmp_path_factory) -> Net:
    torch.manual_seed(1)
    examples = (torch.randn(2, 5), torch.randint(0, 10, (2, 3)))
    return make(tmp_path_factory.mktemp("two"), TwoInputs(), TWO, examples)


@pytest.fixture
def cpu() -> LocalCpu:
    return LocalCpu(timeout=60)


@pytest.fixture
def alive():
    """Whether a process exists and is not a zombie."""

    def check(pid):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"

    return check
