"""TFLite files on LiteRT's interpreter, with XNNPACK as it comes."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from ...pipeline.contracts import TensorSpec
from ...pipeline.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ...pipeline.contracts import Array, Arrays


class LiteRt:
    """An interpreter with its tensors allocated.

    Names come from the file's signature where it has exactly one, else from its tensors; the order
    is that of the graph, which is the order of the call that was exported.
    """

    def __init__(self, interpreter: Any, precision: str) -> None:
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        named = _signature_names(interpreter)
        self.inputs = tuple(_spec(detail, named) for detail in inputs)
        self.outputs = tuple(_spec(detail, named) for detail in outputs)
        self._inputs: list[int] = [detail["index"] for detail in inputs]
        self._outputs: list[int] = [detail["index"] for detail in outputs]
        self._shapes = [tuple(detail["shape"]) for detail in inputs]
        self.device = "CPU"
        self.precision = _precision(interpreter, precision)
        self.version = metadata.version("ai-edge-litert")

    def run(self, feeds: Arrays) -> list[Array]:
        self._resize(feeds)
        for index, spec in zip(self._inputs, self.inputs, strict=True):
            self._interpreter.set_tensor(index, feeds[spec.name])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def prepare(self, feeds: Arrays) -> Callable[[], object]:
        self._resize(feeds)
        pairs = [(i, feeds[spec.name]) for i, spec in zip(self._inputs, self.inputs, strict=True)]
        outputs, lite = self._outputs, self._interpreter
        set_tensor, invoke, get_tensor = lite.set_tensor, lite.invoke, lite.get_tensor
        if len(pairs) == len(outputs) == 1:  # no loops: they show beside a net of microseconds
            return _single(set_tensor, invoke, get_tensor, *pairs[0], outputs[0])

        def call() -> object:
            for index, value in pairs:
                set_tensor(index, value)
            invoke()
            return [get_tensor(index) for index in outputs]

        return call

    def _resize(self, feeds: Arrays) -> None:
        shapes = [feeds[spec.name].shape for spec in self.inputs]
        if shapes == self._shapes:
            return
        for index, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _single(
    set_tensor: Callable[[int, Array], None],
    invoke: Callable[[], None],
    get_tensor: Callable[[int], Array],
    source: int,
    value: Array,
    result: int,
) -> Callable[[], object]:
    def call() -> object:
        set_tensor(source, value)
        invoke()
        return get_tensor(result)

    return call


def load(path: Path, precision: str, threads: int) -> LiteRt:
    """Load a TFLite file with `threads` threads.

    Raises:
        TargetError: an input or output is quantized.
    """
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return LiteRt(interpreter, precision)


def _signature_names(interpreter: Any) -> Mapping[int, str]:
    """Tensor index -> name in the signature; empty unless there is exactly one signature."""
    if len(interpreter.get_signature_list()) != 1:
        return {}
    runner = interpreter.get_signature_runner()
    details = {**runner.get_input_details(), **runner.get_output_details()}
    return {detail["index"]: name for name, detail in details.items()}


def _precision(interpreter: Any, precision: str) -> str:
    """The arithmetic, told by the tensors: fp16 files keep fp16 weights and compute in fp32.

    A file without a label (`precision` is empty) is int8 if it has quantized tensors; whether its
    ranges are static or dynamic is not told apart.
    """
    if precision == "fp16":
        return "fp32"
    if precision == "" or precision.startswith("int8"):
        dtypes = {
            np.dtype(detail["dtype"]).name
            for detail in interpreter.get_tensor_details()
            if detail["quantization_parameters"]["scales"].size  # no bytes that are mere data
        }
        return (precision or "int8") if dtypes & {"int8", "uint8", "int4"} else "fp32"
    return precision


def _spec(detail: Mapping[str, Any], named: Mapping[int, str]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"]).name
    name = named.get(detail["index"], detail["name"])
    if scale:
        raise TargetError(
            f"{name!r} is quantized {dtype} (scale {scale:g}, zero point {zero_point}); "
            "expected plain inputs and outputs",
            "quantize the model with float32 inputs and outputs",
        )
    shape = tuple(None if size < 0 else int(size) for size in detail["shape_signature"])
    return TensorSpec(name, shape, dtype)
