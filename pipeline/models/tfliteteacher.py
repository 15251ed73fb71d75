"""A TFLite file as a teacher; it has no layers to tap.

It is taken over as it is, but for images: one that takes NHWC gets an operator in front that turns
the data's NCHW, so that whatever runs the teacher later feeds it like every other model.
"""

from __future__ import annotations

import math
import shutil
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..contracts import TensorSpec
from ..errors import ModelError
from .foreignteacher import TO_NCHW, TO_NHWC, ForeignTeacher, Kept

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from ..contracts import Array

_WEIGHTS = ("FLOAT32", "FLOAT16", "INT8", "UINT8", "INT4")


class TfliteTeacher(ForeignTeacher):
    """Runs a TFLite file on the CPU by LiteRT."""

    key: ClassVar[str] = "tflite"

    def keep(self, target: Path) -> Kept:
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(self.path))
        turned = {self.engine.index(feed.name) for feed in self.feeds if feed.to_nhwc}
        if turned:
            _take_nchw(model, turned)
            flatbuffer_utils.write_model(model, str(target))
        else:
            shutil.copyfile(self.path, target)
        return Kept(_count_weights(model), self.layout and "nchw")

    def _load(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(
                model_path=str(self.path), num_threads=torch.get_num_threads()
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            line = next(iter(str(error).splitlines()), "")
            raise ModelError(
                f"LiteRT cannot open {self.path}: {line}",
                "see that it is a .tflite file of LiteRT's own operators",
            ) from error
        engine = _Engine(interpreter)
        engine.check(self.path.name)
        return engine

    def _inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self.engine.spec(detail) for detail in self.engine.inputs)

    def _outputs(self) -> tuple[str, ...]:
        return tuple(self.engine.name(detail) for detail in self.engine.outputs)

    def _run(self, feeds: dict[str, Array], layers: Sequence[str]) -> list[Array]:
        outputs: list[Array] = self.engine.run(feeds)
        return outputs


class _Engine:
    """An interpreter, its inputs and outputs in the order of the graph."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self.inputs: list[dict[str, Any]] = interpreter.get_input_details()
        self.outputs: list[dict[str, Any]] = interpreter.get_output_details()
        self._names: dict[int, str] = {}
        if len(interpreter.get_signature_list()) == 1:
            runner = interpreter.get_signature_runner()
            ports = {**runner.get_input_details(), **runner.get_output_details()}
            self._names = {detail["index"]: name for name, detail in ports.items()}
            self._shapes = {self.name(d): tuple(d["shape"]) for d in self.inputs}

    def check(self, file: str) -> None:
        """See that nothing is quantized at the ends.

        Raises:
            ModelError: an input or output is.
        """
        for detail in (*self.inputs, *self.outputs):
            scale, _ = detail["quantization"]
            if scale:
                kind = np.dtype(detail["dtype"]).name
                raise ModelError(
                    f"{file}: {self.name(detail)!r} is quantized {kind} (scale {scale:g}); expected"
                    " plain inputs and outputs",
                    "quantize it with float32 inputs and outputs",
                )

    def name(self, detail: Mapping[str, Any]) -> str:
        """In the signature where the file has one, else of the tensor."""
        return str(self._names.get(detail["index"], detail["name"]))

    def index(self, name: str) -> int:
        """Tensor of an input."""
        return next(int(d["index"]) for d in self.inputs if self.name(d) == name)

    def spec(self, detail: Mapping[str, Any]) -> TensorSpec:
        shape = tuple(None if size < 0 else int(size) for size in detail["shape_signature"])
        return TensorSpec(self.name(detail), shape, np.dtype(detail["dtype"]).name)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        shapes = {name: value.shape for name, value in feeds.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self._interpreter.resize_tensor_input(self.index(name), shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, value in feeds.items():
            self._interpreter.set_tensor(self.index(name), value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self.outputs]


def _take_nchw(model: Any, turned: Collection[int]) -> None:
    """Put a TRANSPOSE before the inputs of the main graph that take NHWC."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE
    code.version = 1
    model.operatorCodes.append(code)
    order = schema.BufferT()
    order.data = np.frombuffer(np.array(TO_NHWC, np.int32).tobytes(), np.uint8)
    model.buffers.append(order)
    axes = _added(graph, _tensor(b"to_nhwc", [4], schema.TensorType.INT32, len(model.buffers) - 1))
    for inside in turned:
        outside = _added(graph, _as_nchw(graph.tensors[inside]))
        turn = schema.OperatorT()
        turn.opcodeIndex = len(model.operatorCodes) - 1
        turn.inputs, turn.outputs = [outside, axes], [inside]
        turn.builtinOptionsType = schema.BuiltinOptions.TransposeOptions
        turn.builtinOptions = schema.TransposeOptionsT()
        graph.operators.insert(0, turn)
        graph.inputs = [outside if index == inside else index for index in graph.inputs]
        for signature in model.signatureDefs or []:
            for port in signature.inputs:
                port.tensorIndex = outside if port.tensorIndex == inside else port.tensorIndex


def _added(graph: Any, tensor: Any) -> int:
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _tensor(name: bytes, shape: list[int], kind: int, buffer: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    return tensor


def _as_nchw(tensor: Any) -> Any:
    """An input of the same kind whose axes are in the data's order."""
    turned = copy(tensor)
    turned.name = tensor.name + b".nchw"
    turned.shape = [int(tensor.shape[axis]) for axis in TO_NCHW]
    if tensor.shapeSignature is not None:
        turned.shapeSignature = [int(tensor.shapeSignature[axis]) for axis in TO_NCHW]
    return turned


def _count_weights(model: Any) -> int:
    from ai_edge_litert import schema_py_generated as schema

    kinds = {getattr(schema.TensorType, name) for name in _WEIGHTS}
    tensors = (tensor for graph in model.subgraphs for tensor in graph.tensors)
    return sum(
        math.prod(tensor.shape)
        for tensor in tensors
        if tensor.type in kinds and model.buffers[tensor.buffer].data is not None
    )
