"""TFLite: converted by litert-torch, quantized by ai-edge-quantizer. TensorFlow is not needed."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.contracts import Artifact, Missing, Precision, Signature, TensorSpec
from ..pipeline.errors import ExportError
from ._errors import essence, explained, unsupported
from ._files import check_weights, described, fp32_source, missing_libraries
from ._quiet import quiet
from ._tflite_int8 import RECIPES, quantize

if TYPE_CHECKING:
    from collections.abc import Mapping
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

    int8 is static, per channel, between float32 inputs and outputs; its recipes are those of
    `_tflite_int8`. fp16 and int8-dynamic change the weights; sums stay in float.
    """

    kind: ClassVar[str] = "tflite"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8-dynamic")
    recipes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": RECIPES}
    version: ClassVar[int] = 2
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
        self,
        source: Artifact,
        precision: Precision,
        samples: Arrays,
        folder: Path,
        recipe: str = "minmax",
    ) -> Signature:
        file, signature = fp32_source(self.kind, source, precision, self.precisions, FILE)
        with quiet(), explained(self.kind, f"convert to {precision}"):
            content = quantize(file, precision, samples, signature, recipe)
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
