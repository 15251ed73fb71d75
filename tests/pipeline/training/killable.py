"""A training that a test can kill: `python killable.py SCRATCH MODEL OPTIMIZER STOP`.

At step STOP it prints a line and waits. The test also calls `make_loop` itself.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipeline/threads.py does, before torch

import torch

from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.training.cache import CacheSettings
from edgedistill.pipeline.training.loop import Loop, LoopSettings
from edgedistill.pipeline.training.signals import TeacherSource
from edgedistill.pipeline.training.tensors import SplitTensors

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE, CLASSES, EPOCHS, STEPS = (1, 8, 8), 3, 3, 4  # steps of one epoch
OPTIONS = {
    "mlp": {"width": 16, "dropout": 0.3}, "dscnn": {"width": 4}, "resnet8": {"width": 4},
    "transformer": {"width": 8, "heads": 2, "depth": 1, "dropout": 0.2},
}  # fmt: skip


def network(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    spec = {"model": name, "options": OPTIONS[name]}
    return build_model(spec, CLASSES, {"image": SHAPE}, Path())


def samples(count: int, seed: int) -> SplitTensors:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn((count, *SHAPE), generator=random)
    return SplitTensors({"image": images}, torch.randint(0, CLASSES, (count,), generator=random))


def make_loop(
    scratch: Path, model: str, optimizer: str, progress: Callable[[int, int, str], None]
) -> Loop:
    """A training by `kd` whose every random part matters: dropout, order, views, stored signals."""
    scratch.mkdir(exist_ok=True)
    settings = LoopSettings(
        epochs=EPOCHS, batch_size=16, optimizer=optimizer, lr=0.02, weight_decay=1e-3,
        schedule="cosine", warmup=0.2, seed=5, shift=1, flip=True, devices="cpu",
    )  # fmt: skip
    method = KnowledgeDistillation(KnowledgeDistillation.Options(alpha=0.5))
    teacher = network("resnet8", 1)
    cache = CacheSettings(scratch / "signals", 1e9)
    return Loop(
        method, network(model, 0), TeacherSource(lambda who: teacher, cache=cache), samples(64, 2),
        samples(32, 3), settings, scratch, progress,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the test: sums of floats depend on it

    def wait(done: int, total: int, note: str) -> None:
        if done == int(sys.argv[4]):
            print("ready", flush=True)
            time.sleep(600)

    make_loop(Path(sys.argv[1]), sys.argv[2], sys.argv[3], wait).fit()
