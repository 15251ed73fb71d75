"""TFLite: converted by litert-torch, quantized by ai-edge-quantizer. TensorFlow is not needed."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.contracts import Artifact, Missing, Precision, Signature, TensorSpec
from ..pipeline.errors import ExportError
from ._errors import essence, explained, unsupported
from ._files import calibration_feeds, check_weights, described, fp32_source, missing_libraries
from ._quiet import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from ..pipeline.contracts import Arrays

FILE = "model.tflite"


class TfliteExporter:
    """Writes `model.tflite`: batch 1 unless the signature fixes another, NCHW as the model has it.

    The signature runner of the file has the names of the signature, in any order. 64-bit
    integers become 32-bit. The batch is fixed: resizing works for plain convolutional nets and
    fails where the converter wrote a reshape to a constant size, so run one sample at a time.

    int8 is static, per channel, with ranges from the extremes of the samples, between float32
    inputs and outputs. fp16 and int8-dynamic change the weights; sums stay in float.
    """

    kind: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8-dynamic")
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = (
        "torch",
        "litert-torch",
        "litert-converter",
        "ai-edge-litert",
        "ai-edge-quantizer",
    )

    def missing(self) -> Missing | None:
        return missing_libraries(("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "tflite")

    def export(self, model: nn.Module, signature: Signature, folder: Path) -> Signature:
        from ._capture import capture, example_inputs, inference, refuse_values_read

        _check_names(signature)
        with quiet(), inference(model):
            program = capture(self.kind, model, signature, batch=1, free=False)
            refuse_values_read(self.kind, program)
            content = _to_tflite(model, signature, example_inputs(signature, batch=1), program)
            return _save(content, signature, folder)

    def convert(
        self, source: Artifact, precision: Precision, samples: Arrays, folder: Path
    ) -> Signature:
        file, signature = fp32_source(self.kind, source, precision, self.precisions, FILE)
        with quiet(), explained(self.kind, f"convert to {precision}"):
            content = _quantize(file, precision, samples, signature)
            check_weights(self.kind, precision, _weights(content))
            return _save(content, signature, folder)


def _check_names(signature: Signature) -> None:
    """litert-torch writes code with these names in it."""
    for spec in (*signature.inputs, *signature.outputs):
        if not spec.name.isidentifier():
            raise ExportError(
                f"tflite: {spec.name!r} cannot name an input or output; expected letters, digits "
                "and underscores, with no digit first",
                "Rename it in the model's signature.",
            )


def _to_tflite(
    model: nn.Module,
    signature: Signature,
    examples: tuple[Tensor, ...],
    program: ExportedProgram,
) -> bytes:
    import litert_torch

    names = [spec.name for spec in signature.inputs]
    named = _with_names(model, names, [spec.name for spec in signature.outputs])
    try:
        converted = litert_torch.convert(
            named, sample_kwargs=dict(zip(names, examples, strict=True))
        )
        return bytes(converted.model_content())
    except Exception as error:
        raise _conversion_error(program, error) from error


def _with_names(model: nn.Module, inputs: list[str], outputs: list[str]) -> nn.Module:
    """The model with keyword inputs and a dict of outputs: litert-torch keeps those names."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **feeds: Tensor) -> dict[str, Tensor]:
            returned = self.model(*(feeds[name] for name in inputs))
            tensors = returned if isinstance(returned, list | tuple) else (returned,)
            return dict(zip(outputs, tensors, strict=True))

    return Named().eval()


def _conversion_error(program: ExportedProgram, error: Exception) -> ExportError:
    from ._capture import place_in, place_of

    operators = re.findall(r"Lowering not found: ([\w.:]+)", str(error))
    if operators:
        place = place_in(str(error)) or place_of(program, operators[0])
        return unsupported("tflite", operators, place)
    return ExportError(
        f"tflite: the model cannot be converted: {essence(error)}",
        "The full message of the converter is in the log; 'tflite' can be taken out of "
        "export.formats to go on with the other formats.",
    )


def _quantize(file: Path, precision: Precision, samples: Arrays, signature: Signature) -> bytes:
    from ai_edge_quantizer import quantizer

    content = file.read_bytes()
    recipe = _recipe(precision)
    work = quantizer.Quantizer(content, recipe.get_quantization_recipe())
    if precision != "int8":
        return bytes(work.quantize(enable_progress_report=False).quantized_model)
    ranges = _calibrate(content, recipe, samples, signature)
    if not ranges:
        return content  # no operator has an int8 form; the census of weights will say so
    made = work.quantize(ranges, enable_progress_report=False).quantized_model
    return _reconnect(bytes(made))


def _recipe(precision: Precision) -> Any:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe, every = RecipeManager(), TFLOperationName.ALL_SUPPORTED
    if precision == "fp16":
        recipe.add_weight_only_config(".*", every, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif precision == "int8-dynamic":
        recipe.add_dynamic_config(".*", every, 8)
    else:
        recipe.add_static_config(".*", every, 8, 8)
        for port in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            recipe.add_quantization_config(".*", port, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return recipe


def _calibrate(content: bytes, recipe: Any, samples: Arrays, signature: Signature) -> Any:
    """Ranges of every tensor: true extremes, for the default is a moving average that clips."""
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    calibrator = Calibrator(content, num_threads=1, qsv_update_func=min_max_update)
    (name,) = calibrator.get_signature_list()
    feeds = list(calibration_feeds("tflite", samples, signature, batch=1))
    calibrator.calibrate({name: feeds}, recipe)
    return calibrator.get_model_qsvs()


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


def _weights(content: bytes) -> Counter[str]:
    """Number of constant elements by NumPy type name."""
    import math

    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

    codes = {code: name.lower() for name, code in vars(schema.TensorType).items()}
    model = read_model_from_bytearray(content)
    count: Counter[str] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if model.buffers[tensor.buffer].data is not None:
                count[codes[tensor.type]] += math.prod(tensor.shape or ())
    return count


def _save(content: bytes, signature: Signature, folder: Path) -> Signature:
    """Write the file; it must load, and it must have the names that were asked for."""
    file = folder / FILE
    file.write_bytes(content)
    with explained("tflite", "load the file that was written"):
        runner = _load(file).get_signature_runner()
        return Signature(
            _read(signature.inputs, runner.get_input_details()),
            _read(signature.outputs, runner.get_output_details()),
        )


def _load(file: Path) -> Any:
    """An interpreter that is ready; raises ExportError for operators the runtime lacks."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(file))
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        operators = re.findall(r"find op for builtin opcode '(\w+)'", str(error))
        if not operators:
            raise
        raise unsupported("tflite", operators) from error
    return interpreter


def _read(specs: tuple[TensorSpec, ...], details: dict[str, Any]) -> tuple[TensorSpec, ...]:
    import numpy as np

    found = {
        name: (tuple(int(size) for size in port["shape"]), np.dtype(port["dtype"]).name)
        for name, port in details.items()
    }
    return described(specs, found)
