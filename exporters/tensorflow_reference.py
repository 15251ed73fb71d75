"""A second opinion on a .tflite file: TensorFlow's reference kernels, beside LiteRT's own.

The reference kernels are written to be plain, not fast. Where they and LiteRT (with XNNPACK) differ
by more than rounding, one of the two misreads the file. It needs the extra `tensorflow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..pipeline.errors import ExportError, MissingDependency
from ._files import missing_libraries
from ._quiet import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from ..pipeline.contracts import Array, Arrays


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two runtimes are apart on one file.

    Attributes:
        output: the one with the largest difference.
        max_abs: largest difference of a value.
        scale: largest absolute value that LiteRT gave there.
        agreement: share of samples `(N, C)` with the same top class; 1 for other outputs.
    """

    output: str
    max_abs: float
    scale: float
    agreement: float

    @property
    def relative(self) -> float:
        """`max_abs` as a share of `scale`; the quantization step of int8 is about 0.01 of it."""
        return self.max_abs / self.scale if self.scale else self.max_abs


def second_opinion(file: Path, feeds: Arrays) -> Difference:
    """Run a .tflite file under TensorFlow's reference kernels and under LiteRT.

    Args:
        file: has one signature.
        feeds: `(N, ...)` by the names of the signature's inputs.

    Raises:
        MissingDependency: TensorFlow or LiteRT is not installed.
        ExportError: one of them cannot run the file, or the feeds do not fit it.
    """
    missing = missing_libraries(("tensorflow", "ai_edge_litert"), "tensorflow,tflite")
    if missing is not None:
        names = ", ".join(missing.libraries)
        raise MissingDependency(f"a second opinion needs {names}", missing.pip_line)
    with quiet():
        ours = _answers(_litert(file), feeds, "LiteRT")
        theirs = _answers(_reference(file), feeds, "TensorFlow's reference kernels")
    return max(
        (_compare(name, value, theirs[name]) for name, value in ours.items()),
        key=lambda difference: difference.relative,
    )


def _litert(file: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return _opened(file, Interpreter, "LiteRT", {})


def _reference(file: Path) -> Any:
    import tensorflow as tf

    kernels = tf.lite.experimental.OpResolverType.BUILTIN_REF
    options = {"experimental_op_resolver_type": kernels}
    return _opened(file, tf.lite.Interpreter, "TensorFlow", options)


def _opened(file: Path, interpreter: Any, runtime: str, options: dict[str, Any]) -> Any:
    """The runner of the file's one signature."""
    try:
        found = interpreter(model_path=str(file), **options)
        return found.get_signature_runner()
    except (RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise ExportError(
            f"tflite: {runtime} cannot open {file}: {line}",
            "See that it is a .tflite file with one signature.",
        ) from error


def _answers(runner: Any, feeds: Arrays, runtime: str) -> dict[str, Array]:
    """Outputs by name, `(N, ...)`; a batch that is fixed takes the samples piece by piece."""
    import numpy as np

    ports = runner.get_input_details()
    if set(ports) != set(feeds):
        raise ExportError(
            f"tflite: feeds are {sorted(feeds)}, the file's inputs {sorted(ports)}",
            "Feed every input of the signature under its name.",
        )
    size = max(int(port["shape"][0]) for port in ports.values())
    count = len(next(iter(feeds.values())))
    if count % size:
        raise ExportError(
            f"tflite: {count} samples cannot be cut into batches of {size}",
            f"Give a multiple of {size} samples.",
        )
    parts = []
    for start in range(0, count, size):
        rows = {
            name: np.ascontiguousarray(feeds[name][start : start + size], port["dtype"])
            for name, port in ports.items()
        }
        parts.append(_run(runner, rows, runtime))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run(runner: Any, rows: dict[str, Array], runtime: str) -> dict[str, Array]:
    try:
        answer: dict[str, Array] = runner(**rows)
    except (RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise ExportError(f"tflite: {runtime} cannot run the file: {line}") from error
    return answer


def _compare(name: str, ours: Array, theirs: Array) -> Difference:
    import numpy as np

    if ours.shape != theirs.shape:
        raise ExportError(
            f"tflite: output {name!r} is {ours.shape} by LiteRT and {theirs.shape} by TensorFlow",
            "The file leaves its shapes open; fix them when it is exported.",
        )
    classes = ours.ndim == 2 and ours.shape[1] > 1
    agreement = float((ours.argmax(1) == theirs.argmax(1)).mean()) if classes else 1.0
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return Difference(name, float(difference.max()), float(np.abs(ours).max()), agreement)
