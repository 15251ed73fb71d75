"""Quantization-aware distillation: the student learns from the teacher with int8's rounding on.

The loss is that of knowledge distillation (`methods/kd.py`); what is trained is a fake-quantized
copy of the student (`fakequant.py`), what comes out a plain float network for the formats' own
quantizers. Following Asit Mishra, Debbie Marr, "Apprentice: Using Knowledge Distillation Techniques
To Improve Low-Precision Network Accuracy", 2017, arXiv:1711.05852, and Antonio Polino, Razvan
Pascanu, Dan Alistarh, "Model Compression via Distillation and Quantization", 2018,
arXiv:1802.05668; the rounding is that of Benoit Jacob and others, "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2017, arXiv:1712.05877.

Departure: the ranges of activations are the recent extremes, not their average, since the formats
are calibrated by extremes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..methods.kd import KnowledgeDistillation
from ..training.loop import Loop
from .fakequant import FakeQuantized, prepare, strip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from ..training.loop import LoopSettings
    from ..training.signals import TeacherSource
    from ..training.tensors import SplitTensors


class QuantizationAwareDistillation(KnowledgeDistillation):
    """Knowledge distillation of a fake-quantized student."""

    name: ClassVar[str] = "qad"
    summary: ClassVar[str] = "knowledge distillation with the rounding of int8 in the student"
    citation: ClassVar[str] = (
        "Mishra, Marr, Apprentice: Using Knowledge Distillation Techniques To Improve"
        " Low-Precision Network Accuracy, 2017"
    )

    class Options(KnowledgeDistillation.Options):
        """Options of `qad`: those of `kd`, and one."""

        fake_quantization: bool = Field(
            True, description="round as int8 does; false is `kd`, for comparison"
        )

    def adopt(self, student: nn.Module) -> nn.Module:
        """Raises ModelError: the student has nothing to quantize, or cannot be followed."""
        return prepare(student) if self.options.fake_quantization else student

    def finish(self, network: nn.Module) -> nn.Module:
        return strip(network) if isinstance(network, FakeQuantized) else network


def recover(
    student: nn.Module,
    source: TeacherSource,
    train: SplitTensors,
    validation: SplitTensors,
    settings: LoopSettings,
    scratch: Path,
    progress: Callable[[int, int, str], None],
    options: QuantizationAwareDistillation.Options | None = None,
) -> nn.Module:
    """Train a student until its int8 files answer as it did before.

    Args:
        student: trained; left as it is.
        source: of the teacher.
        train: what is learned from.
        validation: selects the best epoch, by the accuracy with the rounding on.
        settings: a tenth of the student's own learning rate is a good start.
        scratch: where the checkpoint of each epoch lies; a killed training resumes from it.
        progress: called as `progress(done, total, note)`.
        options: of the loss; None for the defaults of `kd`.

    Returns:
        A folded float network of the student's class with its weights on the int8 grid: to be
        exported and quantized, never to be shipped as fp32.

    Raises:
        ModelError: the student cannot be prepared.
        TrainingError: the loss is not finite.
    """
    method = QuantizationAwareDistillation(options or QuantizationAwareDistillation.Options())
    loop = Loop(method, student, source, train, validation, settings, scratch, progress)
    return loop.fit().student
