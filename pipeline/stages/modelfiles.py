"""What an artefact of kind `model` holds, shared by the teacher, the baseline and the student.

    model.json            how to build it, its size, and its accuracy
    weights.safetensors   of the best epoch; or teacher.onnx, a whole model
    history.json          one record per epoch (empty for loaded weights)
    outputs/*.npy         its logits `(N, C)` on the validation and the test split
    checkpoints/*.safetensors   of the epochs that were asked to be kept

Whoever compares models reads their logits, and needs neither the network nor torch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .data import signature
from .keys import code_digests

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from ..contracts import Artifact, Workspace

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
    import torch

    from ..models.build import build_model, check_model

    shapes = {s["name"]: tuple(s["shape"][1:]) for s in about["inputs"]}
    classes = len(about["labels"])
    dtypes = {s["name"]: getattr(torch, s["dtype"]) for s in about["inputs"]}
    example = {name: torch.zeros((2, *shape), dtype=dtypes[name]) for name, shape in shapes.items()}
    model = build_model(spec, classes, shapes, root)
    try:
        check_model(model, example, classes)
    except ModelError as error:
        hint = error.hint or _CALLED
        raise ModelError(f"{role} {spec['model']!r}: {error.message}", hint) from error
    return model


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

    from ..models.onnxteacher import OnnxTeacher
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
    if not isinstance(model, OnnxTeacher):  # that one is a file already
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


def load(
    artifact: Artifact, data: Artifact, root: Path, role: str, weights: str = WEIGHTS
) -> nn.Module:
    """Build the model of an artefact and fill in its weights; in eval mode."""
    from ..models.onnxteacher import FILE, OnnxTeacher
    from ..models.weights import load_weights
    from ..training.tensors import read_about

    if (artifact.root / FILE).exists():
        return OnnxTeacher(artifact.root / FILE).eval()
    note = json.loads((artifact.root / "model.json").read_text())
    model = build(note["spec"], read_about(data.root), root, role)
    load_weights(model, artifact.root / weights)
    return model.eval()
