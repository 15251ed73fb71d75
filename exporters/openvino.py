"""OpenVINO IR: traced by OpenVINO's converter, quantized by NNCF."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.contracts import Artifact, Missing, Precision, Signature
from ..pipeline.errors import ExportError
from ._errors import essence, explained, full_text, unsupported
from ._files import check_weights, described, fp32_source, missing_libraries
from ._openvino_int8 import RECIPES, to_int8
from ._quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn
    from torch.export import ExportedProgram

    from ..pipeline.contracts import Arrays

FILE = "model.xml"  # the weights lie beside it, in model.bin


class OpenVinoExporter:
    """Writes `model.xml` and `model.bin`: free batch axis, float32 inputs and outputs.

    fp16 stores half-precision weights; the runtime picks its own arithmetic. int8 is NNCF's
    post-training quantization in several recipes; see `_openvino_int8`.
    """

    kind: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    recipes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": tuple(RECIPES)}
    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("torch", "openvino", "nncf")

    def missing(self) -> Missing | None:
        return missing_libraries(("openvino", "nncf"), "openvino")

    def export(self, model: nn.Module, signature: Signature, folder: Path) -> Signature:
        from ._capture import capture, inference, refuse_values_read

        with quiet(), inference(model):
            program = capture(self.kind, model, signature, batch=2, free=True)
            refuse_values_read(self.kind, program)
            ir = _trace(model, signature, program)
            _name_ports(ir, signature)
            return _save(ir, signature, folder, half=False)

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
            import openvino

            core = openvino.Core()
            ir = core.read_model(file)
            if precision == "int8":
                ir = to_int8(ir, samples, signature, recipe)
            written = _save(ir, signature, folder, half=precision == "fp16")
            check_weights(self.kind, precision, _weights(core.read_model(folder / FILE)))
        return written


def _trace(model: nn.Module, signature: Signature, program: ExportedProgram) -> Any:
    import openvino

    from ._capture import example_inputs

    shapes = [
        openvino.PartialShape([-1 if n is None else n for n in spec.shape])
        for spec in signature.inputs
    ]
    examples = example_inputs(signature, batch=2)
    try:
        return openvino.convert_model(model, example_input=examples, input=shapes)
    except Exception as error:
        raise _conversion_error(program, error) from error


def _conversion_error(program: ExportedProgram, error: Exception) -> ExportError:
    from ._capture import place_of

    lists = re.findall(
        r"^-- (?:No conversion rule found for operations|Conversion is failed for): (.+)$",
        full_text(error),
        flags=re.MULTILINE,
    )
    # Only aten operators are the user's; the others are the converter's own marks.
    operators = [name for part in lists for name in part.split(", ") if name.startswith("aten::")]
    if operators:
        places = filter(None, (place_of(program, name) for name in operators))
        return unsupported("openvino", operators, next(places, ""))
    return ExportError(
        f"openvino: the model cannot be converted: {essence(error)}",
        "The full message of the converter is in the log; 'openvino' can be taken out of "
        "export.formats to go on with the other formats.",
    )


def _weights(ir: Any) -> Counter[str]:
    """Number of constant elements by NumPy type name."""
    count: Counter[str] = Counter()
    for node in ir.get_ops():
        if node.get_type_name() == "Constant":
            count[_dtype(node.output(0))] += node.data.size
    return count


def _name_ports(ir: Any, signature: Signature) -> None:
    ports = (
        *zip(ir.inputs, signature.inputs, strict=True),
        *zip(ir.outputs, signature.outputs, strict=True),
    )
    for port, spec in ports:
        port.get_tensor().set_names({spec.name})


def _save(ir: Any, signature: Signature, folder: Path, *, half: bool) -> Signature:
    import openvino

    _steady_names(ir)
    openvino.save_model(ir, folder / FILE, compress_to_fp16=half)
    return Signature(
        described(signature.inputs, _found(ir.inputs)),
        described(signature.outputs, _found(ir.outputs)),
    )


def _steady_names(ir: Any) -> None:
    """Number the nameless nodes by their place: OpenVINO counts through the whole process.

    Nodes that carry a name of the user's module keep it.
    """
    ir.set_friendly_name("model")
    for place, node in enumerate(ir.get_ordered_ops()):
        if re.fullmatch(r"[A-Za-z]+_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{place}")


def _found(ports: list[Any]) -> dict[str, tuple[tuple[int | None, ...], str]]:
    return {
        port.get_any_name(): (
            tuple(None if axis.is_dynamic else axis.get_length() for axis in port.partial_shape),
            _dtype(port),
        )
        for port in ports
    }


def _dtype(port: Any) -> str:
    import numpy as np

    return str(np.dtype(port.get_element_type().to_dtype()).name)
