"""How signals are stored: fp16, all logits or the largest of them; features by number.

    logits      (N, C) as they are
    top         (N, k + 1) the largest log-probabilities at T = 1, in falling order, then that of
                all other classes together; top-class (N, k) says whose they are
    feature-0   (N, ...) the first tap, each sample over its own largest value, which is in
                feature-0-scale (N,) as fp32: attention maps may be smaller than fp16 can tell

The tail rule of `top`: what the other classes have together is spread evenly over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import TrainingError
from .signals import Signals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from ..contracts import Tap

_TINY = 1e-30  # stands for the largest value of a feature that is all zeros
_NONE_LEFT = -1e4  # the logarithm of nothing, as fp16 can hold it


@dataclass(frozen=True, slots=True)
class Codec:
    """Signals to arrays and back.

    Attributes:
        taps: of the features, in the order in which they are stored.
        classes: number of logits.
        top: how many are kept; 0 keeps all.
        asked: logits are kept at all; a head that nobody listens to may say anything.
    """

    taps: tuple[Tap, ...]
    classes: int
    top: int = 0
    asked: bool = True

    def encode(self, signals: Signals) -> dict[str, NDArray[Any]]:
        """Arrays by name.

        Raises:
            TrainingError: fp16 cannot hold a value.
        """
        values = self._encode_logits(signals.logits) if self.asked else {}
        for number, tap in enumerate(self.taps):
            feature = signals.features[tap]
            largest = feature.abs().flatten(1).amax(dim=1)
            across = largest.clamp(min=_TINY).view(-1, *[1] * (feature.ndim - 1))
            values[f"feature-{number}"] = _half(feature / across, tap.layer)
            values[f"feature-{number}-scale"] = largest.clamp(min=_TINY).numpy()
        return values

    def decode(self, stored: Mapping[str, NDArray[Any]]) -> Signals:
        """What `encode` was given, to fp16; with `top`, logits are log-probabilities."""
        features = {
            tap: _scaled(stored[f"feature-{number}"], stored[f"feature-{number}-scale"])
            for number, tap in enumerate(self.taps)
        }
        if not self.asked:
            count = len(next(iter(stored.values())))
            return Signals(torch.empty(count, 0), features)
        if "logits" in stored:
            return Signals(torch.from_numpy(stored["logits"]).float(), features)
        best = torch.from_numpy(stored["top"]).float()
        classes = torch.from_numpy(stored["top-class"]).long()
        return Signals(spread_tail(best, classes, self.classes), features)

    def _encode_logits(self, logits: Tensor) -> dict[str, NDArray[Any]]:
        if not self.top or self.top >= self.classes:
            return {"logits": _half(logits, "logits")}
        ordered = logits.log_softmax(dim=1).sort(dim=1, descending=True)
        rest = ordered.values[:, self.top :].logsumexp(dim=1, keepdim=True).clamp(min=_NONE_LEFT)
        best = torch.cat([ordered.values[:, : self.top].clamp(min=_NONE_LEFT), rest], dim=1)
        classes = ordered.indices[:, : self.top].numpy().astype(np.int32)
        return {"top": _half(best, "logits"), "top-class": classes}


def spread_tail(best: Tensor, classes: Tensor, total: int) -> Tensor:
    """Log-probabilities `(N, total)` of the largest few and of all others together.

    Args:
        best: `(N, k + 1)`, the last column is that of the others together.
        classes: of the first k columns `(N, k)`.
        total: number of classes, above k.
    """
    kept = classes.shape[1]
    others = best[:, kept:] - math.log(total - kept)
    return others.repeat(1, total).scatter(1, classes, best[:, :kept])


def _scaled(values: NDArray[Any], scale: NDArray[Any]) -> Tensor:
    shared = torch.from_numpy(scale).view(-1, *[1] * (values.ndim - 1))
    return torch.from_numpy(values).float() * shared


def _half(value: Tensor, name: str) -> NDArray[Any]:
    half = value.half()
    if not torch.isfinite(half).all():
        largest = float(value.abs().max())
        raise TrainingError(
            f"the teacher's {name} reach {largest:g}: fp16, in which signals are stored, ends at"
            " 65504",
            "set train.cache: off, or look for extreme values in the data",
        )
    return half.numpy()
