"""ONNX: torch.export graphs to ONNX, quantized by onnxruntime's own tools."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.contracts import Artifact, Missing, Precision, Signature
from ..pipeline.errors import ExportError
from ._errors import explained, full_text, unsupported
from ._files import check_weights, described, fp32_source, missing_libraries
from ._onnx_int8 import RECIPES, to_int8, to_int8_dynamic
from ._quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import nn
    from torch.export import ExportedProgram

    from ..pipeline.contracts import Arrays

FILE = "model.onnx"
_PORT = "edgedistill."  # what inputs and outputs are called until they get their names


class OnnxExporter:
    """Writes `model.onnx`: one file, weights inside, free batch axis.

    fp16 halves the weights; inputs, outputs and arithmetic stay float32. int8 is static QDQ; its
    recipes differ in how the ranges of activations are found. int8-dynamic quantizes matrix
    products only: its convolutions are far slower than float.
    """

    kind: ClassVar[str] = "onnx"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8-dynamic")
    recipes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": tuple(RECIPES)}
    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")

    def missing(self) -> Missing | None:
        return missing_libraries(("onnx", "onnxscript", "onnxruntime"), "onnx")

    def export(self, model: nn.Module, signature: Signature, folder: Path) -> Signature:
        from ._capture import capture, inference

        with quiet(), inference(model):
            program = capture(self.kind, model, signature, batch=2, free=True)
            graph = _to_onnx(program, signature)
        return _save(graph, signature, folder)

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
            if precision == "fp16":
                graph = _to_fp16(file)
            elif precision == "int8":
                graph = to_int8(file, samples, signature, folder / FILE, recipe)
            else:
                graph = to_int8_dynamic(file, folder / FILE)
            check_weights(self.kind, precision, _weights(graph))
        return _save(graph, signature, folder)


def _to_onnx(program: ExportedProgram, signature: Signature) -> Any:
    """Translate a captured model; raises ExportError that names an operator ONNX lacks."""
    import torch

    try:
        translated = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[f"{_PORT}in.{place}" for place in range(len(signature.inputs))],
            output_names=[f"{_PORT}out.{place}" for place in range(len(signature.outputs))],
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise _translation_error(program, error) from error
    if translated is None:
        raise ExportError("onnx: torch.onnx.export returned no model", "Report this as a bug.")
    graph = translated.model_proto
    _name_ports(graph.graph, signature)
    return graph


def _name_ports(body: Any, signature: Signature) -> None:
    """Give inputs and outputs their names; an inner value of the same name gives way.

    Inner values are called after operators (`linear`, `embedding`), and torch writes an invalid
    file where an input has such a name.
    """
    specs = (*signature.inputs, *signature.outputs)
    names = {spec.name: f"{spec.name}.inner" for spec in specs}
    for info, spec in zip((*body.input, *body.output), specs, strict=True):
        names[info.name] = spec.name
        info.name = spec.name
    for tensor in body.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    _rename(body.node, names)


def _rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    """Rename what nodes read and write, in their subgraphs too."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            _rename(attribute.g.node, names)
            for info in attribute.g.output:
                info.name = names.get(info.name, info.name)


def _translation_error(program: ExportedProgram, error: Exception) -> ExportError:
    from ._capture import place_of

    text = full_text(error)
    operators = re.findall(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", text)
    if operators:
        return unsupported("onnx", operators, place_of(program, operators[0]))
    telling = re.findall(r"^<class '[\w.]+'>: (.+)$", text, flags=re.MULTILINE)
    reason = telling[0] if telling else text.splitlines()[0]
    return ExportError(
        f"onnx: the captured model cannot be translated: {reason}",
        "The full message of the converter is in the log; 'onnx' can be taken out of "
        "export.formats to go on with the other formats.",
    )


def _to_fp16(file: Path) -> Any:
    """Store weights of two axes and more as halves, each with a Cast back to float32.

    onnxruntime folds the casts when it loads the file. A graph that also computes in halves is
    no faster on a CPU, and onnxruntime 1.31 crashes on it where a Transpose meets a MatMul.
    """
    import onnx

    graph = onnx.load(file)
    casts = [_halve(tensor) for tensor in graph.graph.initializer if _can_be_half(tensor)]
    nodes = [*casts, *graph.graph.node]
    graph.graph.ClearField("node")
    graph.graph.node.extend(nodes)
    return graph


def _can_be_half(tensor: Any) -> bool:
    """Whether a constant is a float32 weight (not a bias, a scale or a limit) within range."""
    import numpy as np
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
        return False
    values = onnx.numpy_helper.to_array(tensor)
    return bool(np.abs(values).max(initial=0) <= np.finfo(np.float16).max)


def _halve(tensor: Any) -> Any:
    """Halve a weight in place; gives the node that makes float32 of it under the old name."""
    import numpy as np
    import onnx

    name, stored = tensor.name, f"{tensor.name}.fp16"
    values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, stored))
    return onnx.helper.make_node(
        "Cast", [stored], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT
    )


def _weights(graph: Any) -> Counter[str]:
    """Number of constant elements by NumPy type name."""
    import onnx

    count: Counter[str] = Counter()
    for tensor in graph.graph.initializer:
        name = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        count[name] += onnx.numpy_helper.to_array(tensor).size
    return count


def _save(graph: Any, signature: Signature, folder: Path) -> Signature:
    """Write the file without what differs from run to run, and read its signature back."""
    import onnx

    _strip(graph)
    _name_batch_axis(graph)
    onnx.save(graph, folder / FILE)
    return Signature(
        described(signature.inputs, _found(graph.graph.input)),
        described(signature.outputs, _found(graph.graph.output)),
    )


def _strip(graph: Any) -> None:
    """Drop stack traces with paths of this machine, and the inferred shapes inside the graph.

    The shapes are not only waste: onnxruntime's dynamic quantizer transposes a weight, keeps
    its stated shape and then fails on the contradiction. Every reader infers them anew.
    """
    body = graph.graph
    named = (*body.input, *body.output, *body.initializer)
    for part in (graph, body, *body.node, *graph.functions, *named):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    body.ClearField("value_info")


def _name_batch_axis(graph: Any) -> None:
    """Call the free batch axis `batch`: torch names it after an internal symbol."""
    for info in (*graph.graph.input, *graph.graph.output):
        for axis in info.type.tensor_type.shape.dim[:1]:
            if axis.HasField("dim_param"):
                axis.dim_param = "batch"


def _found(infos: Iterable[Any]) -> dict[str, tuple[tuple[int | None, ...], str]]:
    import onnx

    return {
        info.name: (
            tuple(
                axis.dim_value if axis.HasField("dim_value") else None
                for axis in info.type.tensor_type.shape.dim
            ),
            onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).name,
        )
        for info in infos
    }
