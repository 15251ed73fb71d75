"""Stages `distill` and `baseline`: the same student, the same epochs, two methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import plugins
from . import modelfiles
from .training import loop_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from ..config import Config
    from ..contracts import Artifact, Workspace
    from ..training.signals import Teacher


def run(
    method_name: str,
    options: Mapping[str, Any],
    config: Config,
    root: Path,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Train the student by a method and keep the epoch that is best on the validation split.

    Raises:
        ModelError: the student does not fit the data, or shares a part with the teacher.
        TrainingError: the loss is not finite.
    """
    import torch

    from ..training.loop import Loop
    from ..training.tensors import load_split, read_about

    data = inputs["data"]
    spec = modelfiles.model_settings(config.student.model, config.student.options, root)
    kind = plugins.method(method_name)
    method = kind(kind.Options.model_validate(dict(options)))
    torch.manual_seed(config.train.seed)  # the same first weights for every method
    student = modelfiles.build(spec, read_about(data.root), root, "student")
    loop = Loop(
        method,
        student,
        _teacher(inputs, root, student) if method.needs.teacher else None,
        load_split(data.root, "train"),
        load_split(data.root, "validation"),
        loop_settings(config.distill, config),
        workspace.scratch,
        workspace.progress,
    )
    result = loop.fit()
    extra = {"method": method_name, "best_epoch": result.best + 1}
    modelfiles.save(workspace, result.student, spec, data, result.history, extra)


def _teacher(
    inputs: Mapping[str, Artifact], root: Path, student: nn.Module
) -> Callable[[torch.device], Teacher]:
    from ..training.signals import LiveTeacher, check_apart

    model = modelfiles.load(inputs["teacher"], inputs["data"], root, "teacher")
    check_apart(model, student)
    return lambda device: LiveTeacher(model, device)
