"""Classifiers on frozen features: fitted once per fold, side by side, then never changed.

    u = (h - m) / s                     m, s of the rows that the probe learns from, no others
    g(u) = W u + b                      or W2 dropout(gelu(W1 u + b1)) + b2
    CE(g(u), y), AdamW, full batch; the weights of the lowest validation loss are kept

Probe `f` of a cross-fit learns from all rows but those of fold `f`, which it then answers for: no
sample is taught by a probe that saw its label. This module imports torch, so methods import it
inside their functions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True)
class ProbeTraining:
    """How probes are fitted.

    Attributes:
        hidden: units of the hidden layer; 0 for a linear probe.
        dropout: of the hidden units, while fitting.
        lr: learning rate of AdamW.
        weight_decay: decoupled; biases have none.
        epochs: steps over all rows at once, at most.
        patience: steps without a lower validation loss after which a probe is done.
    """

    hidden: int = 0
    dropout: float = 0.1
    lr: float = 1e-2
    weight_decay: float = 1e-3
    epochs: int = 200
    patience: int = 20


class LayerProbes(nn.Module):
    """`F` probes of one layer. All they have are buffers: nothing trains or exports them.

    Args:
        mean: subtracted from the features `(F, 1, D)`.
        scale: divides them after that `(F, 1, D)`.
        weights: one for a linear probe `(F, D, C)`, two for an MLP `(F, D, H)`, `(F, H, C)`.
        biases: likewise `(F, 1, C)`, or `(F, 1, H)`, `(F, 1, C)`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, mean: Tensor, scale: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> None:
        super().__init__()
        self.depth = len(weights)
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("scale", scale.detach().clone())
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight{i}", weight.detach().clone())
            self.register_buffer(f"bias{i}", bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(F, N, C)` of every probe for features `(N, D)`."""
        places = range(self.depth)
        weights = [self.get_buffer(f"weight{i}") for i in places]
        biases = [self.get_buffer(f"bias{i}") for i in places]
        return _logits((features - self.mean) / self.scale, weights, biases)


def probe_from_head(weight: Tensor, bias: Tensor) -> LayerProbes:
    """One linear probe with given weights, without standardisation: a teacher's own head.

    Args:
        weight: `(C, D)`, as in `nn.Linear`.
        bias: `(C,)`.
    """
    mean = weight.new_zeros(1, 1, weight.shape[1])
    return LayerProbes(mean, torch.ones_like(mean), [weight.t()[None]], [bias[None, None]])


def assign_folds(targets: Tensor, folds: int, seed: int) -> Tensor:
    """Fold `(N,)` of each sample, from 0 to `folds - 1`: every fold with each class in proportion.

    Args:
        targets: labels `(N,)`.
        folds: how many; 1 puts all samples into fold 0.
        seed: decides which sample goes where.
    """
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = order[targets[order].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % folds
    return fold


def rows_to_learn_from(fold: Tensor, folds: int) -> Tensor:
    """Which rows each probe learns from `(folds, N)`: the other folds', or all if there is one."""
    if folds == 1:
        return torch.ones(1, len(fold), dtype=torch.bool)
    return torch.arange(folds)[:, None] != fold[None]


def out_of_fold(logits: Tensor, fold: Tensor) -> Tensor:
    """Of the logits `(F, N, C)` those of each sample's own fold `(N,)`, `(N, C)`."""
    return logits[fold, torch.arange(len(fold), device=fold.device)]


def standardisation(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of some rows, per unit.

    A unit that hardly moves in these rows is divided by a thousandth of what its neighbours move
    on average, lest a sample in which it wakes up drown all the others.

    Args:
        features: `(N, D)`.
        rows: which rows count `(F, N)`, bool.

    Returns:
        Mean and scale, both `(F, 1, D)`; the scale is never 0.
    """
    share = _shares(rows)[:, None]
    mean = share @ features
    scale = (share @ (features - mean).square()).sqrt()
    scale = scale.maximum(_LEAST_SCALE * scale.mean(dim=2, keepdim=True))
    return mean, scale.masked_fill(scale == 0, 1.0)


def fit_probes(
    train: tuple[Tensor, Tensor],
    rows: Tensor,
    validation: tuple[Tensor, Tensor],
    classes: int,
    training: ProbeTraining,
    seed: int,
) -> LayerProbes:
    """Fit one probe per fold, each until its validation loss no longer falls.

    Args:
        train: features `(N, D)` and labels `(N,)`.
        rows: which of them each probe learns from `(F, N)`, bool.
        validation: features `(M, D)` and labels `(M,)`: they decide when to stop.
        classes: C, number of classes.
        training: see `ProbeTraining`.
        seed: of an MLP's first weights and its dropout; a linear probe starts from zero.
    """
    (features, targets), random = train, torch.Generator().manual_seed(seed)
    mean, scale = standardisation(features, rows)
    x, x_validation = (features - mean) / scale, (validation[0] - mean) / scale
    share, targets = _shares(rows), targets.expand(len(rows), -1)
    sizes = [x.shape[2], *([training.hidden] if training.hidden else []), classes]
    with torch.enable_grad():
        weights, biases = _first_weights(len(rows), sizes, random)
        parameters = [*weights, *biases]
        best, optimizer = _Best(parameters, training.patience), _adamw(weights, biases, training)
        for _ in range(training.epochs):
            logits = _logits(x, weights, biases, training.dropout, random)
            _descend((_cross_entropy(logits, targets) * share).sum(), parameters, optimizer)
            with torch.no_grad():
                now = _logits(x_validation, weights, biases)
            if best.all_done(validation_losses(now, validation[1])):
                break
    kept = best.parameters
    return LayerProbes(mean, scale, kept[: len(weights)], kept[len(weights) :])


def validation_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy `(F,)` of each probe, of logits `(F, M, C)` and labels `(M,)`."""
    return _cross_entropy(logits, targets.expand(len(logits), -1)).mean(dim=1)


class _Best:
    """The weights at which each of `F` probes had its lowest validation loss so far."""

    def __init__(self, live: Sequence[Tensor], patience: int) -> None:
        self.live, self.patience = live, patience
        self.parameters = [value.detach().clone() for value in live]
        self.loss = torch.full((len(live[0]),), torch.inf)
        self.waited = torch.zeros(len(live[0]), dtype=torch.int64)

    def all_done(self, losses: Tensor) -> bool:
        """Note the losses `(F,)` of the live weights; whether every probe has waited enough."""
        better = (losses < self.loss) & (self.waited < self.patience)
        self.loss = torch.where(better, losses, self.loss)
        # A probe that has waited enough stays done: its neighbours must not prolong its training.
        going_on = self.waited < self.patience
        self.waited = torch.where(better, 0, self.waited + going_on)
        for kept, live in zip(self.parameters, self.live, strict=True):
            kept[better] = live.detach()[better]
        return bool((self.waited >= self.patience).all())


def _first_weights(
    probes: int, sizes: Sequence[int], random: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Zero for one layer, which has one optimum anyway; uniform within 1 / sqrt(inputs) for two."""
    shapes = list(itertools.pairwise(sizes))
    weights = [torch.zeros(probes, *shape) for shape in shapes]
    if len(weights) > 1:
        for weight in weights:
            one = torch.empty(weight.shape[1:])
            bound = weight.shape[1] ** -0.5
            weight.copy_(one.uniform_(-bound, bound, generator=random))
    biases = [torch.zeros(probes, 1, size) for size in sizes[1:]]
    return [w.requires_grad_() for w in weights], [b.requires_grad_() for b in biases]


def _descend(loss: Tensor, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def _adamw(
    weights: Sequence[Tensor], biases: Sequence[Tensor], training: ProbeTraining
) -> torch.optim.Optimizer:
    groups = [
        {"params": list(weights), "weight_decay": training.weight_decay},
        {"params": list(biases), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.lr)


def _logits(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dropout: float = 0.0,
    random: torch.Generator | None = None,
) -> Tensor:
    """Logits `(F, N, C)` of standardised features `(F, N, D)`."""
    x = torch.baddbmm(biases[0], x, weights[0])
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        x = F.gelu(x)
        if dropout:
            x = x * (torch.rand(x.shape, generator=random) >= dropout) / (1 - dropout)
        x = torch.baddbmm(bias, x, weight)
    return x


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each row `(F, N)`, of logits `(F, N, C)` and labels `(F, N)`."""
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def _shares(rows: Tensor) -> Tensor:
    """Weight of each row `(F, N)`; a probe's weights add up to 1."""
    return rows / rows.sum(dim=1, keepdim=True)
