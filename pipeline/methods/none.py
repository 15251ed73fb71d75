"""No distillation: the student learns from the labels alone. The baseline of every method."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ..contracts import Batch, Method, Needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class LabelsOnly(Method):
    """Cross-entropy on the labels; also what trains a teacher."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "labels only: the baseline that every method must beat"
    citation: ClassVar[str] = ""
    needs = Needs(labels=True, teacher=False)

    class Options(BaseModel):
        """Options of `none`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        label_smoothing: float = Field(0.0, ge=0, lt=1, description="mass moved to all classes")

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        smoothing = self.options.label_smoothing
        return {"labels": F.cross_entropy(batch.student, batch.targets, label_smoothing=smoothing)}
