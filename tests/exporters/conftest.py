"""Small real models with sensible weights, every installed exporter, and each format's runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.pipeline.contracts import Artifact, Exporter, Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

KINDS = sorted(point.name for point in entry_points(group="edgedistill.exporters"))


class SmallCnn(nn.Module):
    """Convolution, batch norm, ReLU, depthwise, residual, dropout, linear."""

    def __init__(self, width: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.stem = _convolution(1, width)
        self.depthwise = _convolution(width, width, groups=width)
        self.pointwise = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.down = _convolution(width, 4 * width, stride=2)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4 * width, classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = torch.relu(x + self.pointwise(self.depthwise(x)))
        return self.head(self.down(x).mean((2, 3)))


def _convolution(into: int, out: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class Mlp(nn.Module):
    """Two linear layers over features; the hidden weight is used twice (tied)."""

    def __init__(self, features: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.tied = nn.Linear(features, features)
        self.head = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.tied(features))
        return self.head(torch.relu(self.tied(hidden)) + features)


class TwoInputs(nn.Module):
    """Tokens (integers) and features in, two outputs; names are in no alphabetical order."""

    def __init__(self, words: int = 16, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.mix = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, 4)

    def forward(
        self, tokens: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.mix(self.embed(tokens).mean(1) + features))
        return self.head(hidden), hidden


@dataclass(frozen=True)
class Case:
    """A trained model with its signature, inputs `(N, ...)` by name and what torch answers."""

    model: nn.Module
    signature: Signature
    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def _spec(name: str, array: np.ndarray, layout: str = "") -> TensorSpec:
    return TensorSpec(name, (None, *array.shape[1:]), array.dtype.name, layout)


def _images(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright bar in one of four quarters, in noise: learnt within a few steps."""
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 1, 16, 16, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += 1.0
    return images, labels


def _train(model: nn.Module, inputs: tuple[torch.Tensor, ...], labels: torch.Tensor) -> None:
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(30):
        returned = model(*inputs)
        logits = returned[0] if isinstance(returned, tuple) else returned
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        optimiser.step()


def _case(
    model: nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor, outputs: list[str]
) -> Case:
    _train(model, tuple(inputs.values()), labels)
    with torch.no_grad():
        returned = model.eval()(*inputs.values())
    tensors = returned if isinstance(returned, tuple) else (returned,)
    expected = {name: tensor.numpy() for name, tensor in zip(outputs, tensors, strict=True)}
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    layouts = {"image": "NCHW"}
    signature = Signature(
        tuple(_spec(name, array, layouts.get(name, "")) for name, array in feeds.items()),
        tuple(_spec(name, array) for name, array in expected.items()),
    )
    return Case(model, signature, feeds, expected)


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # such small nets only wait for each other's threads
    generator = torch.Generator().manual_seed(0)
    images, labels = _images(64, generator)
    features = torch.randn(64, 32, generator=generator)
    tokens = torch.randint(0, 16, (64, 6), generator=generator)
    many = torch.randn(64, 384, generator=generator)
    side = features[:, :4].argmax(1)
    return {
        "cnn": _case(SmallCnn(), {"image": images}, labels, ["logits"]),
        "mlp": _case(Mlp(), {"features": features}, side, ["logits"]),
        "two": _case(
            TwoInputs(), {"tokens": tokens, "features": features}, side, ["logits", "hidden"]
        ),
        "wide": _case(
            TwoInputs(width=384), {"tokens": tokens, "features": many}, side, ["logits", "hidden"]
        ),
    }


def load_exporter(kind: str) -> Exporter:
    (point,) = entry_points(group="edgedistill.exporters", name=kind)
    exporter: Exporter = point.load()()
    return exporter


@pytest.fixture(params=KINDS)
def exporter(request: pytest.FixtureRequest) -> Exporter:
    return load_exporter(request.param)


def sealed(kind: str, precision: str, folder: Path, signature: Signature) -> Artifact:
    """The artefact that a store would make of a finished folder."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return Artifact(kind, precision, folder, files, signature, "key", "digest")


Make = Callable[..., Artifact]


@pytest.fixture(scope="session")
def make(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(kind, case, precision)`: the artefact, exported or converted once per session."""
    made: dict[tuple[str, str, str], Artifact] = {}

    def artefact(kind: str, name: str, precision: str = "fp32") -> Artifact:
        key = (kind, name, precision)
        if key not in made:
            folder, case = tmp_path_factory.mktemp("-".join(key)), cases[name]
            exporter = load_exporter(kind)
            if precision == "fp32":
                signature = exporter.export(case.model, case.signature, folder)
            else:
                source = artefact(kind, name)
                signature = exporter.convert(source, precision, case.feeds, folder)  # type: ignore[arg-type]
            made[key] = sealed(kind, precision, folder, signature)
        return made[key]

    return artefact


@dataclass(frozen=True)
class Answer:
    """What a runtime says about a file: ports by name as `(shape, dtype)`, and its outputs."""

    inputs: dict[str, tuple[tuple[int | None, ...], str]]
    outputs: dict[str, tuple[tuple[int | None, ...], str]]
    results: dict[str, np.ndarray]


def _run_onnx(folder: Path, feeds: dict[str, np.ndarray]) -> Answer:
    import onnxruntime

    names = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )

    def ports(nodes: list[Any]) -> dict[str, tuple[tuple[int | None, ...], str]]:
        return {
            node.name: (
                tuple(size if isinstance(size, int) else None for size in node.shape),
                names[node.type],
            )
            for node in nodes
        }

    outputs = ports(session.get_outputs())
    results = dict(zip(outputs, session.run(list(outputs), feeds), strict=True))
    return Answer(ports(session.get_inputs()), outputs, results)


def _run_openvino(folder: Path, feeds: dict[str, np.ndarray]) -> Answer:
    import openvino

    compiled = openvino.Core().compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def ports(nodes: list[Any]) -> dict[str, tuple[tuple[int | None, ...], str]]:
        return {
            node.get_any_name(): (
                tuple(None if n.is_dynamic else n.get_length() for n in node.partial_shape),
                np.dtype(node.get_element_type().to_dtype()).name,
            )
            for node in nodes
        }

    outputs = ports(compiled.outputs)
    returned = compiled(feeds)
    results = {name: np.array(returned[name]) for name in outputs}
    return Answer(ports(compiled.inputs), outputs, results)


def _run_tflite(folder: Path, feeds: dict[str, np.ndarray]) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(folder / "model.tflite"), num_threads=1).get_signature_runner()

    def ports(details: dict[str, Any]) -> dict[str, tuple[tuple[int | None, ...], str]]:
        return {
            name: (tuple(map(int, port["shape"])), np.dtype(port["dtype"]).name)
            for name, port in details.items()
        }

    inputs, outputs = ports(runner.get_input_details()), ports(runner.get_output_details())
    step, count = next(iter(inputs.values()))[0][0], len(next(iter(feeds.values())))
    batches = [
        runner(**{name: feeds[name][i : i + step].astype(inputs[name][1]) for name in feeds})
        for i in range(0, count, step)
    ]
    results = {name: np.concatenate([batch[name] for batch in batches]) for name in outputs}
    return Answer(inputs, outputs, results)


def _run_executorch(folder: Path, feeds: dict[str, np.ndarray]) -> Answer:
    from executorch.extension.pybindings import _C

    dtypes = {4: "int64", 6: "float32"}
    program = _C._load_program(str(folder / "model.pte"))
    method = program.load_method("forward")
    about = method.method_meta()

    def ports(which: str, tell: Any) -> dict[str, tuple[tuple[int | None, ...], str]]:
        (names,) = program.load_method(f"{which}_names").call(())
        infos = [tell(place) for place in range(len(json.loads(names)))]
        found = [(tuple(info.sizes()), dtypes[info.dtype()]) for info in infos]
        return dict(zip(json.loads(names), found, strict=True))

    inputs = ports("input", about.input_tensor_meta)
    outputs = ports("output", about.output_tensor_meta)
    step, count = next(iter(inputs.values()))[0][0], len(next(iter(feeds.values())))
    batches = [
        method.call([torch.from_numpy(feeds[name][i : i + step]) for name in inputs])
        for i in range(0, count, step)
    ]
    columns = zip(*batches, strict=True)
    results = {name: np.concatenate(rows) for name, rows in zip(outputs, columns, strict=True)}
    return Answer(inputs, outputs, results)


@pytest.fixture(scope="session")
def run() -> Callable[[Artifact, dict[str, np.ndarray]], Answer]:
    """Runs an artefact in its own runtime, in this process."""
    runtimes = {
        "onnx": _run_onnx,
        "openvino": _run_openvino,
        "tflite": _run_tflite,
        "executorch": _run_executorch,
    }
    return lambda artefact, feeds: runtimes[artefact.kind](artefact.root, feeds)
