"""Config sections -> settings of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config, TrainingKeys
    from ..training.loop import LoopSettings

LIBRARIES = ("torch", "lightning-fabric")


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
        seed=config.train.seed,
        shift=config.data.augment.shift,
        flip=config.data.augment.flip,
        devices=config.train.devices,
        precision=config.train.precision,
        replays=config.train.replays if config.train.cache == "replay" else 0,
    )
