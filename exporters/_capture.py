"""One sound look at a model before any converter sees it.

`torch.export` follows every tensor and refuses what it cannot follow, while tracing (which the
OpenVINO converter uses) freezes the branch that the example happened to take. So every exporter
captures first: the same fault then gives the same error in every format.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from ..pipeline.errors import ExportError
from ._errors import deepest, essence, full_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

    from ..pipeline.contracts import Signature, TensorSpec

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TOOLS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode and record no gradients meanwhile.

    The fused kernels of `nn.MultiheadAttention` are off inside: no converter knows them.
    """
    model.eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def example_inputs(signature: Signature, batch: int) -> tuple[Tensor, ...]:
    """One tensor per input: seeded normal for floats, zeros for integers.

    Args:
        signature: of the model.
        batch: size of a free batch axis.
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(_example(spec, batch, generator) for spec in signature.inputs)


def _example(spec: TensorSpec, batch: int, generator: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    shape = [batch if size is None else size for size in spec.shape]
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def capture(
    kind: str, model: nn.Module, signature: Signature, batch: int, *, free: bool
) -> ExportedProgram:
    """The model as a graph of aten operators, sound for every input.

    Args:
        kind: the format that asks, for messages.
        model: called with one tensor per input.
        signature: what it takes and gives.
        batch: size of a free batch axis in the examples; 2 or more where it shall stay free.
        free: whether the batch axis stays free in the graph.

    Raises:
        ExportError: the control flow depends on values, the batch size is fixed inside the
            model, the model itself fails, or its outputs are not those of the signature.
    """
    _refuse_inner_free_axes(kind, signature)
    examples = example_inputs(signature, batch)
    dynamic = tuple(_free_axes(spec) if free else None for spec in signature.inputs)
    try:
        program = torch.export.export(model, examples, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        raise _capture_error(kind, error) from error
    _check_outputs(kind, program, signature)
    return program


def _free_axes(spec: TensorSpec) -> dict[int, Any] | None:
    return {0: torch.export.Dim.DYNAMIC} if spec.shape and spec.shape[0] is None else None


def _refuse_inner_free_axes(kind: str, signature: Signature) -> None:
    for spec in signature.inputs:
        if None in spec.shape[1:]:
            raise ExportError(
                f"{kind}: input {spec.name!r} has the shape {spec.shape}; only the batch axis "
                "(the first) can be free",
                "Give every other axis of the model's signature a fixed size.",
            )


def _capture_error(kind: str, error: Exception) -> ExportError:
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    text = full_text(error)
    place = place_in(text) or _user_frame(error)
    where = f", at {place}" if place else ""
    if isinstance(deepest(error), GuardOnDataDependentSymNode):
        return ExportError(
            f"{kind}: Python code of the model depends on the values of its inputs{where}",
            "Replace the `if`, loop, slice or float() by tensor operations such as torch.where, "
            "so that one graph holds for every input.",
        )
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return ExportError(
            f"{kind}: the model works for one batch size only, but its batch axis shall be free",
            "Take the batch size from the input, as in `x.flatten(1)` or `x.reshape(x.shape[0], "
            "-1)`, instead of writing a number.",
        )
    return ExportError(
        f"{kind}: the model fails while it is captured: {essence(deepest(error))}{where}",
        "Call the model in eval mode on one random tensor per input of its signature: it must "
        "run, with torch operations alone.",
    )


def place_in(text: str) -> str:
    """The last `file:line` of a stack in `text` that is the user's own, or an empty string."""
    frames = [f"{name}:{line}" for name, line in _FRAME.findall(text) if _is_users(name)]
    return frames[-1] if frames else ""


def _user_frame(error: BaseException) -> str:
    """The innermost `file:line` of the user's code through which the error came."""
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for link in (error, deepest(error))
        for frame in traceback.extract_tb(link.__traceback__)
        if _is_users(frame.filename)
    ]
    return frames[-1] if frames else ""


def _is_users(file: str) -> bool:
    """Whether a file is a model's, be it the user's own or of an installed model library."""
    if file.startswith(_STANDARD_LIBRARY) and "-packages" not in file:
        return False
    return not file.startswith((*_TOOLS, "<"))


def place_of(program: ExportedProgram, operator: str) -> str:
    """Where the user's model calls an operator, or an empty string.

    Args:
        program: the captured model.
        operator: as a converter spells it: `aten._linalg_eigh.default`, `aten::linalg_eigh`,
            or what a decomposition left of it: `prims.bessel_j1` of `aten.special_bessel_j1`.
    """
    wanted = _bare(operator)
    calls = [(_bare(str(node.target)), node) for node in program.graph.nodes]
    exact = [node for name, node in calls if name == wanted]
    related = [node for name, node in calls if wanted in name or (len(name) > 2 and name in wanted)]
    return node_place((exact or related)[0]) if exact or related else ""


def _bare(operator: str) -> str:
    """`aten._linalg_eigh.default` -> `linalgeigh`: converters differ in the decoration."""
    name = re.sub(r"^\w+(::|\.)", "", operator).split(".")[0]
    return name.replace("_", "")


def node_place(node: fx.Node) -> str:
    """The `file:line` of the user's model that made a node, or an empty string."""
    return place_in(node.meta.get("stack_trace") or "")


def refuse_values_read(kind: str, program: ExportedProgram) -> None:
    """Refuse a tensor's value as a Python number, for a format that has no word for it.

    Tracing would even freeze it to the value of the example, without a word.

    Raises:
        ExportError: says where the model reads a value.
    """
    readers = {torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default}
    places = [node_place(node) for node in program.graph.nodes if node.target in readers]
    if places:
        raise ExportError(
            f"{kind}: the model turns the value of a tensor into a Python number"
            + (f", at {places[0]}" if places[0] else ""),
            "Keep it a tensor (no .item(), float() or int() on results of the inputs), or take "
            f"{kind!r} out of export.formats.",
        )


def _check_outputs(kind: str, program: ExportedProgram, signature: Signature) -> None:
    structure = program.call_spec.out_spec
    if structure is None or structure.type not in (None, tuple, list):
        returned = "nothing" if structure is None else f"a {structure.type.__name__}"
        raise ExportError(
            f"{kind}: the model returns {returned}; expected a tensor or a tuple of tensors",
            "Wrap the model in a module whose forward returns the tensors in a tuple.",
        )
    shapes = _output_shapes(program)
    hint = "Make the signature say what the model returns: one named tensor each, in order."
    if len(shapes) != len(signature.outputs):
        names = ", ".join(spec.name for spec in signature.outputs)
        raise ExportError(
            f"{kind}: the model returns {len(shapes)} tensors, the signature names "
            f"{len(signature.outputs)} ({names})",
            hint,
        )
    for spec, shape in zip(signature.outputs, shapes, strict=True):
        if not _agrees(shape, spec.shape):
            raise ExportError(
                f"{kind}: output {spec.name!r} of the model has the shape "
                f"({', '.join(map(str, shape))}), the signature says {spec.shape}",
                hint,
            )


def _output_shapes(program: ExportedProgram) -> list[tuple[int | torch.SymInt, ...]]:
    from torch.export.graph_signature import OutputKind

    values = program.graph.output_node().args[0]
    pairs = zip(program.graph_signature.output_specs, values, strict=True)
    returned = [value for spec, value in pairs if spec.kind == OutputKind.USER_OUTPUT]
    return [tuple(value.meta["val"].shape) for value in returned if isinstance(value, fx.Node)]


def _agrees(shape: tuple[int | torch.SymInt, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or (isinstance(got, int) and got == size)
        for got, size in zip(shape, wanted, strict=True)
    )
