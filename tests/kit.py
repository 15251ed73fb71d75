"""Small real networks and data that the tests of the training loop share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.models.build import build_model
from edgedistill.pipeline.training.cache import CacheSettings
from edgedistill.pipeline.training.loop import Loop, LoopSettings
from edgedistill.pipeline.training.signals import TeacherSource
from edgedistill.pipeline.training.tensors import SplitTensors

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE, CLASSES = (1, 8, 8), 3
SETTINGS = {
    "epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-4,
    "schedule": "cosine", "warmup": 0.1, "seed": 0, "devices": "cpu",
}  # fmt: skip


class Kit:
    """Makes models, splits, methods and loops of three classes of noisy 8x8 images."""

    classes, shape = CLASSES, SHAPE

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loops = 0

    def split(self, count: int = 56, seed: int = 0) -> SplitTensors:
        random = torch.Generator().manual_seed(seed)
        targets = torch.randint(0, CLASSES, (count,), generator=random)
        shapes = torch.randn((CLASSES, *SHAPE), generator=torch.Generator().manual_seed(99))
        noise = torch.randn((count, *SHAPE), generator=random)
        return SplitTensors({"image": shapes[targets] + noise}, targets)

    def model(self, name: str = "dscnn", seed: int = 0, **options: object) -> torch.nn.Module:
        torch.manual_seed(seed)
        options = options or {"mlp": {"width": 16, "dropout": 0.3}}.get(name, {"width": 4})
        return build_model({"model": name, "options": options}, CLASSES, {"image": SHAPE}, Path())

    def teacher(self) -> torch.nn.Module:
        """A network with batch norm whose answers are far from uniform."""
        model = self.model("resnet8", seed=7)
        for parameter in model[-1].parameters():
            parameter.data *= 5
        return model

    def source(self, teacher, stored=False, curve=(), checkpoints=None, **cache) -> TeacherSource:
        """A teacher, live or stored, and perhaps checkpoints of it by epoch."""
        models = {None: teacher, **(checkpoints or {})}
        settings = CacheSettings(self.root / "signals", 1e9, **cache) if stored else None
        return TeacherSource(
            models.__getitem__, tuple(curve), lambda who: f"teacher {who}", settings
        )

    def kd(self, **options: object) -> KnowledgeDistillation:
        return KnowledgeDistillation(KnowledgeDistillation.Options(**options))

    def none(self, **options: object) -> LabelsOnly:
        return LabelsOnly(LabelsOnly.Options(**options))

    def loop(
        self, method=None, student=None, teacher=None, train=None, validation=None, scratch=None,
        progress=lambda done, total, note: None, on_epoch=lambda epoch, student: None, **changes,
    ) -> Loop:  # fmt: skip
        """A loop; without a scratch folder it gets a fresh one."""
        self.loops += 1
        scratch = scratch or self.root / f"scratch{self.loops}"
        scratch.mkdir(exist_ok=True)
        if teacher is not None and not isinstance(teacher, TeacherSource):
            teacher = self.source(teacher)
        return Loop(
            method or self.none(), student or self.model(), teacher, train or self.split(),
            validation or self.split(30, seed=1), LoopSettings(**{**SETTINGS, **changes}),
            scratch, progress, on_epoch,
        )  # fmt: skip

    @staticmethod
    def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return copy.deepcopy(model.state_dict())

    @staticmethod
    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        """Whether two state dicts have the same keys and the same bits."""
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    @staticmethod
    def untimed(history: list[dict]) -> list[dict]:
        return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These networks are too small for two, which only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)
