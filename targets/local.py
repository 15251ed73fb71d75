"""The CPU of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from ..pipeline.contracts import Evidence, Missing
from ..pipeline.errors import MissingDependency, TargetError
from . import machine
from .session import WorkerSession

if TYPE_CHECKING:
    from pathlib import Path

    from ..pipeline.contracts import Artifact

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """Which runtime executes a kind of artefact.

    Attributes:
        runtime: name of the worker's runtime.
        library: import name of the library.
        extra: the extra of edgedistill that brings it.
        suffix: of the model file.
    """

    runtime: str
    library: str
    extra: str
    suffix: str


RUNTIMES = {
    "onnx": RuntimeChoice("onnxruntime", "onnxruntime", "onnx", ".onnx"),
    "openvino": RuntimeChoice("openvino", "openvino", "openvino", ".xml"),
    "tflite": RuntimeChoice("litert", "ai_edge_litert", "tflite", ".tflite"),
    "executorch": RuntimeChoice("executorch", "executorch", "executorch", ".pte"),
}


class LocalCpu:
    """Runs and times artefacts on this machine's CPU, each in a worker process of its own.

    Args:
        timeout: seconds of silence after which a worker is given up; None waits for ever.
    """

    name: ClassVar[str] = "cpu"
    evidence: ClassVar[Evidence] = "measured on this host"

    def __init__(self, timeout: float | None = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout

    def accepts(self, kind: str) -> bool:
        return kind in RUNTIMES

    def missing(self, kind: str) -> Missing | None:
        choice = _choose(kind)
        absent = tuple(name for name in (choice.library, "numpy") if find_spec(name) is None)
        return Missing(absent, choice.extra) if absent else None

    def open(self, artifact: Artifact, threads: int) -> WorkerSession:
        """Load an artefact in a worker process.

        Raises:
            MissingDependency: the runtime is not installed.
            TargetError: the runtime refused the file, or its worker died.
        """
        choice = _choose(artifact.kind)
        if missing := self.missing(artifact.kind):
            libraries = ", ".join(missing.libraries)
            raise MissingDependency(f"{artifact.kind} needs {libraries}", missing.pip_line)
        if threads < 1:
            raise TargetError(f"cannot run with {threads} threads; expected 1 or more")
        return WorkerSession(
            choice.runtime,
            _model_file(artifact, choice.suffix),
            artifact.precision,
            threads,
            artifact.signature,
            self._timeout,
        )

    def facts(self) -> dict[str, Any]:
        return machine.facts()


def _choose(kind: str) -> RuntimeChoice:
    if kind not in RUNTIMES:
        raise TargetError(
            f"the cpu runs no artefacts of the kind {kind!r}; expected one of {sorted(RUNTIMES)}",
            "ask accepts(kind) first",
        )
    return RUNTIMES[kind]


def _model_file(artifact: Artifact, suffix: str) -> Path:
    found = sorted(name for name in artifact.files if name.endswith(suffix))
    if len(found) != 1:
        raise TargetError(
            f"the {artifact.kind} artefact in {artifact.root} has {len(found)} files "
            f"*{suffix} {found}; expected exactly one",
            "make the artefact again",
        )
    path = artifact.root / found[0]
    if not path.is_file():
        raise TargetError(f"{path} is missing", "make the artefact again")
    return path
