"""A rehearsal of the distillation before the teacher is trained: what does not fit shows now.

The method meets the student and an untrained teacher on a few samples: layers that do not exist,
features whose shapes do not fit, and networks that it cannot change are told before hours of
training, and not after.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts import CurvePoint
from . import modelfiles, teachersource
from .distill import MethodSpec, uses_teacher
from .training import loop_settings

if TYPE_CHECKING:
    from torch import nn

    from ..config import Config
    from ..contracts import Artifact, Workspace
    from ..training.cache import CacheSettings
    from ..training.loop import Loop
    from ..training.signals import TeacherSource
    from ..training.tensors import SplitTensors

SAMPLES = 64


def rehearse(config: Config, root: Path, data: Artifact, workspace: Workspace) -> None:
    """Set the distillation up, without a step of it.

    Raises:
        ModelError: the student or the teacher does not fit the data, or lacks a layer.
        TrainingError: the two do not offer what the method needs, or its signals could not be
            stored.
    """
    from ..training.loop import Loop
    from ..training.tensors import load_split, read_about

    about, method = read_about(data.root), MethodSpec.of(config).build()
    student = modelfiles.build(_spec(config, root, "student"), about, root, "student")
    if config.teacher.foreign is not None:
        teacher: nn.Module = modelfiles.open_foreign(config.teacher, root, about)
    else:
        teacher = modelfiles.build(_spec(config, root, "teacher"), about, root, "teacher")
    train, validation = (_few(load_split(data.root, name)) for name in ("train", "validation"))
    settings = replace(
        loop_settings(config.distill, config), devices="cpu", precision="32-true", rehearsal=True
    )
    source = _source(config, teacher) if uses_teacher(method) else None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loop = Loop(method, student, source, train, validation, settings, folder, lambda *_: None)
        method.begin_epoch(loop.study, loop.trainable.helpers)
    whole = load_split(data.root, "train")
    _check_room(loop, whole, teachersource.cache_settings(config, workspace))


def _check_room(loop: Loop, train: SplitTensors, settings: CacheSettings | None) -> None:
    from ..training.stored import StoredTeacher

    needs = loop.method.needs
    if settings is None or loop.teachers is None or not (needs.teacher or needs.teacher_taps):
        return
    quiet = replace(settings, tell=lambda note: None)
    StoredTeacher.check_room(loop.teachers.live(), loop.views_of(train), quiet, needs.teacher)


def _spec(config: Config, root: Path, role: str) -> dict[str, object]:
    section = config.student if role == "student" else config.teacher
    return modelfiles.model_settings(section.model, section.options, root)


def _few(split: SplitTensors) -> SplitTensors:
    """Some samples, spread over the split, which may be sorted by class."""
    step = max(1, len(split) // SAMPLES)
    inputs = {name: value[::step][:SAMPLES] for name, value in split.inputs.items()}
    return replace(split, inputs=inputs, targets=split.targets[::step][:SAMPLES])


def _source(config: Config, teacher: nn.Module) -> TeacherSource:
    """The untrained teacher, at every epoch of a training that it will have."""
    from ..training.signals import TeacherSource

    section = config.teacher
    epochs = range(1, section.epochs + 1) if section.loaded_by is None else ()
    every = section.checkpoints
    curve = (CurvePoint(e, e / section.epochs, 1.0, bool(every and e % every == 0)) for e in epochs)
    return TeacherSource(lambda epoch: teacher, tuple(curve))
