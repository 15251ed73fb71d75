"""The checkpoint after each epoch, from which a killed training goes on bit-identical."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from .loop import Loop

FILE = "training.pt"


def save(scratch: Path, loop: Loop) -> None:
    """Write weights, optimiser, schedule and progress, atomically."""
    state = loop.state
    content = {
        "trainable": loop.trainable.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "schedule": loop.schedule.state_dict(),
        "epoch": state.epoch,
        "history": state.history,
        "best": state.best,
        "best_weights": state.best_weights,
    }
    part = scratch / f".{FILE}.part"
    stream = io.BytesIO()
    torch.save(content, stream)
    part.write_bytes(stream.getbuffer())
    part.replace(scratch / FILE)


def restore(scratch: Path, loop: Loop) -> None:
    """Put a loop where its checkpoint stands; without one, leave it at the start."""
    file = scratch / FILE
    if not file.exists():
        return
    content = torch.load(file, map_location=loop.fabric.device, weights_only=True)
    loop.trainable.load_state_dict(content["trainable"])
    loop.optimizer.load_state_dict(content["optimizer"])
    loop.schedule.load_state_dict(content["schedule"])
    state = loop.state
    state.epoch, state.history = content["epoch"], content["history"]
    state.best, state.best_weights = content["best"], content["best_weights"]
