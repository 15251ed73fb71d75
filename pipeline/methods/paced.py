"""PACED: distil most from what the student can nearly do.

Yuanda Xu, Hejian Sang, Zhengze Zhou, Ran He, Zhipeng Wang, "PACED: Distillation and On-Policy
Self-Distillation at the Frontier of Student Competence", 2026, arXiv:2603.11178 (v3; v1 is "PACED:
Distillation at the Frontier of Student Competence").

    w(p) = p^alpha (1 - p)^beta,    alpha = beta = 1
    L = mean_i w(p_i) D(teacher, student; x_i)

`p_i` is the rate at which the student passes item `i`: its own answers, compared with the label.
`D` is KL(teacher || student) for a big teacher and a small student ("forward"), or KL(student ||
teacher) ("reverse"); the paper's strongest schedule is forward first, then reverse.

Departure: the paper is about language models, and what it says of the number of rollouts, of how
often `p` is measured anew, of normalisation and of the point of the switch was not available to us.
These are design choices of ours:

- An answer of a classifier is a label drawn from its softmax, so its expected pass rate is the
  probability that it gives to the label. `estimator: prob` takes that: no sampling, no variance.
- `w` is divided by its peak, so that it lies in [0, 1], and never by its mean: where most weights
  are near zero, that makes a few of them enormous.
- `floor` and `warmup_epochs`: an untrained student has p near 0 for much that it could learn, and a
  weight of zero would abandon it. `floor: 0, warmup_epochs: 0` is the kernel as published.
- T = 2 with T^2, as is usual for classifiers; the switch in the middle of the training.

The gradient's signal-to-noise ratio over `p`, whose bell is the paper's reason for the kernel, is
measured at the end and shown in the report: a classifier need not follow it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..contracts import Batch, Method, Needs
from ..errors import TrainingError
from .losses import reverse_divergence, soft_divergence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Figure, Study

UNKNOWN = 0.5  # pass rate of an item that was not looked at yet: its weight is the highest
IDLE = 0.01  # a kernel below it teaches as good as nothing


def beta_kernel(rate: Tensor, alpha: float, beta: float) -> Tensor:
    """`p^alpha (1 - p)^beta` over its peak, which is at `alpha / (alpha + beta)`; 0^0 is 1.

    Args:
        rate: p from 0 to 1, any shape.
        alpha: >= 0; above 0 it makes the kernel zero at p = 0.
        beta: >= 0; above 0 it makes the kernel zero at p = 1.
    """
    peak = alpha**alpha * beta**beta / (alpha + beta) ** (alpha + beta)
    kernel: Tensor = rate**alpha * (1 - rate) ** beta / peak
    return kernel


def gold_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Probability of the label at temperature 1: the pass rate of endlessly many drawn answers.

    Args:
        logits: `(N, C)`.
        targets: labels `(N,)`.
    """
    return logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)


def pass_rate(answers: Tensor, targets: Tensor, smoothing: bool = False) -> Tensor:
    """Share of the answers that are right, `(N,)` fp32.

    Args:
        answers: K answers to each item `(K, N)`, int64.
        targets: labels `(N,)`.
        smoothing: `(right + 1/2) / (K + 1)`, which is never 0 or 1.
    """
    right = (answers == targets).sum(dim=0).float()
    return (right + 0.5) / (len(answers) + 1) if smoothing else right / len(answers)


def effective_share(weights: Tensor) -> float:
    """Effective sample size `(sum w)^2 / sum w^2` over `N`; 0 where all weights are 0."""
    exact = weights.cpu().double()
    total, squares = float(exact.sum()), float(exact.square().sum())
    return total**2 / (squares * len(weights)) if squares else 0.0


class Paced(Method):
    """The distillation loss of each sample, weighed by how often the student passes it."""

    name: ClassVar[str] = "paced"
    summary: ClassVar[str] = "weighs each sample by a bell over the student's own pass rate"
    citation: ClassVar[str] = (
        "Xu, Sang, Zhou, He, Wang, PACED: Distillation and On-Policy Self-Distillation"
        " at the Frontier of Student Competence, 2026"
    )
    own_loss: ClassVar[frozenset[str]] = frozenset({"kl", "switch", "temperature", "label_weight"})
    gives: ClassVar[frozenset[str]] = frozenset({"weights"})
    takes: ClassVar[frozenset[str]] = frozenset({"target", "checkpoint", "network"})
    needs = Needs(labels=True, teacher=True)

    class Options(BaseModel):
        """Options of `paced`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        alpha: float = Field(1.0, ge=0, le=10, description="exponent of p; 0: no fall at p = 0")
        beta: float = Field(1.0, ge=0, le=10, description="exponent of 1 - p; 0: no fall at p = 1")
        floor: float = Field(0.05, ge=0, le=1, description="least weight; 0 as published")
        warmup_epochs: int = Field(1, ge=0, description="first epochs, in which every weight is 1")
        estimator: Literal["prob", "passes", "history"] = Field(
            "prob",
            description="p: probability of the label; share of right answers over augmented"
            " views; or running mean of right answers in training",
        )
        refresh: Literal["epoch", "batch"] = Field(
            "epoch", description="prob: one pass more per epoch, or from the batch itself for free"
        )
        passes: int = Field(8, ge=2, description="passes: number of augmented views")
        smoothing: bool = Field(False, description="passes: (right + 1/2) / (passes + 1)")
        momentum: float = Field(0.8, ge=0, lt=1, description="history: share of the old mean")
        kl: Literal["forward", "reverse", "two-stage"] = Field(
            "forward", description="KL(teacher || student), KL(student || teacher), or in turn"
        )
        switch: float = Field(
            0.5, ge=0, le=1, description="two-stage: share of the training that is forward"
        )
        temperature: float = Field(2.0, gt=0, description="T: softens both distributions")
        label_weight: float = Field(0.0, ge=0, description="of an unweighed cross-entropy; adds")

        @model_validator(mode="after")
        def _only_prob_has_batches(self) -> Self:
            if self.refresh == "batch" and self.estimator != "prob":
                raise ValueError(f"refresh: batch is for estimator: prob, not {self.estimator}")
            return self

    def helpers(self, study: Study) -> nn.Module:
        return self.unknown_rates(len(study.targets("train")))

    @staticmethod
    def unknown_rates(count: int) -> nn.Module:
        """A module with the buffer `rates` `(count,)`: no item was looked at yet."""
        import torch

        module = torch.nn.Module()
        module.register_buffer("rates", torch.full((count,), UNKNOWN))
        return module

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        rates = _rates(helpers)
        if self._measures:
            rates.copy_(self._measure(study))
        weights = self.weigh(rates)
        if len(study.history) < self.options.warmup_epochs:
            weights = weights.new_ones(weights.shape)
        return {
            "mean_pass_rate": float(rates.mean()),
            "mean_weight": float(weights.mean()),
            "idle_share": float((weights < self._idle).float().mean()),
            "effective_share": effective_share(weights),
        }

    def adapt(self, batch: Batch, helpers: nn.Module | None) -> Batch:
        rate = self._rate(batch, _rates(helpers))
        if batch.epoch < self.options.warmup_epochs or self._uniform:
            return batch
        weights = self.weigh(rate)
        return replace(batch, weights=_times(weights, batch.weights))

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        parts, weight = {}, self.options.label_weight
        if weight > 0:
            parts["labels"] = weight * F.cross_entropy(batch.student, batch.targets)
        if batch.teacher is not None:
            parts["teacher"] = self.divergence(batch, batch.teacher)
        return parts

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        from .gradient_snr import figures

        rates = self._measure(study) if self._measures else _rates(helpers).cpu()
        return figures(study, rates, self._final_divergence, self.weigh)

    def weigh(self, rate: Tensor) -> Tensor:
        """Weight of items by their pass rate: the kernel, raised so that `floor` is its least.

        Args:
            rate: p from 0 to 1 `(N,)`.
        """
        floor: float = self.options.floor
        kernel = beta_kernel(rate, self.options.alpha, self.options.beta)
        return kernel + floor * (1 - kernel)

    def divergence(self, batch: Batch, teacher: Tensor) -> Tensor:
        """T^2 KL in the direction that the options and the progress say, weighed, mean."""
        kl = self.options.kl
        reverse = kl == "reverse" or (kl == "two-stage" and batch.progress >= self.options.switch)
        function = reverse_divergence if reverse else soft_divergence
        return function(batch.student, teacher, self.options.temperature, batch.weights)

    @property
    def _measures(self) -> bool:
        """Rates are measured before every epoch; otherwise the batches tell them."""
        return self.options.estimator != "history" and bool(self.options.refresh == "epoch")

    @property
    def _uniform(self) -> bool:
        """The kernel is 1 everywhere: then the loss must be that of `kd` to the bit."""
        return bool(self.options.alpha == self.options.beta == 0)

    @property
    def _idle(self) -> float:
        """A weight below it teaches no more than the floor does."""
        floor: float = self.options.floor
        return floor + IDLE * (1 - floor)

    def _final_divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of the end of the training, unweighed, of `(N, C)` logits."""
        function = soft_divergence if self.options.kl == "forward" else reverse_divergence
        return function(student, teacher, self.options.temperature)

    def _measure(self, study: Study) -> Tensor:
        """Pass rates of the student as it is now, over the training split `(N,)`."""
        targets = study.targets("train")
        if self.options.estimator != "passes":
            return gold_probability(study.student_logits("train"), targets)
        logits = study.student_passes("train", self.options.passes)
        if bool((logits == logits[:1]).all()):
            raise TrainingError(
                f"paced: the {len(logits)} passes over the training samples are all the same,"
                " expected augmented views that differ",
                "augment the data (`data.augment` in the config), or take `estimator: prob`",
            )
        return pass_rate(logits.argmax(dim=2), targets, self.options.smoothing)

    def _rate(self, batch: Batch, rates: Tensor) -> Tensor:
        """Pass rates of a batch `(N,)`, kept up to date where the batch tells them."""
        options, student = self.options, batch.student.detach()
        if options.refresh == "batch":
            rates[batch.index] = gold_probability(student, batch.targets).to(rates.dtype)
        elif options.estimator == "history":
            right = (student.argmax(dim=1) == batch.targets).to(rates.dtype)
            rates[batch.index] = rates[batch.index].lerp(right, 1 - options.momentum)
        return rates[batch.index]


def _rates(helpers: nn.Module | None) -> Tensor:
    if helpers is None:
        raise TrainingError(
            "paced was called without the pass rates that it keeps",
            "hand on what its `helpers` gave",
        )
    return helpers.get_buffer("rates")


def _times(weights: Tensor, others: Tensor | None) -> Tensor:
    return weights if others is None else weights * others
