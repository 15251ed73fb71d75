"""ExecuTorch programs (.pte), with XNNPACK as their delegate."""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

# Not `executorch.runtime`: that imports the whole compiler, torchao included, for seconds.
from executorch.extension.pybindings import _C

from ...pipeline.contracts import TensorSpec
from ...pipeline.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ...pipeline.contracts import Array, Arrays

METHOD = "forward"
_SHAPE, _ARGUMENT, _NO_KERNEL, _INVALID = 0x10, 0x12, 0x14, 0x23
# ExecuTorch's own codes of element types -> NumPy names.
DTYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
    27: "uint16",
    28: "uint32",
    29: "uint64",
}


class ExecuTorch:
    """A program with its method `forward` loaded; every size in it is fixed.

    ExecuTorch does not tell in which precision it computes: the label of the file says it. Of a
    file without a label nothing is known but that it computes as its operators say.
    """

    def __init__(self, program: Any, precision: str) -> None:
        self._program = program  # the method reads its constants
        self._method = program.load_method(METHOD)
        about = self._method.method_meta()
        inputs = [about.input_tensor_meta(place) for place in range(about.num_inputs())]
        outputs = [about.output_tensor_meta(place) for place in range(about.num_outputs())]
        self.inputs = _specs(inputs, _names(program, "input"), "input")
        self.outputs = _specs(outputs, _names(program, "output"), "output")
        self.device = "CPU"
        self.precision = precision or "as in the file"
        self.version = metadata.version("executorch")

    def run(self, feeds: Arrays) -> list[Array]:
        tensors = [_tensor(feeds[spec.name]) for spec in self.inputs]
        try:
            outputs = self._method.call(tensors)
        except RuntimeError as error:
            raise self._explained(error, feeds) from error
        return [output.numpy() for output in outputs]

    def prepare(self, feeds: Arrays) -> Callable[[], object]:
        self.run(feeds)  # a feed that does not fit is explained here, not in the timed loop
        tensors, call = [_tensor(feeds[spec.name]) for spec in self.inputs], self._method.call
        if len(self.outputs) == 1:  # no loop: it shows beside a net of microseconds
            return lambda: call(tensors)[0].numpy()
        return lambda: [output.numpy() for output in call(tensors)]

    def _explained(self, error: RuntimeError, feeds: Arrays) -> TargetError:
        """What ExecuTorch says by a number alone."""
        fed = {spec.name: feeds[spec.name] for spec in self.inputs}
        got = {name: (array.dtype.name, array.shape) for name, array in fed.items()}
        wanted = {spec.name: (spec.dtype, spec.shape) for spec in self.inputs}
        what = {_SHAPE: "shape", _ARGUMENT: "dtype"}.get(_code(error))
        if what:
            return TargetError(
                f"an input has another {what} than the file takes: got {got}, expected {wanted}",
                "feed the file's own batch size, shapes and dtypes: all of them are fixed in it",
            )
        return TargetError(
            f"ExecuTorch failed on {got}: {error}",
            "an operator of the file fails on this machine; the log of the worker says which",
        )


def load(path: Path, precision: str, threads: int) -> ExecuTorch:
    """Load a program; XNNPACK and the kernels share a pool of `threads` threads.

    Raises:
        TargetError: the file is no ExecuTorch program, or needs an operator or a backend that the
            installed runtime lacks.
    """
    torch.set_num_threads(1)  # torch only copies outputs; more threads of it would spin meanwhile
    _C._unsafe_reset_threadpool(threads)  # unsafe while a program runs: none is loaded yet
    try:
        return ExecuTorch(_C._load_program(str(path)), precision)
    except RuntimeError as error:
        raise _load_error(path, error) from error


def _load_error(path: Path, error: RuntimeError) -> TargetError:
    code = _code(error)
    if code in (_ARGUMENT, _INVALID):
        return TargetError(
            f"{path.name} is no whole ExecuTorch program with a method {METHOD!r}: {error}",
            "expected a .pte file of a version that the installed runtime reads",
        )
    if code == _NO_KERNEL:
        return TargetError(
            f"{path.name} uses an operator for which the installed ExecuTorch has no kernel",
            "export the model again with the ExecuTorch that is installed; it names the operator",
        )
    backends = ", ".join(_C._get_registered_backend_names())
    return TargetError(
        f"ExecuTorch cannot load {path.name}: {error}",
        f"expected a readable .pte file for the backends {backends}",
    )


def _code(error: RuntimeError) -> int:
    """ExecuTorch's number of an error, or 0."""
    found = re.search(r"error:? 0x:?([0-9a-fA-F]+)", str(error))
    return int(found[1], 16) if found else 0


def _tensor(array: Array) -> Tensor:
    """A tensor whose elements lie in the order of its axes.

    ExecuTorch takes that for granted: of a channels_last tensor it computes something else, and
    says nothing.
    """
    return torch.from_numpy(array).contiguous()


def _names(program: Any, which: str) -> list[str]:
    """Names that our exporter left as a constant method; files of others have none."""
    method = f"{which}_names"
    methods = {program.get_method_name(place) for place in range(program.num_methods())}
    if method not in methods:
        return []
    (text,) = program.load_method(method).call(())
    return list(json.loads(text))


def _specs(infos: list[Any], names: list[str], which: str) -> tuple[TensorSpec, ...]:
    numbered = names or [f"{which}_{place}" for place in range(len(infos))]
    return tuple(_spec(name, info) for name, info in zip(numbered, infos, strict=True))


def _spec(name: str, info: Any) -> TensorSpec:
    code = info.dtype()
    if code not in DTYPES:
        raise TargetError(
            f"{name!r} has ExecuTorch's element type {code}; expected one of {DTYPES}",
            "export the model with plain tensors as inputs and outputs",
        )
    return TensorSpec(name, tuple(info.sizes()), DTYPES[code])
