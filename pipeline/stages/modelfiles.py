"""What an artefact of kind `model` holds, shared by the teacher, the baseline and the student.

    model.json            how to build it, its size, and its accuracy
    weights.safetensors   of the best epoch; or a whole model that is no torch module: teacher.onnx,
                          teacher.keras, teacher.savedmodel/, teacher.tflite
    history.json          one record per epoch (empty for loaded weights)
    outputs/*.npy         its logits `(N, C)` on the validation and the test split
    checkpoints/*.safetensors   of the epochs that were asked to be kept

Whoever compares models reads their logits, and needs neither the network nor torch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..models.foreign import kept_in
from .data import signature
from .keys import code_digests

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from ..config import TeacherSection
    from ..contracts import Artifact, Workspace
    from ..models.foreignteacher import ForeignTeacher

WEIGHTS = "weights.safetensors"
_CALLED = (
    "compare its forward() with the shapes of the data: a single input is passed by position,"
    " several by keyword, under their names"
)


def model_settings(model: str, options: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """What of a model's section belongs in a key; user code by its content."""
    code = {"code": code_digests(model, root)} if ":" in model else {}
    return {"model": model, "options": dict(options), **code}


def build(spec: Mapping[str, Any], about: Mapping[str, Any], root: Path, role: str) -> nn.Module:
    """Build a model for a data artefact and probe that it gives `(N, classes)` logits.

    Args:
        spec: from `model_settings`.
        about: what data.json says.
        root: folder of the config, for user code.
        role: `teacher` or `student`, for messages.

    Raises:
        ModelError: it cannot be built, or its output does not fit the data.
    """
    from ..models.build import build_model

    shapes = {s["name"]: tuple(s["shape"][1:]) for s in about["inputs"]}
    model = build_model(spec, len(about["labels"]), shapes, root)
    _probe(model, about, f"{role} {spec['model']!r}", _CALLED)
    return model


def open_foreign(section: TeacherSection, root: Path, about: Mapping[str, Any]) -> ForeignTeacher:
    """Open the config's teacher that is no torch module, and probe it like any other.

    Raises:
        MissingDependency: its library is not installed.
        ModelError: it cannot be read, or does not fit the data.
    """
    from ..models.foreign import FOREIGN

    if section.foreign is None:
        raise TypeError("the teacher of this config is a torch module")
    key, file = section.foreign
    teacher_class = FOREIGN[key].teacher_class()
    teacher = teacher_class(root / file, signature(about), section.layout)
    _probe(teacher, about, f"teacher {file.name!r}", "give it the data's shapes")
    return teacher


def _probe(model: nn.Module, about: Mapping[str, Any], name: str, hint: str) -> None:
    """See that it gives `(N, classes)` logits for two samples of zeros."""
    from ..models.build import check_model

    try:
        check_model(model, _example(about), len(about["labels"]))
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}", error.hint or hint) from error


def _example(about: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    return {
        spec["name"]: torch.zeros((2, *spec["shape"][1:]), dtype=getattr(torch, spec["dtype"]))
        for spec in about["inputs"]
    }


def save(
    workspace: Workspace,
    model: nn.Module,
    spec: Mapping[str, Any],
    data: Artifact,
    history: list[dict[str, Any]],
    extra: Mapping[str, Any],
) -> float:
    """Write a model artefact and return its validation accuracy."""
    import numpy as np
    import torch

    from ..models.foreignteacher import ForeignTeacher
    from ..models.weights import save_weights
    from ..training.loop import Trainable, predict
    from ..training.tensors import load_split, read_about

    about, out = read_about(data.root), workspace.out
    (out / "outputs").mkdir()
    accuracy: dict[str, float] = {}
    for name in ("validation", "test"):
        split = load_split(data.root, name)
        logits = predict(Trainable(model), split, torch.device("cpu"))
        np.save(out / "outputs" / f"{name}.npy", logits.numpy())
        accuracy[name] = float((logits.argmax(1) == split.targets).float().mean())
    if not isinstance(model, ForeignTeacher):  # that one is a file already
        save_weights(model, out / WEIGHTS)
    note = {
        "spec": dict(spec),
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": accuracy,
        **extra,
    }
    (out / "model.json").write_text(json.dumps(note, indent=1, sort_keys=True))
    untimed = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
    (out / "history.json").write_text(json.dumps(untimed, indent=1))  # same work, same digest
    workspace.describe.kind = "model"
    workspace.describe.precision = "fp32"
    workspace.describe.signature = signature(about)
    return accuracy["validation"]


def load_foreign(artifact: Artifact, about: Mapping[str, Any]) -> ForeignTeacher:
    """The teacher of an artefact that is no torch module."""
    kind = kept_in(artifact.root)
    if kind is None:
        raise TypeError(f"{artifact.root} holds no foreign teacher")
    note = json.loads((artifact.root / "model.json").read_text())
    path = artifact.root / kind.file
    return kind.teacher_class()(path, signature(about), note["spec"]["layout"])


def load(
    artifact: Artifact, data: Artifact, root: Path, role: str, weights: str = WEIGHTS
) -> nn.Module:
    """Build the model of an artefact and fill in its weights; in eval mode."""
    from ..models.weights import load_weights
    from ..training.tensors import read_about

    note, about = json.loads((artifact.root / "model.json").read_text()), read_about(data.root)
    if kept_in(artifact.root) is not None:
        return load_foreign(artifact, about).eval()
    model = build(note["spec"], about, root, role)
    load_weights(model, artifact.root / weights)
    return model.eval()


def load_folded(artifact: Artifact, data: Artifact, root: Path) -> nn.Module:
    """A model that was saved with its batch norms folded; in eval mode."""
    from ..models.weights import load_weights
    from ..quantization.folding import fold_batch_norm
    from ..training.tensors import read_about

    note = json.loads((artifact.root / "model.json").read_text())
    model = fold_batch_norm(build(note["spec"], read_about(data.root), root, "student"))
    load_weights(model, artifact.root / WEIGHTS)
    return model.eval()
