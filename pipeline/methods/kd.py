"""Knowledge distillation.

Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the Knowledge in a Neural Network", 2015,
arXiv:1503.02531.

    L = (1 - a) CE(softmax(z_S), y) + a T^2 KL(softmax(z_T / T) || softmax(z_S / T))

Both terms are means over the batch. T^2 keeps the gradient of the soft term at the same scale for
every temperature. Departure: none in the loss; the defaults (T = 4, a = 0.9) are the convention of
the CIFAR-100 literature, not the paper's.

Variants, each one option:

* `standardize`: both logits are z-scored per sample before the temperature. Shangquan Sun, Wenqi
  Ren, Jingzhi Li, Rui Wang, Xiaochun Cao, "Logit Standardization in Knowledge Distillation", 2024,
  arXiv:2403.01427. Their released commands use T = 2 and weights 0.1 and 9 for labels and teacher;
  ours stay 1 - a and a. Departure: the standard deviation is divided by C, and kept from zero.
* `hard`: the teacher's arg-max is the label, `a CE(z_S, argmax z_T)`. Hugo Touvron and others,
  "Training data-efficient image transformers & distillation through attention", 2020,
  arXiv:2012.12877, who use a = 0.5. Departure: no distillation token.
* `calibrate`: the teacher's logits are divided by a temperature that is fitted to its validation
  logits (see `calibration`). Departure: an addition of ours. It is fitted to the final teacher,
  once; a target or a checkpoint that another method puts in its place is divided by the same.
* `alpha: 1`: no label is read, so the transfer set may be unlabelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..contracts import Batch, Figure, Method, Needs
from .calibration import ece, fit_temperature, reliability
from .losses import hard_label_loss, soft_divergence, standardize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Study

_BUFFER = "temperature"


class KnowledgeDistillation(Method):
    """Soft targets at a temperature, mixed with the labels."""

    name: ClassVar[str] = "kd"
    summary: ClassVar[str] = "soft targets of the teacher at a temperature, mixed with the labels"
    citation: ClassVar[str] = (
        "Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015"
    )

    takes: ClassVar[frozenset[str]] = frozenset({"target", "weights", "checkpoint", "network"})

    class Options(BaseModel):
        """Options of `kd`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        temperature: float = Field(4.0, gt=0, description="T: softens both; unused when `hard`")
        alpha: float = Field(
            0.9, ge=0, le=1, description="a: weight of the teacher; 0 is `none`, 1 needs no labels"
        )
        standardize: bool = Field(False, description="z-score both logits before the temperature")
        hard: bool = Field(False, description="the teacher's arg-max as label, no soft targets")
        calibrate: bool = Field(
            False, description="first fit a temperature to the teacher's validation logits"
        )

        @model_validator(mode="after")
        def _no_option_undoes_another(self) -> Self:
            if self.hard and (self.standardize or self.calibrate):
                raise ValueError(
                    "hard takes the arg-max alone: leave out standardize and calibrate"
                )
            if self.standardize and self.calibrate:
                raise ValueError("standardize removes the scale that calibrate sets: choose one")
            return self

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.needs = Needs(labels=options.alpha < 1, teacher=options.alpha > 0)

    def helpers(self, study: Study) -> nn.Module | None:
        """Remembers the teacher's temperature, if there is one to fit.

        Raises:
            TrainingError: no temperature fits the teacher's validation logits.
        """
        if not (self.options.calibrate and self.needs.teacher):
            return None
        import torch

        logits, targets = study.teacher_logits("validation"), study.targets("validation")
        helpers = torch.nn.Module()
        # An untrained teacher may be worse than a guess, which no temperature mends.
        fitted = 1.0 if study.rehearsal else fit_temperature(logits, targets)
        helpers.register_buffer(_BUFFER, torch.tensor(fitted))
        return helpers

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        return {} if helpers is None else {"teacher_temperature": _fitted(helpers)}

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        alpha, parts = self.options.alpha, {}
        if self.needs.labels:
            labels = F.cross_entropy(batch.student, batch.targets)
            parts["labels"] = labels if alpha == 0 else (1 - alpha) * labels
        if self.needs.teacher:
            parts["teacher"] = alpha * self._imitation(batch, helpers)
        return parts

    def _imitation(self, batch: Batch, helpers: nn.Module | None) -> Tensor:
        """How far the student is from the teacher, weighted by sample."""
        student, teacher, options = batch.student, batch.teacher, self.options
        assert teacher is not None, "the loop gives what `needs` asks for"
        if options.hard:
            return hard_label_loss(student, teacher, batch.weights)
        if helpers is not None:
            teacher = teacher / helpers.get_buffer(_BUFFER)
        if options.standardize:
            student, teacher = standardize(student), standardize(teacher)
        return soft_divergence(student, teacher, options.temperature, batch.weights)

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        """With `calibrate`: confidence against accuracy of the teacher, before and after."""
        if helpers is None:
            return ()
        logits, targets = study.teacher_logits("validation"), study.targets("validation")
        series = {"perfectly calibrated": ([0.0, 1.0], [0.0, 1.0])}
        for name, temperature in (("as it is", 1.0), ("calibrated", _fitted(helpers))):
            scaled = logits / temperature
            confidence, accuracy, _ = reliability(scaled, targets)
            label = f"{name}: T = {temperature:.2f}, ECE {ece(scaled, targets):.3f}"
            series[label] = (confidence.tolist(), accuracy.tolist())
        note = "Below the diagonal the teacher is surer than it is right (validation split)."
        return (Figure("Teacher's calibration", "confidence", "accuracy", series, note),)


def _fitted(helpers: nn.Module) -> float:
    return float(helpers.get_buffer(_BUFFER))
