"""Stages `export-FORMAT` and `quantize-FORMAT-PRECISION`: each in a child process, checked at once.

An artefact holds the model's files and `parity.json`. The conversion runs in a child that imports
what it needs; the check runs the finished file on its own runtime, in a measuring worker.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..child import run_in_child
from ..contracts import Artifact, Precision, Signature
from .data import load_inputs, spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..contracts import Workspace

PARITY_SAMPLES = 256
CHECK_TARGET = "cpu"  # where parity is checked: the host


def export(
    kind: str,
    source: str,
    root: Path,
    timeout: float,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Write the fp32 file of a model.

    Args:
        kind: the format.
        source: the stage whose model is exported: `distill` or `teacher`.
        root: folder of the config, for user code.
        timeout: seconds for the conversion.
        inputs: artefacts of `data` and `source`.
        workspace: where to work.

    Raises:
        ExportError: the format cannot express the model.
        ParityError: the file does not answer like the model.
    """
    arguments = {
        "kind": kind,
        "model": _plain(inputs[source]),
        "data": _plain(inputs["data"]),
        "code": str(root),
        "folder": str(workspace.out),
    }
    answer = run_in_child(f"{__name__}:export_in_child", arguments, workspace.scratch, timeout)
    _finish(kind, "fp32", answer, source, inputs, workspace)


def take_over(inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    """The exported form of a teacher that is an ONNX file: itself."""
    import shutil

    from ..models.onnxteacher import FILE

    teacher = inputs["teacher"]
    if teacher.signature is None:
        raise TypeError("an artefact of kind `model` has a signature")
    shutil.copyfile(teacher.root / FILE, workspace.out / "model.onnx")
    _finish("onnx", "fp32", teacher.signature.to_json(), "teacher", inputs, workspace)


def export_in_child(
    kind: str, model: dict[str, Any], data: dict[str, Any], code: str, folder: str
) -> dict[str, Any]:
    """The part of `export` that needs torch and a converter."""
    from ..models.build import positional
    from . import modelfiles

    artifact = _artifact(model)
    network = modelfiles.load(artifact, _artifact(data), Path(code), "model")
    signature = artifact.signature
    if signature is None:
        raise TypeError("an artefact of kind `model` has a signature")
    module = positional(network, [spec.name for spec in signature.inputs]).eval()
    written = plugins.exporter(kind).export(module, signature, Path(folder))
    return written.to_json()


def quantize(
    kind: str,
    precision: Precision,
    calibration: int,
    timeout: float,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Write an fp32 file in another precision; int8 is calibrated from the validation split.

    Raises:
        ExportError, ParityError: as `export`.
    """
    arguments = {
        "kind": kind,
        "precision": precision,
        "source": _plain(inputs[f"export-{kind}"]),
        "data": str(inputs["data"].root),
        "calibration": calibration,
        "folder": str(workspace.out),
    }
    answer = run_in_child(f"{__name__}:quantize_in_child", arguments, workspace.scratch, timeout)
    _finish(kind, precision, answer, "distill", inputs, workspace)


def quantize_in_child(
    kind: str,
    precision: Precision,
    source: dict[str, Any],
    data: str,
    calibration: int,
    folder: str,
) -> dict[str, Any]:
    """The part of `quantize` that needs a quantizer."""
    samples = load_inputs(Path(data), "validation", calibration)
    written = plugins.exporter(kind).convert(_artifact(source), precision, samples, Path(folder))
    return written.to_json()


def _finish(
    kind: str,
    precision: Precision,
    answer: Mapping[str, Any],
    source: str,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    import numpy as np

    from ..evaluation import parity

    written, model = Signature.from_json(answer), inputs[source]
    about = workspace.describe
    about.kind, about.precision, about.signature = kind, precision, written
    name = f"{kind}-{precision}" if source == "distill" else f"{source} as {kind}-{precision}"
    if model.signature is not None:
        parity.check_signature(model.signature, written, name)
    # The inputs of the test split: int8 was calibrated on those of the validation split.
    samples = load_inputs(inputs["data"].root, "test", PARITY_SAMPLES)
    reference = np.load(model.root / "outputs" / "test.npy")
    reference = reference[spread(len(reference), PARITY_SAMPLES)]
    draft = Artifact(kind, precision, workspace.out, _files(workspace.out), written, "", "")
    with plugins.target(CHECK_TARGET).open(draft, threads=1) as session:
        outputs = session.run(samples)
    result = parity.compare(name, precision, {written.outputs[0].name: reference}, outputs)
    (workspace.out / "parity.json").write_text(json.dumps(result.to_json(), sort_keys=True))


def _files(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): "" for p in folder.rglob("*") if p.is_file()}


def _plain(artifact: Artifact) -> dict[str, Any]:
    """An artefact as JSON, for a child's job."""
    signature = artifact.signature.to_json() if artifact.signature else None
    return {
        **asdict(replace(artifact, signature=None)),
        "root": str(artifact.root),
        "signature": signature,
    }


def _artifact(data: dict[str, Any]) -> Artifact:
    signature = Signature.from_json(data["signature"]) if data["signature"] else None
    return Artifact(**{**data, "root": Path(data["root"]), "signature": signature})
