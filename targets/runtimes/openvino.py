"""OpenVINO IR on its CPU plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from ...pipeline.contracts import TensorSpec
from ...pipeline.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...pipeline.contracts import Array, Arrays

FLOATS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
INTEGERS = ("i8", "u8", "i4", "u4")
LAYERS = ("Convolution", "FullyConnected", "MatMul", "Deconvolution")


class OpenVino:
    """A compiled IR with one infer request."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port, f"input_{i}") for i, port in enumerate(compiled.inputs))
        self.outputs = tuple(_spec(port, f"output_{i}") for i, port in enumerate(compiled.outputs))
        self.device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        self.precision = _precision(compiled)
        self.version: str = ov.__version__.partition("-")[0]

    def run(self, feeds: Arrays) -> list[Array]:
        results = self._request.infer([feeds[spec.name] for spec in self.inputs])
        return [np.array(results[index]) for index in range(len(self.outputs))]

    def prepare(self, feeds: Arrays) -> Callable[[], object]:
        # Inputs are bound once, as a C++ program does; handing them over in Python on each call
        # would cost more than some models. `infer` itself copies the outputs into NumPy arrays.
        request = self._compiled.create_infer_request()
        for index, spec in enumerate(self.inputs):
            request.set_input_tensor(index, ov.Tensor(feeds[spec.name], shared_memory=True))
        call: Callable[[], object] = request.infer
        return call


def load(path: Path, precision: str, threads: int) -> OpenVino:
    """Compile an IR for low latency: one stream of `threads` threads.

    fp32 and int8 files compute their floating-point part in fp32; a fp16 file in what the runtime
    prefers, which is bf16 on a CPU that has it, and so does a file without a label (`precision` is
    empty).

    Raises:
        TargetError: the `.bin` with the weights is missing.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise TargetError(
            f"{path.name} needs its weights {weights.name} beside it; the file is missing",
            "keep the two files of an OpenVINO model together",
        )
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    }
    if precision not in ("fp16", ""):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    return OpenVino(ov.Core().compile_model(path, "CPU", settings))


def _precision(compiled: Any) -> str:
    """What the layers that carry the arithmetic execute in, read from the compiled graph."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    executed = {
        str(node.get_rt_info()["runtimePrecision"].value)
        for node in compiled.get_runtime_model().get_ops()
        if str(node.get_rt_info()["layerType"].value) in LAYERS
    }
    return "int8" if executed.intersection(INTEGERS) else FLOATS.get(hint, hint)


def _spec(port: Any, fallback: str) -> TensorSpec:
    name = port.get_any_name() if port.get_names() else fallback
    shape = tuple(
        axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()
    )
    return TensorSpec(name, shape, port.get_element_type().to_dtype().name)
