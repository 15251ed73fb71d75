"""An ONNX file as a teacher; it has no layers to tap.

The file is taken over with its inputs and its output named as the data names them, and its images
laid out as the data's are, so that whatever runs the teacher later feeds it like every other model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..contracts import TensorSpec
from ..errors import ModelError
from .foreignteacher import TO_NHWC, ForeignTeacher, Kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..contracts import Array

_TYPES = {"float": "float32", "double": "float64"}  # others are called as NumPy calls them


class OnnxTeacher(ForeignTeacher):
    """Runs an ONNX file on the CPU by onnxruntime."""

    key: ClassVar[str] = "onnx"

    def keep(self, target: Path) -> Kept:
        import onnx

        model = _read(self.path)
        graph, turned = model.graph, [feed.name for feed in self.feeds if feed.to_nhwc]
        for name in turned:
            _take_nchw(graph, name)
        (output,) = self._outputs()
        names = {feed.name: feed.source for feed in self.feeds}
        _rename(graph, {**names, output: self.data.outputs[0].name})
        onnx.save(model, str(target))
        weights = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
        return Kept(weights, self.layout and "nchw")

    def _load(self) -> Any:
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        except (RuntimeError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        except Exception as error:
            # onnxruntime's own errors share no base class but this one.
            if type(error).__module__.startswith("onnxruntime"):
                raise _unreadable(self.path, error) from error
            raise

    def _inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(port) for port in self.engine.get_inputs())

    def _outputs(self) -> tuple[str, ...]:
        return tuple(port.name for port in self.engine.get_outputs())

    def _run(self, feeds: dict[str, Array], layers: Sequence[str]) -> list[Array]:
        outputs: list[Array] = self.engine.run(None, feeds)
        return outputs


def _spec(port: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in port.shape)
    inner = port.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(port.name, shape, _TYPES.get(inner, inner))


def _read(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise _unreadable(path, error) from error


def _take_nchw(graph: Any, name: str) -> None:
    """Let an input come as the data has it, and turn it before anything reads it."""
    import onnx

    inside = f"{name}.nhwc"
    for node in _nodes(graph):
        node.input[:] = [inside if used == name else used for used in node.input]
    turn = onnx.helper.make_node("Transpose", [name], [inside], perm=list(TO_NHWC))
    graph.node.insert(0, turn)
    (value,) = (value for value in graph.input if value.name == name)
    sizes = value.type.tensor_type.shape.dim
    if sizes:
        batch, height, width, channels = map(_copied, sizes)
        del sizes[:]
        sizes.extend([batch, channels, height, width])


def _copied(size: Any) -> Any:
    copy = type(size)()
    copy.CopyFrom(size)
    return copy


def _nodes(graph: Any) -> Iterator[Any]:
    """Its nodes, and those of the branches and loops inside, which see its values."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values everywhere; a stranger that bears a wanted name gets another one."""
    wanted = {old: new for old, new in names.items() if old != new}
    strangers = {new: f"{new}.inside" for new in wanted.values() if new not in wanted}
    every = {**strangers, **wanted}
    for node in _nodes(graph):
        node.input[:] = [every.get(name, name) for name in node.input]
        node.output[:] = [every.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = every.get(value.name, value.name)


def _unreadable(path: Path, error: Exception) -> ModelError:
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ModelError(f"{path} is not a readable ONNX file: {line}")
