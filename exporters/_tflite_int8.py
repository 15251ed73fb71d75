"""Other precisions for TFLite by ai-edge-quantizer; static int8 in several recipes.

minmax           ranges of activations from the extremes of the samples
moving-average   the quantizer's own: a moving average of the extremes, which clips
mixed            minmax, with the layers in float that cost the output most
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ._files import calibration_feeds
from ._mixed import greedy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..pipeline.contracts import Array, Arrays, Precision, Signature

_QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
RECIPES = ("minmax", "moving-average", "mixed")


def quantize(
    file: Path, precision: Precision, samples: Arrays, signature: Signature, recipe: str
) -> bytes:
    """The content of a file in another precision.

    Args:
        file: in fp32.
        precision: not fp32.
        samples: that calibrate static int8.
        signature: of the file.
        recipe: of static int8, one of `RECIPES`.
    """
    from ai_edge_quantizer import quantizer

    content = file.read_bytes()
    if precision != "int8":
        work = quantizer.Quantizer(content, _config(precision).get_quantization_recipe())
        return bytes(work.quantize(enable_progress_report=False).quantized_model)
    feeds = list(calibration_feeds("tflite", samples, signature, batch=1))
    clipped = recipe == "moving-average"
    if recipe != "mixed":
        return _static(content, feeds, (), clipped)
    kept = greedy(
        _layers(content),
        lambda kept: _static(content, feeds, kept, clipped),
        lambda made: _answers(made, feeds),
        content,
    )
    return _static(content, feeds, kept, clipped)


def _config(precision: Precision, kept: Sequence[str] = ()) -> Any:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    config, every = RecipeManager(), TFLOperationName.ALL_SUPPORTED
    if precision == "fp16":
        config.add_weight_only_config(".*", every, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif precision == "int8-dynamic":
        config.add_dynamic_config(".*", every, 8)
    else:
        config.add_static_config(".*", every, 8, 8)
        for port in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            config.add_quantization_config(".*", port, algorithm_key=AlgorithmName.NO_QUANTIZE)
    for scope in kept:
        config.add_quantization_config(
            f"^{re.escape(scope)}$", every, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    return config


def _static(
    content: bytes, feeds: Sequence[dict[str, Array]], kept: Sequence[str], clipped: bool
) -> bytes:
    from ai_edge_quantizer import quantizer

    config = _config("int8", kept)
    work = quantizer.Quantizer(content, config.get_quantization_recipe())
    ranges = _ranges(content, config, feeds, clipped)
    if not ranges:
        return content  # no operator has an int8 form; the census of weights will say so
    made = work.quantize(ranges, enable_progress_report=False).quantized_model
    return _reconnect(bytes(made))


def _ranges(content: bytes, config: Any, feeds: Sequence[dict[str, Array]], clipped: bool) -> Any:
    """Ranges of every tensor: the extremes, or the quantizer's moving average, which clips."""
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils import qsv_utils

    update = qsv_utils.moving_average_update if clipped else qsv_utils.min_max_update
    calibrator = Calibrator(content, num_threads=1, qsv_update_func=update)
    (name,) = calibrator.get_signature_list()
    calibrator.calibrate({name: list(feeds)}, config)
    return calibrator.get_model_qsvs()


def _layers(content: bytes) -> list[str]:
    """Layers with weights, each by the name that the quantizer matches: that of its output."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

    model = read_model_from_bytearray(content)
    wanted = {getattr(schema.BuiltinOperator, name) for name in _QUANTIZED}
    codes = [code.builtinCode for code in model.operatorCodes]
    (graph,) = model.subgraphs
    return [
        "".join(f"{graph.tensors[index].name.decode()};" for index in operator.outputs)
        for operator in graph.operators
        if codes[operator.opcodeIndex] in wanted
    ]


def _answers(content: bytes, feeds: Sequence[dict[str, Array]]) -> list[Array]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    runner = interpreter.get_signature_runner()
    return [next(iter(runner(**feed).values())) for feed in feeds]


def _reconnect(content: bytes) -> bytes:
    """Let int8 operators read the int8 tensor where the quantizer gave them a float output.

    ai-edge-quantizer puts a DEQUANTIZE before an output of the graph and hands its float result
    to every other reader of that tensor too; an int8 operator among them then refuses to load.
    """
    import numpy as np
    from ai_edge_litert.tools.flatbuffer_utils import (
        convert_object_to_bytearray,
        read_model_from_bytearray,
    )

    model = read_model_from_bytearray(content)
    if not sum(_reconnect_graph(model, graph) for graph in model.subgraphs):
        return content
    for buffer in model.buffers:
        if isinstance(buffer.data, bytes):  # packing bytes takes a Python call each
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return bytes(convert_object_to_bytearray(model))


def _reconnect_graph(model: Any, graph: Any) -> int:
    """How many inputs of operators were led back to the tensor before a DEQUANTIZE."""
    from ai_edge_litert import schema_py_generated as schema

    codes = [code.builtinCode for code in model.operatorCodes]
    before = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.operators
        if codes[operator.opcodeIndex] == schema.BuiltinOperator.DEQUANTIZE
        and operator.outputs[0] in graph.outputs
    }
    changed = 0
    for operator in graph.operators:
        kinds = {graph.tensors[index].type for index in operator.outputs}
        if schema.TensorType.INT8 in kinds:
            inputs = [before.get(index, index) for index in operator.inputs]
            changed += sum(old != new for old, new in zip(operator.inputs, inputs, strict=True))
            operator.inputs = inputs
    return changed
