"""Stages `export-FORMAT`: each in a child process, checked at once.

An artefact holds the model's files and `parity.json`; see `quantize` for its other precisions. The
conversion runs in a child that imports what it needs; the check runs the finished file on its own
runtime, in a measuring worker.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..child import run_in_child
from ..contracts import Artifact, Signature
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
        "model": to_job(inputs[source]),
        "data": to_job(inputs["data"]),
        "code": str(root),
        "folder": str(workspace.out),
    }
    answer = run_in_child(f"{__name__}:export_in_child", arguments, workspace.scratch, timeout)
    finish(kind, "fp32", answer, source, inputs, workspace)


def export_in_child(
    kind: str, model: dict[str, Any], data: dict[str, Any], code: str, folder: str
) -> dict[str, Any]:
    """The part of `export` that needs torch and a converter."""
    from ..models.build import positional
    from . import modelfiles

    source = from_job(model)
    network = modelfiles.load(source, from_job(data), Path(code), "model")
    signature = source.signature
    if signature is None:
        raise TypeError("an artefact of kind `model` has a signature")
    module = positional(network, [spec.name for spec in signature.inputs]).eval()
    written = plugins.exporter(kind).export(module, signature, Path(folder))
    return written.to_json()


def finish(
    kind: str,
    precision: str,
    answer: Mapping[str, Any],
    source: str,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """See that the files in `workspace.out` answer like the model of `source`; describe them.

    Raises:
        ParityError: they do not.
    """
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
    draft = drafted(kind, precision, workspace.out, written)
    with plugins.target(CHECK_TARGET).open(draft, threads=1) as session:
        outputs = session.run(samples)
    result = parity.compare(name, precision, {written.outputs[0].name: reference}, outputs)
    (workspace.out / "parity.json").write_text(json.dumps(result.to_json(), sort_keys=True))


def drafted(kind: str, precision: str, folder: Path, signature: Signature) -> Artifact:
    """Files that are no artefact yet, so that a target can run them."""
    files = {p.relative_to(folder).as_posix(): "" for p in folder.rglob("*") if p.is_file()}
    return Artifact(kind, precision, folder, files, signature, "", "")


def to_job(artifact: Artifact) -> dict[str, Any]:
    """An artefact as JSON, for a child's job."""
    signature = artifact.signature.to_json() if artifact.signature else None
    return {
        **asdict(replace(artifact, signature=None)),
        "root": str(artifact.root),
        "signature": signature,
    }


def from_job(data: dict[str, Any]) -> Artifact:
    """The artefact that `to_job` was given."""
    signature = Signature.from_json(data["signature"]) if data["signature"] else None
    return Artifact(**{**data, "root": Path(data["root"]), "signature": signature})
