"""Stage `teacher`: train it, or load its weights, and see that it knows the task."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, cast

from ..errors import ModelError
from ..models.foreign import TAKE_OFF, kept_in
from . import modelfiles
from .rehearsal import rehearse
from .training import loop_settings, seed

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
    rehearse(config, root, data, workspace)  # a misfit shows now, not after hours
    if section.foreign is not None:
        _take_over(config, root, data, workspace)
        return
    spec = modelfiles.model_settings(section.model, section.options, root)
    torch.manual_seed(seed(section, config))
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
    modelfiles.save(workspace, model, spec, data, history, extra)
    kind = kept_in(workspace.out)
    _check_logits(workspace.out, kind.no_softmax if kind else TAKE_OFF)


def _take_over(config: Config, root: Path, data: Artifact, workspace: Workspace) -> None:
    """A file as the teacher; what answers from here on is the kept form of it."""
    from ..training.tensors import read_about

    about = read_about(data.root)
    given = modelfiles.open_foreign(config.teacher, root, about)
    path = workspace.out / given.kind.file
    kept = given.keep(path)
    teacher = type(given)(path, given.data, kept.layout)
    spec = {"model": given.path.name, "layout": kept.layout}
    _keep(teacher, spec, [], {"parameters": kept.parameters}, data, workspace)


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


def _check_logits(out: Path, hint: str) -> None:
    """See that the outputs are logits: a temperature means nothing for probabilities."""
    import numpy as np

    logits = np.load(out / "outputs" / "validation.npy")
    if logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise ModelError(
            "the teacher gives probabilities: each row of its outputs is at least 0 and adds up to"
            " 1; expected logits",
            hint,
        )
