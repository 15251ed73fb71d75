"""Calibration: temperature scaling, and how far a network's confidence is from its accuracy.

Chuan Guo, Geoff Pleiss, Yu Sun, Kilian Q. Weinberger, "On Calibration of Modern Neural Networks",
2017, arXiv:1706.04599.

    T* = argmin_T  NLL(softmax(z / T), y)    on data that the network did not learn from

One scalar, so no arg-max and no accuracy changes. The likelihood is convex in 1/T. Departure: the
optimum is found by bisection on the slope in float64, which cannot miss it, not by a line search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

_HALVINGS = 60  # of an interval [a, 2a]: more than float64 can tell apart


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T > 0 with the smallest negative log-likelihood of `softmax(z / T)`.

    Args:
        logits: `(N, C)` of samples that the network did not learn from.
        targets: labels `(N,)`.

    Raises:
        TrainingError: no temperature is best: every sample is answered right (the smaller the
            better), the answers are no better than a guess (the larger the better), or a logit
            is not finite.
    """
    z = logits.detach().double()
    z = z - z.amax(dim=1, keepdim=True)  # the likelihood does not see it, and exp() is safe
    right = z.gather(1, targets[:, None]).squeeze(1)
    _check(z, right)
    low, high = 0.0, 1.0
    while _slope(z, right, high) < 0:
        low, high = high, 2 * high
    while low == 0.0:
        middle = high / 2
        low, high = (0.0, middle) if _slope(z, right, middle) >= 0 else (middle, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(z, right, middle) >= 0 else (middle, high)
    return 2 / (low + high)


def _slope(z: Tensor, right: Tensor, inverse: float) -> float:
    """Derivative of the mean NLL with respect to 1/T; it never falls."""
    expected = ((inverse * z).softmax(dim=1) * z).sum(dim=1)
    return float((expected - right).mean())


def _check(z: Tensor, right: Tensor) -> None:
    """Whether there is an optimum: the slope is negative at 1/T = 0 and positive far out."""
    count = len(z)
    if not bool(z.isfinite().all()):
        raise TrainingError(f"Logits of {count} samples hold NaN or infinite values", _HINT)
    if float(right.mean()) == 0.0:
        what = f"The teacher is right on all {count} samples: no temperature is small enough"
        raise TrainingError(f"{what} for them", _HINT)
    if _slope(z, right, 0.0) >= 0:
        what = f"The teacher's answers to {count} samples are no better than a guess"
        raise TrainingError(f"{what}: no temperature is large enough for them", _HINT)


_HINT = "Leave `calibrate` off, or check the teacher and give it a larger validation split"


def reliability(logits: Tensor, targets: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence against accuracy, over equally wide bins of confidence.

    Args:
        logits: `(N, C)`.
        targets: labels `(N,)`.
        bins: between 0 and 1; those without a sample are left out.

    Returns:
        Mean confidence, accuracy and share of the samples, each `(bins that are used,)`.
    """
    import torch

    confidence, answers = logits.detach().double().softmax(dim=1).max(dim=1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(place, minlength=bins)
    used = count > 0
    sums = (torch.bincount(place, x.double(), bins) for x in (confidence, answers == targets))
    mean_confidence, accuracy = (total[used] / count[used] for total in sums)
    return mean_confidence, accuracy, count[used] / len(targets)


def ece(logits: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, from 0 to 1.

    Args:
        logits: `(N, C)`.
        targets: labels `(N,)`.
        bins: as for `reliability`.
    """
    confidence, accuracy, share = reliability(logits, targets, bins)
    return float((share * (confidence - accuracy).abs()).sum())
