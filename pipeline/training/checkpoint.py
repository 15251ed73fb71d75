"""The checkpoint after each epoch, from which a killed training goes on bit-identical."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import torch

from ..store import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from .loop import Loop

FILE = "training.pt"
_SEAL = 64  # characters of the sha256 that follows the content in the same file


def save(scratch: Path, loop: Loop) -> None:
    """Write weights, optimiser, schedule and progress, atomically.

    Raises:
        StoreError: the disk is full, or the folder may not be written to.
    """
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
    stream = io.BytesIO()
    torch.save(content, stream)
    body = stream.getvalue()
    write_atomic(scratch / FILE, body + _seal(body))


def restore(scratch: Path, loop: Loop) -> None:
    """Put a loop where its checkpoint stands; without a sound one, leave it at the start."""
    content = _read(scratch / FILE, loop.fabric.device)
    if content is None:
        return
    loop.trainable.load_state_dict(content["trainable"])
    loop.optimizer.load_state_dict(content["optimizer"])
    loop.schedule.load_state_dict(content["schedule"])
    state = loop.state
    state.epoch, state.history = content["epoch"], content["history"]
    state.best, state.best_weights = content["best"], content["best_weights"]


def _read(file: Path, device: torch.device) -> dict[str, Any] | None:
    """What a checkpoint holds; None where there is none, or a damaged one."""
    try:
        raw = file.read_bytes()
    except OSError:
        return None
    body = raw[:-_SEAL]
    if _seal(body) != raw[-_SEAL:]:
        return None
    stream = io.BytesIO(body)
    content: dict[str, Any] = torch.load(stream, map_location=device, weights_only=True)
    return content


def _seal(body: bytes) -> bytes:
    """Hex sha256: a changed byte would otherwise be loaded as a wrong weight."""
    return hashlib.sha256(body).hexdigest().encode()
