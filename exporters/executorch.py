"""ExecuTorch: torch.export graphs lowered to XNNPACK, quantized by PT2E before they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.contracts import Artifact, Missing, Precision, Signature, TensorSpec
from ..pipeline.errors import ExportError
from ._errors import essence, explained, full_text, unsupported
from ._executorch_int8 import RECIPES, quantize
from ._files import check_weights, described, fp32_source, missing_libraries
from ._quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor, fx, nn
    from torch.export import ExportedProgram

    from ..pipeline.contracts import Arrays

FILE = "model.pte"
PROGRAM = "model.pt2"  # what `convert` starts from: a .pte cannot be quantized any more
NOTE = "delegation.json"
_BACKEND = "XnnpackBackend"
_QUANTIZERS = "quantized_decomposed."  # conversions: XNNPACK folds them into what they stand at


class ExecuTorchExporter:
    """Writes `model.pte` for XNNPACK: batch 1 unless the signature fixes another.

    What XNNPACK lacks runs on ExecuTorch's portable kernels, which are slow; `delegation.json`
    says what and how much. The names of inputs and outputs are two constant methods of the file.
    Beside an fp32 file lies `model.pt2`, the captured model from which `convert` starts.

    int8 is static, per channel, between float32 inputs and outputs; its recipes are those of
    `_executorch_int8`. int8-dynamic quantizes linear layers only: XNNPACK has no dynamic depthwise
    convolution, and ExecuTorch 1.5 writes dynamic ones before a ReLU that fail when they run.
    There is no fp16: the weights of a convolution in half precision are written in float32 all the
    same, so that the file does not shrink, and it runs slower on a CPU without half arithmetic.
    """

    kind: ClassVar[str] = "executorch"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8", "int8-dynamic")
    recipes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": RECIPES}
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch", "executorch", "torchao")

    def missing(self) -> Missing | None:
        return missing_libraries(("executorch", "torchao"), "executorch")

    def export(self, model: nn.Module, signature: Signature, folder: Path) -> Signature:
        from ._capture import capture, inference

        with quiet(), inference(model):
            program = capture(self.kind, model, signature, batch=1, free=False)
            _keep(program, folder / PROGRAM)
            return _write(program, signature, folder)

    def convert(
        self,
        source: Artifact,
        precision: Precision,
        samples: Arrays,
        folder: Path,
        recipe: str = RECIPES[0],
    ) -> Signature:
        file, signature = fp32_source(self.kind, source, precision, self.precisions, PROGRAM)
        with quiet(), explained(self.kind, f"convert to {precision}"):
            program = quantize(file, precision, recipe, samples, signature)
            check_weights(self.kind, precision, _weights(program))
            return _write(program, signature, folder)


def _keep(program: ExportedProgram, file: Path) -> None:
    """Save a captured model without the stack traces, which hold paths of this machine."""
    import torch

    # Taken out and put back: a copy of a program that has an input called `input` fails.
    traces = {node: node.meta.pop("stack_trace", None) for node in program.graph.nodes}
    with explained("executorch", "keep the captured model"):
        torch.export.save(program, file)
    for node, trace in traces.items():
        if trace:
            node.meta["stack_trace"] = trace


def _write(program: ExportedProgram, signature: Signature, folder: Path) -> Signature:
    """Lower a program and write its files; the runtime must load what was written."""
    lowered, note = _lower(program, signature)
    _refuse_absent_kernels(lowered, program)
    (folder / FILE).write_bytes(lowered.buffer)
    (folder / NOTE).write_text(json.dumps(note, indent=1, sort_keys=True))
    with explained("executorch", "load the file that was written"):
        return _read_back(folder / FILE, signature)


def _lower(program: ExportedProgram, signature: Signature) -> tuple[Any, dict[str, Any]]:
    """The program as ExecuTorch writes it, and what of it XNNPACK took over."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    names = {
        "input_names": json.dumps([spec.name for spec in signature.inputs]),
        "output_names": json.dumps([spec.name for spec in signature.outputs]),
    }
    try:
        edge = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods=names
        )
        note = delegated(edge.exported_program())
        return edge.to_executorch(), note
    except Exception as error:
        raise _lowering_error(program, error) from error


def _lowering_error(program: ExportedProgram, error: Exception) -> ExportError:
    from ._capture import place_of

    operators = re.findall(r"Operator torch\._ops\.([\w.]+) is not in Core ATen", full_text(error))
    if operators:
        return unsupported("executorch", operators, place_of(program, operators[0]))
    return ExportError(
        f"executorch: the captured model cannot be lowered: {essence(error)}",
        "The full message of the converter is in the log; 'executorch' can be taken out of "
        "export.formats to go on with the other formats.",
    )


def delegated(program: ExportedProgram) -> dict[str, Any]:
    """What of a lowered program XNNPACK runs, and what is left to the portable kernels.

    Args:
        program: of an edge program that was partitioned, before memory was planned.

    Returns:
        `share` of the operators that XNNPACK runs, from 0 to 1; `partitions`, the number of
        graphs handed to it; `delegated` and `portable`, operators by name with their counts.
        A partition holds no conversions to and from int8, for there they cost nothing.
    """
    module = program.graph_module
    partitions = [
        getattr(module, str(node.target))
        for node in module.graph.nodes
        if node.op == "get_attr" and hasattr(getattr(module, str(node.target)), "backend_id")
    ]
    inside: Counter[str] = Counter()
    for part in partitions:
        found = _operators(part.original_module.graph)
        inside.update(name for name in found if not name.startswith(_QUANTIZERS))
    outside = Counter(_operators(module.graph))
    return {
        "backend": _BACKEND,
        "share": inside.total() / max(1, inside.total() + outside.total()),
        "partitions": len(partitions),
        "delegated": dict(inside),
        "portable": dict(outside),
    }


def _operators(graph: fx.Graph) -> Iterable[str]:
    """Names such as `aten.mean.dim` of all operators of a graph, delegates left out."""
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name not in ("getitem", "executorch_call_delegate"):
            yield name


def _refuse_absent_kernels(lowered: Any, program: ExportedProgram) -> None:
    """Refuse operators for which the runtime has no kernel: it would not load the file."""
    from executorch.extension.pybindings import _C

    from ._capture import place_of

    plan = next(p for p in lowered.executorch_program.execution_plan if p.name == "forward")
    used = {f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators}
    if absent := sorted(used - set(_C._get_operator_names())):
        places = filter(None, (place_of(program, name) for name in absent))
        raise unsupported("executorch", absent, next(places, ""))


def _weights(program: ExportedProgram) -> Counter[str]:
    """Number of constant elements that the graph uses, by NumPy type name."""
    known = program.graph_signature
    named = {
        **known.inputs_to_parameters,
        **known.inputs_to_buffers,
        **known.inputs_to_lifted_tensor_constants,
    }
    held = {**program.state_dict, **program.constants}
    count: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.users and node.name in named:
            tensor: Tensor = held[named[node.name]]
            count[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return count


def _read_back(file: Path, signature: Signature) -> Signature:
    from executorch.extension.pybindings import _C

    about = _C._load_program(str(file)).load_method("forward").method_meta()
    inputs = [about.input_tensor_meta(place) for place in range(about.num_inputs())]
    outputs = [about.output_tensor_meta(place) for place in range(about.num_outputs())]
    return Signature(_read(signature.inputs, inputs), _read(signature.outputs, outputs))


def _read(specs: tuple[TensorSpec, ...], infos: list[Any]) -> tuple[TensorSpec, ...]:
    from executorch.exir.tensor import scalar_type_table

    dtypes = {int(code): dtype for dtype, code in scalar_type_table.items()}
    found = {
        spec.name: (tuple(info.sizes()), str(dtypes[info.dtype()]).removeprefix("torch."))
        for spec, info in zip(specs, infos, strict=True)
    }
    return described(specs, found)
