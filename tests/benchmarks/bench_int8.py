"""Our int8 against what the libraries' own defaults give on the same student, side by side.

    python tests/benchmarks/bench_int8.py [--models dscnn,resnet8] [--seconds S]

Each model is trained for two epochs on mnist5k. For every format the fp32 file is ours; int8 is by
our first recipe, and by the library as its documentation calls it: onnxruntime's `quantize_static`,
`nncf.quantize`, ai-edge-quantizer's static recipe with its own calibration (with float inputs and
outputs, as all others have). Accuracy is on the test digits; latencies are medians of one thread,
the files of a format timed in interleaved rounds, over that of its fp32 file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipeline/threads.py does, before torch

import torch
from torch import nn

from edgedistill.exporters._quiet import quiet
from edgedistill.pipeline import plugins
from edgedistill.pipeline.contracts import Artifact, Signature, TensorSpec
from edgedistill.pipeline.data.load import load_data
from edgedistill.pipeline.evaluation.latency import LatencySettings, measure, ratio
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.stages.export import drafted

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

SHAPE, CLASSES, CALIBRATION = (1, 28, 28), 10, 256
WIDTHS = {"dscnn": 24, "resnet8": 16, "mobilenetv2": 8}
SIGNATURE = Signature(
    (TensorSpec("input", (None, *SHAPE), "float32", "NCHW"),),
    (TensorSpec("logits", (None, CLASSES), "float32"),),
)


def trained(name: str, images: torch.Tensor, targets: torch.Tensor) -> nn.Module:
    """A model after two epochs."""
    torch.manual_seed(0)
    spec = {"model": name, "options": {"width": WIDTHS[name]}}
    model = build_model(spec, CLASSES, {"input": SHAPE}, Path())
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(2):
        for index in torch.randperm(len(targets)).split(64):
            loss = nn.functional.cross_entropy(model(images[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def onnx_default(source: Path, out: Path, feeds: list[dict[str, Any]]) -> None:
    """`quantize_static` with nothing but a reader."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    quantize_static(str(source / "model.onnx"), str(out / "model.onnx"), Reader())


def openvino_default(source: Path, out: Path, feeds: list[dict[str, Any]]) -> None:
    """`nncf.quantize` with nothing but a dataset."""
    import nncf
    import openvino

    model = openvino.Core().read_model(source / "model.xml")
    openvino.save_model(nncf.quantize(model, nncf.Dataset(feeds)), out / "model.xml")


DEFAULTS: dict[str, Callable[[Path, Path, list[dict[str, Any]]], None]] = {
    "onnx": onnx_default,
    "openvino": openvino_default,
}  # that of tflite is our recipe `moving-average`


def files_of(
    kind: str, model: nn.Module, samples: dict[str, np.ndarray], folder: Path
) -> dict[str, Artifact]:
    """The fp32 file, our int8, and the library's."""
    exporter = plugins.exporter(kind)
    for name in ("fp32", "ours", "default"):
        (folder / name).mkdir(parents=True)
    plain = drafted(
        kind, "fp32", folder / "fp32", exporter.export(model, SIGNATURE, folder / "fp32")
    )
    ours = exporter.convert(plain, "int8", samples, folder / "ours")
    feeds = [{"input": samples["input"][i : i + 1]} for i in range(CALIBRATION)]
    with quiet():
        if kind in DEFAULTS:
            DEFAULTS[kind](folder / "fp32", folder / "default", feeds)
        else:
            exporter.convert(plain, "int8", samples, folder / "default", "moving-average")
    return {
        "fp32": plain,
        "int8, ours": drafted(kind, "int8", folder / "ours", ours),
        "int8, the library's defaults": drafted(kind, "int8", folder / "default", ours),
    }


def show(name: str, files: dict[str, Artifact], test: Any, seconds: float) -> None:
    """Accuracy, size and latency of each file of one format."""
    target = plugins.target("cpu")
    images, targets = test
    with ExitStack() as stack:
        sessions = {k: stack.enter_context(target.open(a, threads=1)) for k, a in files.items()}
        logits = {k: next(iter(s.run({"input": images}).values())) for k, s in sessions.items()}
        one = {key: {"input": images[:1]} for key in sessions}
        timed = measure(sessions, one, LatencySettings(seconds=seconds, warmup_seconds=seconds))
    for key, artifact in files.items():
        right = float((logits[key].argmax(1) == targets).mean())
        same = float((logits[key].argmax(1) == logits["fp32"].argmax(1)).mean())
        over = ratio(timed[key], timed["fp32"])
        low, high = over.ci95
        print(
            f"| {name} | {key} | {100 * right:.1f} | {100 * same:.1f} | "
            f"{artifact.size_bytes / 1e3:.1f} | {over.value:.2f} ({low:.2f} to {high:.2f}) |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(WIDTHS))
    parser.add_argument("--seconds", type=float, default=1.0, help="timed, per file")
    options = parser.parse_args()
    data = load_data({"source": "mnist5k"}, Path())
    apply = data.preprocessing.apply
    images = torch.from_numpy(apply(data.train.inputs)["input"])
    samples = {"input": apply(data.validation.inputs)["input"][:CALIBRATION]}
    test = apply(data.test.inputs)["input"], data.test.targets
    print("| model, format | file | accuracy % | agrees % | kB | latency / fp32 (95 %) |")
    print("|---|---|---|---|---|---|")
    for name in options.models.split(","):
        model = trained(name, images, torch.from_numpy(data.train.targets).long())
        for kind in ("onnx", "openvino", "tflite"):
            with tempfile.TemporaryDirectory() as folder:
                files = files_of(kind, model, samples, Path(folder))
                show(f"{name}, {kind}", files, test, options.seconds)


if __name__ == "__main__":
    main()
