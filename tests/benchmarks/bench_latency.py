"""Does our protocol add anything? Our session against a bare hand loop on the same file.

    python tests/benchmarks/bench_latency.py [--seconds S] [--threads N] [--repeats K]

For every format, fp32 and int8: our worker and a hand-written loop, each in a clean process of its
own, in interleaved rounds of one run. The hand loops share no code with edgedistill: they are what
a person would write with the runtime's manual open. A ratio of 1.00 says that our figure is theirs.
`infer` binds the input once, as our worker and C++ programs do; `call` hands it over anew on each
inference, as most Python examples do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgedistill.exporters.onnx import OnnxExporter
from edgedistill.exporters.openvino import OpenVinoExporter
from edgedistill.exporters.tflite import TfliteExporter
from edgedistill.pipeline.contracts import Artifact, Signature, TensorSpec
from edgedistill.pipeline.evaluation.latency import LatencySettings, measure, ratio
from edgedistill.targets.local import LocalCpu

SHAPE = (3, 32, 32)
SIGNATURE = Signature(
    (TensorSpec("image", (None, *SHAPE), "float32", "NCHW"),),
    (TensorSpec("logits", (None, 10), "float32", "NC"),),
)
EXPORTERS = {"onnx": OnnxExporter, "openvino": OpenVinoExporter, "tflite": TfliteExporter}
MAIN_FILE = {"onnx": "model.onnx", "openvino": "model.xml", "tflite": "model.tflite"}

LOADS = {
    "onnx": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
names, feeds = [o.name for o in session.get_outputs()], {session.get_inputs()[0].name: x}
""",
    "openvino": """
import openvino
compiled = openvino.Core().compile_model(path, "CPU", {
    "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY"})
request = compiled.create_infer_request()
request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
""",
    "tflite": """
from ai_edge_litert.interpreter import Interpreter
lite = Interpreter(path, num_threads=threads)
lite.allocate_tensors()
source, result = lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"]
""",
}
CALLS = {
    ("onnx", "run"): "session.run(names, feeds)",
    ("openvino", "infer"): "request.infer()",
    ("openvino", "call"): "compiled(x)",
    ("tflite", "invoke"): "lite.set_tensor(source, x); lite.invoke(); lite.get_tensor(result)",
}
LOOP = """
import gc, sys, time
import numpy as np
path, threads, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
x = np.load(folder + "/x.npy")
{load}
for line in sys.stdin:
    times = []
    gc.disable()
    for _ in range(int(line)):
        start = time.perf_counter_ns()
        {call}
        times.append(time.perf_counter_ns() - start)
    gc.enable()
    np.save(folder + "/times.npy", times)
    print("done", flush=True)
"""


class HandLoop:
    """A bare loop in its own process, with just enough of a session to be measured."""

    def __init__(self, kind: str, call: str, path: Path, threads: int, image: np.ndarray) -> None:
        self._folder = tempfile.TemporaryDirectory()
        np.save(Path(self._folder.name, "x.npy"), image)
        code = LOOP.format(load=LOADS[kind], call=CALLS[kind, call])
        command = [sys.executable, "-c", code, str(path), str(threads), self._folder.name]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def time(self, feeds: object, repeats: int) -> np.ndarray:
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline().strip() != "done":
            raise RuntimeError(f"the hand loop ended with {self._process.wait()}")
        return np.load(Path(self._folder.name, "times.npy")) / 1e9

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._folder.cleanup()


def small_net() -> nn.Module:
    """A depthwise-separable net of about the size that ends up on a device."""

    def block(width: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]

    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    body = [layer for stride in (1, 2, 1, 1) for layer in block(32, stride)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(*stem, *body, *head).eval()


def make_files(root: Path) -> dict[tuple[str, str], Artifact]:
    """The net in every format, fp32 and int8."""
    samples = {"image": np.random.default_rng(0).standard_normal((32, *SHAPE)).astype(np.float32)}
    made = {}
    for kind, exporter in EXPORTERS.items():
        folder = root / f"{kind}-fp32"
        folder.mkdir()
        written = exporter().export(small_net(), SIGNATURE, folder)
        made[kind, "fp32"] = _artifact(kind, "fp32", folder, written)
        folder = root / f"{kind}-int8"
        folder.mkdir()
        written = exporter().convert(made[kind, "fp32"], "int8", samples, folder)
        made[kind, "int8"] = _artifact(kind, "int8", folder, written)
    return made


def _artifact(kind: str, precision: str, folder: Path, signature: Signature) -> Artifact:
    files = {path.name: "" for path in folder.iterdir()}
    return Artifact(kind, precision, folder, files, signature, "", "")


def compare(artifact: Artifact, threads: int, seconds: float) -> None:
    """Print one line per hand loop."""
    image = np.random.default_rng(1).standard_normal((1, *SHAPE)).astype(np.float32)
    path = artifact.root / MAIN_FILE[artifact.kind]
    hands = {
        call: HandLoop(kind, call, path, threads, image)
        for kind, call in CALLS
        if kind == artifact.kind
    }
    try:
        with LocalCpu().open(artifact, threads) as ours:
            sessions = {"ours": ours, **hands}
            feeds = {key: {"image": image} for key in sessions}
            results = measure(sessions, feeds, LatencySettings(seconds=seconds))
    finally:
        for hand in hands.values():
            hand.close()
    mine = results["ours"]
    for call in hands:
        theirs, p50 = results[call], ratio(mine, results[call])
        print(
            f"{artifact.kind:9} {artifact.precision:5} {call:7} {theirs.p50 * 1e6:9.1f} "
            f"{mine.p50 * 1e6:9.1f} {p50.value:7.3f} [{p50.ci95[0]:.3f}, {p50.ci95[1]:.3f}] "
            f"{mine.min / theirs.min:8.3f}  {mine.verdict}/{theirs.verdict}",
            flush=True,
        )


def main() -> None:
    """Make the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="timed per loop and file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="whole tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = make_files(Path(folder))
        print(
            "format    prec  hand     hand p50  our p50   ratio [95 % interval]   min     verdict"
        )
        for _ in range(options.repeats):
            for artifact in made.values():
                compare(artifact, options.threads, options.seconds)


if __name__ == "__main__":
    main()
