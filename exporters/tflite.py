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
        from ._capture import capture, example_inputs, inference

        with quiet(), inference(model):
            program = capture(self.kind, model, signature, batch=1, free=False)
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
        "The full message of the converter is in the log (-v); 'tflite' can be taken out of "
        "export.formats to go on with the other formats.",
    )


def _quantize(file: Path, precision: Precision, samples: Arrays, signature: Signature) -> bytes:
    from ai_edge_quantizer import quantizer

    content = file.read_bytes()
    recipe = _recipe(precision)
    work = quantizer.Quantizer(content, recipe.get_quantization_recipe())
    ranges = _calibrate(content, recipe, samples, signature) if precision == "int8" else None
    return bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)


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


def _weights(content: bytes) -> Counter[str]:
    """Number of constant elements by NumPy type name."""
    import math

    from ai_edge_litert import schema_py_generated as schema

    codes = {code: name.lower() for name, code in vars(schema.TensorType).items()}
    model = schema.ModelT.InitFromPackedBuf(content)
    count: Counter[str] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if model.buffers[tensor.buffer].data is not None:
                shape = () if tensor.shape is None else tensor.shape
                count[codes[tensor.type]] += math.prod(int(size) for size in shape)
    return count


def _save(content: bytes, signature: Signature, folder: Path) -> Signature:
    """Write the file; it must load, and it must have the names that were asked for."""
    file = folder / FILE
    file.write_bytes(content)
    with explained("tflite", "load the file that was written"):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(file))
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        return Signature(
            _read(signature.inputs, runner.get_input_details()),
            _read(signature.outputs, runner.get_output_details()),
        )


def _read(specs: tuple[TensorSpec, ...], details: dict[str, Any]) -> tuple[TensorSpec, ...]:
    import numpy as np

    found = {
        name: (tuple(int(size) for size in port["shape"]), np.dtype(port["dtype"]).name)
        for name, port in details.items()
    }
    return described(specs, found)
