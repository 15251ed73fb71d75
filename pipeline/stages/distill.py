"""Stages `distill` and `baseline`: the same student, the same epochs, two methods."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..methods.composed import Composed
from . import modelfiles, teachersource
from .training import loop_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..config import Config
    from ..contracts import Artifact, Figure, Method, Workspace
    from ..training.loop import FitResult


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method by name, with its options and those that it is composed with.

    Attributes:
        name: of the method.
        options: its own keys; missing ones have their defaults.
        also: the same of every method under `with`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[MethodSpec, ...] = ()

    @classmethod
    def of(cls, config: Config) -> MethodSpec:
        """What the `distill` section asks for."""
        section = config.distill
        also = tuple(cls(other.method, other.options) for other in section.also)
        return cls(section.method, section.options, also)

    def build(self) -> Method:
        """The method, ready to use."""
        kind = plugins.method(self.name)
        method = kind(kind.Options.model_validate(dict(self.options)))
        return Composed(method, [other.build() for other in self.also]) if self.also else method

    def settings(self) -> dict[str, Any]:
        """What belongs in a key: every option, given or not."""
        options = plugins.method(self.name).Options.model_validate(dict(self.options))
        also = {"with": [other.settings() for other in self.also]} if self.also else {}
        return {"method": self.name, "options": options.model_dump(mode="json"), **also}


def run(
    spec: MethodSpec,
    config: Config,
    root: Path,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Train the student by a method and keep the epoch that is best on the validation split.

    Raises:
        ModelError: the student does not fit the data, or shares a part with the teacher.
        TrainingError: the models do not offer what the method needs; the loss is not finite.
    """
    import torch

    from ..training.loop import Loop
    from ..training.tensors import load_split, read_about

    data, method = inputs["data"], spec.build()
    taught = uses_teacher(method)
    settings = modelfiles.model_settings(config.student.model, config.student.options, root)
    torch.manual_seed(config.train.seed)  # the same first weights for every method
    student = modelfiles.build(settings, read_about(data.root), root, "student")
    loop = Loop(
        method,
        student,
        teachersource.make(config, root, inputs, workspace, student, method.needs)
        if taught
        else None,
        load_split(data.root, "train"),
        load_split(data.root, "validation"),
        loop_settings(config.distill, config),
        workspace.scratch,
        workspace.progress,
    )
    _save(loop.fit(), spec, settings, data, workspace)


def uses_teacher(method: Method) -> bool:
    """Whether a method asks a teacher for anything."""
    needs = method.needs
    return needs.teacher or needs.checkpoints or bool(needs.teacher_taps)


def _save(
    result: FitResult,
    spec: MethodSpec,
    settings: Mapping[str, Any],
    data: Artifact,
    workspace: Workspace,
) -> None:
    also = {"with": [other.name for other in spec.also]} if spec.also else {}
    extra = {"method": spec.name, **also, "best_epoch": result.best + 1}
    modelfiles.save(workspace, result.student, settings, data, result.history, extra)
    if result.figures:
        figures = [_plain(figure) for figure in result.figures]
        (workspace.out / "figures.json").write_text(json.dumps(figures, indent=1))


def _plain(figure: Figure) -> dict[str, Any]:
    """A figure as JSON holds it."""
    lines = {n: [list(map(float, xy)) for xy in line] for n, line in figure.series.items()}
    return {**asdict(replace(figure, series={})), "series": lines}
