"""ONNX files on onnxruntime's CPU provider."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from ...pipeline.contracts import TensorSpec
from ...pipeline.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...pipeline.contracts import Array, Arrays

PROVIDER = "CPUExecutionProvider"
ARITHMETIC = {"fp16": "fp32", "": "as in the file"}
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


class OnnxRuntime:
    """A loaded ONNX file.

    onnxruntime does not tell in which precision it computes. Our fp16 files keep halves as weights
    and cast them back, so they compute in fp32; the other labels say the arithmetic. Of a file
    without a label nothing is known but that it computes as its operators say.
    """

    def __init__(self, session: Any, precision: str) -> None:
        self._session = session
        self.inputs = tuple(map(_spec, session.get_inputs()))
        self.outputs = tuple(map(_spec, session.get_outputs()))
        self._names = [spec.name for spec in self.outputs]
        self.device: str = session.get_providers()[0]
        self.precision = ARITHMETIC.get(precision, precision)
        self.version: str = ort.__version__

    def run(self, feeds: Arrays) -> list[Array]:
        outputs: list[Array] = self._session.run(self._names, dict(feeds))
        return outputs

    def prepare(self, feeds: Arrays) -> Callable[[], object]:
        return partial(self._session.run, self._names, dict(feeds))


def load(path: Path, precision: str, threads: int) -> OnnxRuntime:
    """Load an ONNX file with `threads` threads inside an operator and one between operators."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    runtime = OnnxRuntime(ort.InferenceSession(path, options, providers=[PROVIDER]), precision)
    if runtime.device != PROVIDER:
        raise TargetError(
            f"onnxruntime runs {path.name} on {runtime.device}, expected {PROVIDER}",
            "install the CPU build: pip install onnxruntime",
        )
    return runtime


def _spec(node: Any) -> TensorSpec:
    if node.type not in DTYPES:
        raise TargetError(
            f"{node.name!r} has the type {node.type}; expected one of {', '.join(DTYPES)}",
            "export the model with plain tensors as inputs and outputs",
        )
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, shape, DTYPES[node.type])
