"""Knowledge distillation.

Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the Knowledge in a Neural Network", 2015,
arXiv:1503.02531.

    L = (1 - a) CE(softmax(z_S), y) + a T^2 KL(softmax(z_T / T) || softmax(z_S / T))

Both terms are means over the batch. T^2 keeps the gradient of the soft term at the same scale for
every temperature. Departure: none in the loss; the defaults (T = 4, a = 0.9) are the convention of
the CIFAR-100 literature, not the paper's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ..contracts import Batch, Needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at a temperature, mean over the batch.

    Args:
        student: logits `(N, C)`.
        teacher: logits `(N, C)`.
        temperature: T > 0.
    """
    import torch.nn.functional as F

    log_p_student = F.log_softmax(student / temperature, dim=1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


class KnowledgeDistillation:
    """Soft targets at a temperature, mixed with the labels."""

    name: ClassVar[str] = "kd"
    summary: ClassVar[str] = "soft targets of the teacher at a temperature, mixed with the labels"
    citation: ClassVar[str] = (
        "Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015"
    )

    class Options(BaseModel):
        """Options of `kd`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        temperature: float = Field(4.0, gt=0, description="T: softens both distributions")
        alpha: float = Field(0.9, ge=0, le=1, description="a: weight of the teacher; 0 is `none`")

    def __init__(self, options: Options) -> None:
        self.options = options
        self.needs = Needs(labels=options.alpha < 1, teacher=options.alpha > 0)

    def helpers(self, student: nn.Module) -> nn.Module | None:
        return None

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        alpha, parts = self.options.alpha, {}
        if self.needs.labels:
            labels = F.cross_entropy(batch.student, batch.targets)
            parts["labels"] = labels if alpha == 0 else (1 - alpha) * labels
        if batch.teacher is not None:
            soft = soft_divergence(batch.student, batch.teacher, self.options.temperature)
            parts["teacher"] = alpha * soft
        return parts

    def finish(self, student: nn.Module) -> nn.Module:
        return student
