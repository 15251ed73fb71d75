"""Stage `teacher`: train it, or load its weights, and see that it knows the task."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, cast

from ..errors import ModelError
from . import modelfiles
from .rehearsal import rehearse
from .training import loop_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from ..config import Config
    from ..contracts import Artifact, Method, Workspace


def run(config: Config, root: Path, inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    """Make the teacher.

    Raises:
        ModelError: teacher or student do not fit the data, the weights cannot be loaded, or the
            teacher is no better than guessing through our own pre-processing.
        TrainingError: the loss is not finite.
    """
    import torch

    from ..training.tensors import read_about

    section, data = config.teacher, inputs["data"]
    about = read_about(data.root)
    rehearse(config, root, data)  # a misfit shows now, not after hours
    if section.onnx is not None:
        _take_over(root / section.onnx, data, workspace)
        return
    spec = modelfiles.model_settings(section.model, section.options, root)
    torch.manual_seed(config.train.seed)
    model = modelfiles.build(spec, about, root, "teacher")
    history: list[dict[str, Any]] = []
    if section.weights is not None:
        from ..models.weights import load_weights

        load_weights(model, root / section.weights)
    else:
        model, history = _train(model, config, data, workspace)
    _keep(model, spec, history, {}, data, workspace)


def _keep(
    model: nn.Module,
    spec: Mapping[str, Any],
    history: list[dict[str, Any]],
    extra: Mapping[str, Any],
    data: Artifact,
    workspace: Workspace,
) -> None:
    """Save the teacher, and see that it knows the task."""
    accuracy = modelfiles.save(workspace, model, spec, data, history, extra)
    _check_logits(workspace.out)
    _check_better_than_guessing(accuracy, data)


def _take_over(file: Path, data: Artifact, workspace: Workspace) -> None:
    """An ONNX file as the teacher."""
    from ..models.onnxteacher import FILE, OnnxTeacher, take_over
    from ..training.tensors import read_about
    from .data import signature

    named = signature(read_about(data.root))
    names = {side: [spec.name for spec in getattr(named, side)] for side in ("inputs", "outputs")}
    weights = take_over(file, workspace.out / FILE, names)
    teacher = OnnxTeacher(workspace.out / FILE)
    _keep(teacher, {"model": file.name}, [], {"parameters": weights}, data, workspace)


def _train(
    model: nn.Module, config: Config, data: Artifact, workspace: Workspace
) -> tuple[nn.Module, list[dict[str, Any]]]:
    from ..methods.none import LabelsOnly
    from ..models.weights import save_weights
    from ..training.loop import Loop
    from ..training.tensors import load_split

    kept, every = workspace.scratch / "checkpoints", config.teacher.checkpoints

    def keep(epoch: int, teacher: nn.Module) -> None:
        if every and epoch % every == 0:
            kept.mkdir(exist_ok=True)
            save_weights(teacher, kept / f"epoch-{epoch:04d}.safetensors")

    # mypy does not take the nested class `Options` for the class variable of the protocol.
    method = cast("Method", LabelsOnly(LabelsOnly.Options()))
    loop = Loop(
        method,
        model,
        None,
        load_split(data.root, "train"),
        load_split(data.root, "validation"),
        loop_settings(config.teacher, config),
        workspace.scratch,
        workspace.progress,
        keep,
    )
    result = loop.fit()
    if kept.exists():
        # Copied, not moved: a kill from here on must find them again.
        shutil.copytree(kept, workspace.out / "checkpoints")
    return result.student, result.history


def _check_logits(out: Path) -> None:
    """See that the outputs are logits: a temperature means nothing for probabilities."""
    import numpy as np

    logits = np.load(out / "outputs" / "validation.npy")
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise ModelError(
            "the teacher gives probabilities: each row of its outputs is at least 0 and adds up to"
            " 1; expected logits",
            "take the softmax off its end; where that cannot be done, return its logarithm",
        )


def _check_better_than_guessing(accuracy: float, data: Artifact) -> None:
    import numpy as np

    from ..evaluation.statistics import wilson

    targets = np.load(data.root / "validation" / "targets.npy")
    majority = float(np.bincount(targets).max() / len(targets))
    low, _ = wilson(round(accuracy * len(targets)), len(targets))
    if low <= majority:
        labels = json.loads((data.root / "data.json").read_text())["labels"]
        raise ModelError(
            f"the teacher scores {accuracy:.1%} on the validation split; always naming the most"
            f" frequent of the {len(labels)} classes scores {majority:.1%}",
            "check its pre-processing, the order of its labels, or train it for longer",
        )
