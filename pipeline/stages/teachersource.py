"""The teacher's artefact as the loop's source of teachers."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..contracts import CurvePoint
from ..store import canonical
from . import modelfiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from ..config import Config
    from ..contracts import Artifact, Workspace
    from ..training.cache import CacheSettings
    from ..training.signals import TeacherSource

_FINAL = (modelfiles.WEIGHTS, "teacher.onnx")
_KEPT = "checkpoints/epoch-{:04d}.safetensors"


def make(
    config: Config,
    root: Path,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
    student: nn.Module,
) -> TeacherSource:
    """The final teacher, its checkpoints, its curve, and where its signals are stored.

    Raises:
        ModelError: when a teacher is loaded that shares a part with the student.
    """
    from ..training.signals import TeacherSource, check_apart

    teacher, data = inputs["teacher"], inputs["data"]
    spec = json.loads((teacher.root / "model.json").read_text())["spec"]

    def load(epoch: int | None) -> nn.Module:
        weights = modelfiles.WEIGHTS if epoch is None else _kept(epoch)
        model = modelfiles.load(teacher, data, root, "teacher", weights)
        check_apart(model, student)
        return model

    def key(epoch: int | None) -> str:
        files = [_kept(epoch)] if epoch is not None else _FINAL
        weights = [teacher.files[name] for name in files if name in teacher.files]
        known = {"spec": spec, "weights": weights, "data": data.digest}
        return hashlib.sha256(canonical(known)).hexdigest()

    return TeacherSource(load, _curve(teacher), key, _cache(config, workspace))


def _kept(epoch: int) -> str:
    return _KEPT.format(epoch)


def _curve(teacher: Artifact) -> tuple[CurvePoint, ...]:
    history: list[dict[str, Any]] = json.loads((teacher.root / "history.json").read_text())
    return tuple(
        CurvePoint(
            record["epoch"],
            record["validation_accuracy"],
            record["validation_loss"],
            _kept(record["epoch"]) in teacher.files,
        )
        for record in history
    )


def _cache(config: Config, workspace: Workspace) -> CacheSettings | None:
    from ..training.cache import CacheSettings

    train = config.train
    if train.cache == "off" or workspace.shared is None:
        return None
    return CacheSettings(
        folder=workspace.shared / "signals",
        limit=train.cache_limit,
        top=train.top if train.cache == "replay" else 0,
        tolerance=train.cache_tolerance,
        tell=lambda note: workspace.progress(0, 1, note),
    )
