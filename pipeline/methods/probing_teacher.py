"""The probes of a teacher's layers as one teacher: what stands in for its logits.

This module imports torch, so methods import it inside their functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from .calibration import fit_temperature
from .probes import LayerProbes, out_of_fold, validation_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..contracts import Tap


@dataclass(frozen=True, slots=True)
class FittedLayer:
    """The probes of one layer and how they do on the validation split.

    Attributes:
        tap: the feature that they read.
        name: of the layer.
        probes: one per fold.
        loss: cross-entropy, mean over the folds.
        accuracy: from 0 to 1, mean over the folds.
    """

    tap: Tap
    name: str
    probes: LayerProbes
    loss: float
    accuracy: float


class ProbingTeacher(nn.Module):
    """Answers for each training sample by probes that did not see its label. Buffers only.

    Args:
        layers: fitted probes, all with the same folds.
        fold: of each training sample `(N,)`, int64.
        combine: `best` asks the layer with the lowest validation loss, `mean` takes the mean of
            all layers' logits.

    Attributes:
        chosen: numbers of the layers that answer.
    """

    fold: Tensor
    temperature: Tensor
    losses: Tensor
    accuracies: Tensor

    def __init__(
        self, layers: Sequence[FittedLayer], fold: Tensor, combine: Literal["best", "mean"]
    ) -> None:
        super().__init__()
        self.taps = tuple(layer.tap for layer in layers)
        self.names = tuple(layer.name for layer in layers)
        self.probes = nn.ModuleList(layer.probes for layer in layers)
        losses = [layer.loss for layer in layers]
        self.register_buffer("fold", fold)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("losses", torch.tensor(losses))
        self.register_buffer("accuracies", torch.tensor([layer.accuracy for layer in layers]))
        everyone = tuple(range(len(layers)))
        self.chosen = everyone if combine == "mean" else (losses.index(min(losses)),)

    def forward(self, features: Mapping[Tap, Tensor], index: Tensor) -> Tensor:
        """Logits `(N, C)` for training samples.

        Args:
            features: of every tap `(N, D)`.
            index: row of each sample in the training split `(N,)`.
        """
        fold = self.fold[index]
        return self._combined(lambda i: out_of_fold(self.probes[i](features[self.taps[i]]), fold))

    def every_row(self) -> Tensor:
        """Numbers `(N,)` of all training samples."""
        return torch.arange(len(self.fold), device=self.fold.device)

    def of_every_fold(self, features: Mapping[Tap, Tensor]) -> Tensor:
        """Logits `(F, M, C)` for samples from which no probe has learnt.

        Args:
            features: of every tap `(M, D)`.
        """
        return self._combined(lambda i: cast("Tensor", self.probes[i](features[self.taps[i]])))

    def calibrate(self, features: Mapping[Tap, Tensor], targets: Tensor) -> None:
        """Set the temperature that all logits are divided by, so that probabilities are right.

        Args:
            features: of every tap `(M, D)`, of samples from which no probe has learnt.
            targets: their labels `(M,)`.
        """
        self.temperature.fill_(1.0)
        logits = self.of_every_fold(features)
        targets = targets.repeat(len(logits))
        self.temperature.fill_(fit_temperature(logits.flatten(0, 1), targets))

    def _combined(self, logits_of: Callable[[int], Tensor]) -> Tensor:
        logits = torch.stack([logits_of(i) for i in self.chosen])
        return logits.mean(dim=0) / self.temperature


def quality(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Cross-entropy and accuracy, mean over the folds, of logits `(F, M, C)` and labels `(M,)`."""
    right = (logits.argmax(dim=2) == targets).float()
    return float(validation_losses(logits, targets).mean()), float(right.mean())


def entropy(logits: Tensor) -> float:
    """Entropy of softmax of logits `(N, C)`, in nats, mean over the samples."""
    log_p = logits.log_softmax(dim=1)
    return float(-(log_p.exp() * log_p).sum(dim=1).mean())
