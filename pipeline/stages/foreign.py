"""Stage `export-teacher` of a teacher that is no torch module: the file that is measured.

An ONNX or TFLite file is measured as itself. A Keras model or a SavedModel becomes a TFLite file
by TensorFlow's converter, in a child process. Each must at once answer like the teacher.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..child import run_in_child
from ..models.foreign import ForeignKind, kept_in
from .export import finish, from_job, to_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..contracts import Artifact, Signature, Workspace


def take_over(inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    """The kept file, which is in a format that can be measured.

    Raises:
        ParityError: on that format's target it does not answer like the teacher.
    """
    teacher = inputs["teacher"]
    kind = _kind(teacher)
    shutil.copyfile(teacher.root / kind.file, workspace.out / f"model.{kind.format}")
    _finish(kind, inputs, workspace)


def convert(timeout: float, inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    """A conversion to the format that can be measured.

    Args:
        timeout: seconds.
        inputs: artefacts of `data` and `teacher`.
        workspace: where to work.

    Raises:
        ExportError: the format cannot express the teacher.
        ParityError: the file does not answer like the teacher.
    """
    kind = _kind(inputs["teacher"])
    arguments = {
        "teacher": to_job(inputs["teacher"]),
        "data": to_job(inputs["data"]),
        "file": str(workspace.out / f"model.{kind.format}"),
    }
    run_in_child(f"{__name__}:convert_in_child", arguments, workspace.scratch, timeout)
    _finish(kind, inputs, workspace)


def convert_in_child(teacher: dict[str, Any], data: dict[str, Any], file: str) -> None:
    """The part of `convert` that needs TensorFlow."""
    from ..models.teacherlite import to_tflite
    from ..training.tensors import read_about
    from . import modelfiles

    loaded = modelfiles.load_foreign(from_job(teacher), read_about(from_job(data).root))
    Path(file).write_bytes(to_tflite(loaded))


def _finish(kind: ForeignKind, inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    signature = _signature(inputs["teacher"])
    finish(kind.format, "fp32", signature.to_json(), "teacher", inputs, workspace)


def _kind(teacher: Artifact) -> ForeignKind:
    kind = kept_in(teacher.root)
    if kind is None:
        raise TypeError(f"{teacher.root} holds no foreign teacher")
    return kind


def _signature(teacher: Artifact) -> Signature:
    if teacher.signature is None:
        raise TypeError("an artefact of kind `model` has a signature")
    return teacher.signature
