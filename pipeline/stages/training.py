"""Config sections -> settings of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config, TrainingKeys
    from ..training.loop import LoopSettings

LIBRARIES = ("torch", "lightning-fabric")


TEACHER_SEED = 104_729  # apart: a twin of the student would be the same network, lesson by lesson


def seed(section: TrainingKeys, config: Config) -> int:
    """Of a section's training: first weights, order and views."""
    apart = TEACHER_SEED if section is config.teacher else 0
    return config.train.seed + apart


def replays(section: TrainingKeys, config: Config) -> int:
    """Views per sample that a training is shown in turn; 0 draws from all. A teacher sees all."""
    train = config.train
    return train.replays if train.cache == "replay" and section is not config.teacher else 0


def loop_settings(section: TrainingKeys, config: Config) -> LoopSettings:
    """How a section's training runs."""
    from ..training.loop import LoopSettings

    return LoopSettings(
        epochs=getattr(section, "epochs"),  # noqa: B009 - each section has its own default
        batch_size=section.batch_size,
        optimizer=section.optimizer,
        lr=section.lr,
        weight_decay=section.weight_decay,
        schedule=section.schedule,
        warmup=section.warmup,
        seed=seed(section, config),
        shift=config.data.augment.shift,
        flip=config.data.augment.flip,
        devices=config.train.devices,
        precision=config.train.precision,
        replays=replays(section, config),
    )
