"""The teacher's artefact as the loop's source of teachers."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..contracts import CurvePoint
from ..errors import ModelError
from ..models.foreign import kept_in
from ..store import canonical
from . import modelfiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from ..config import Config
    from ..contracts import Artifact, Needs, Workspace
    from ..training.cache import CacheSettings
    from ..training.signals import TeacherSource

_KEPT = "checkpoints/epoch-{:04d}.safetensors"


def make(
    config: Config,
    root: Path,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
    student: nn.Module,
    needs: Needs,
) -> TeacherSource:
    """The final teacher, its checkpoints, its curve, and where its signals are stored.

    Raises:
        ModelError: its logits are asked for and are no better than guessing through our own
            pre-processing; or, when a teacher is loaded, it shares a part with the student.
    """
    from ..training.signals import TeacherSource, check_apart

    teacher, data = inputs["teacher"], inputs["data"]
    if needs.teacher:
        _check_better_than_guessing(teacher, data)
    spec = json.loads((teacher.root / "model.json").read_text())["spec"]

    def load(epoch: int | None) -> nn.Module:
        weights = modelfiles.WEIGHTS if epoch is None else _kept(epoch)
        model = modelfiles.load(teacher, data, root, "teacher", weights)
        check_apart(model, student)
        return model

    def key(epoch: int | None) -> str:
        names = _final(teacher) if epoch is None else [_kept(epoch)]
        weights = [teacher.files[name] for name in names if name in teacher.files]
        known = {"spec": spec, "weights": weights, "data": data.digest}
        return hashlib.sha256(canonical(known)).hexdigest()

    return TeacherSource(load, _curve(teacher), key, cache_settings(config, workspace))


def _check_better_than_guessing(teacher: Artifact, data: Artifact) -> None:
    import numpy as np

    from ..evaluation.statistics import wilson

    note = json.loads((teacher.root / "model.json").read_text())
    accuracy = float(note["accuracy"]["validation"])
    targets = np.load(data.root / "validation" / "targets.npy")
    majority = float(np.bincount(targets).max() / len(targets))
    low, _ = wilson(round(accuracy * len(targets)), len(targets))
    if low <= majority:
        labels = json.loads((data.root / "data.json").read_text())["labels"]
        raise ModelError(
            f"the teacher scores {accuracy:.1%} on the {len(targets)} samples of the validation"
            f" split; always naming the most frequent of the {len(labels)} classes scores"
            f" {majority:.1%}",
            "check its pre-processing, the order of its labels, or train it for longer",
        )


def _final(teacher: Artifact) -> list[str]:
    """The files that the final teacher is made of."""
    kind = kept_in(teacher.root)
    if kind is None:
        return [modelfiles.WEIGHTS]
    return [n for n in sorted(teacher.files) if n == kind.file or n.startswith(f"{kind.file}/")]


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


def cache_settings(config: Config, workspace: Workspace) -> CacheSettings | None:
    """Where and how a teacher's signals are stored; None where they are not."""
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
