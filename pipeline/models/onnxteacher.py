"""An ONNX file as a teacher: asked for logits like any network; it has no layers to tap.

The file is taken over with its inputs and its output named as the data names them, so that whatever
runs the teacher later feeds it like every other model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MissingDependency, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE = "teacher.onnx"
_CHUNK = 256


class OnnxTeacher(nn.Module):
    """Runs an ONNX file on the CPU by onnxruntime.

    Args:
        path: of the file; it takes the data's inputs in their order and gives logits `(N, C)`.

    Raises:
        MissingDependency: onnxruntime is not installed.
        ModelError: the file cannot be read, or gives more than one output.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        session = _open(path)
        self._inputs = [(spec.name, spec.shape[0]) for spec in session.get_inputs()]
        outputs = [spec.name for spec in session.get_outputs()]
        if len(outputs) != 1:
            raise ModelError(
                f"{path.name} gives {len(outputs)} outputs ({', '.join(outputs)}); expected logits"
                " alone",
                "export it again with the logits as its only output",
            )
        # Not an attribute of the module: a session can be neither copied nor pickled.
        self._session = _Held(session)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        given = [*inputs, *named.values()]
        if len(given) != len(self._inputs):
            wanted = [name for name, _ in self._inputs]
            raise ModelError(
                f"{self.path.name} takes {wanted}, and the data has {len(given)} inputs"
            )
        fixed = self._inputs[0][1]
        size = fixed if isinstance(fixed, int) else _CHUNK
        parts = [
            self._run([x[i : i + size] for x in given], size) for i in range(0, len(given[0]), size)
        ]
        return torch.from_numpy(np.concatenate(parts)).to(given[0].device)

    def _run(self, inputs: Sequence[Tensor], size: int) -> Any:
        """One call; a fixed batch that is not full is filled with copies of its first sample."""
        count, fixed = len(inputs[0]), isinstance(self._inputs[0][1], int)
        missing = size - count if fixed else 0
        feeds = {}
        for (name, _), value in zip(self._inputs, inputs, strict=True):
            filled = torch.cat([value, value[:1].expand(missing, *value.shape[1:])])
            feeds[name] = filled.cpu().contiguous().numpy()
        return self._session.inner.run(None, feeds)[0][:count]


class _Held:
    """Keeps a session out of the module's own attributes; a copy shares it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


def take_over(source: Path, target: Path, names: Mapping[str, Sequence[str]]) -> int:
    """Copy an ONNX file, its inputs and output renamed.

    Args:
        source: the user's file.
        target: where the copy goes.
        names: wanted names: `inputs` in order, and `outputs`.

    Returns:
        Number of weights.

    Raises:
        MissingDependency: onnx is not installed.
        ModelError: the file cannot be read, or has another number of inputs.
    """
    try:
        import onnx
    except ImportError as error:
        raise _missing("onnx") from error
    try:
        model = onnx.load(str(source))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{source} is not a readable ONNX file: {_first_line(error)}") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    outputs = [value.name for value in model.graph.output]
    if len(inputs) != len(names["inputs"]) or len(outputs) != len(names["outputs"]):
        raise ModelError(
            f"{source.name} has inputs {inputs} and outputs {outputs}; the data has inputs"
            f" {list(names['inputs'])}, and the logits are the one output",
            "export it again with these inputs, in this order, and the logits as its only output",
        )
    _rename(
        model.graph,
        dict(zip([*inputs, *outputs], [*names["inputs"], *names["outputs"]], strict=True)),
    )
    onnx.save(model, str(target))
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values everywhere; a stranger that bears a wanted name gets another one."""
    wanted = {old: new for old, new in names.items() if old != new}
    strangers = {new: f"{new}.inside" for new in wanted.values() if new not in wanted}
    every = {**strangers, **wanted}
    for node in graph.node:
        node.input[:] = [every.get(name, name) for name in node.input]
        node.output[:] = [every.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = every.get(value.name, value.name)


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime") from error
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is not a readable ONNX file: {_first_line(error)}") from error
    except Exception as error:
        # onnxruntime's own errors share no base class but this one.
        if type(error).__module__.startswith("onnxruntime"):
            raise ModelError(f"{path} is not a readable ONNX file: {_first_line(error)}") from error
        raise


def _missing(library: str) -> MissingDependency:
    return MissingDependency(
        f"an ONNX teacher needs {library}, not installed here", "pip install 'edgedistill[onnx]'"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
