"""Intervals and distances by which models are judged; NumPy alone.

Every interval is two-sided with 95 % confidence unless said otherwise.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .student import CONFIDENCE, student_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 1000
QUANTILES_PER_ROUND = 101


def wilson(correct: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a proportion such as accuracy.

    With `p = correct / total` and `z` the normal quantile:
    `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. Unlike the Wald interval it stays
    inside [0, 1] and is sensible at 0 and at 100 %.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22, 1927.

    Args:
        correct: successes.
        total: trials, 1 or more.
        confidence: between 0 and 1.

    Raises:
        DataError: not `0 <= correct <= total`, or no trials.
    """
    if total < 1 or not 0 <= correct <= total:
        raise DataError(
            f"{correct} correct of {total}: expected 0 <= correct <= total and total >= 1",
            "evaluate on at least one sample",
        )
    z, share = _normal_quantile(confidence), correct / total
    centre = share + z * z / (2 * total)
    reach = z * np.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    low = 0.0 if correct == 0 else float((centre - reach) / scale)
    high = 1.0 if correct == total else float((centre + reach) / scale)
    return low, high


def paired_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Difference of two accuracies on the SAME samples, with its interval.

    With `b` samples that only A gets right, `c` that only B does, and `n` in all, 1/2 is added to
    each of the four cells and a Wald interval taken: `d = (b - c) / (n + 2)`,
    `d +- z sqrt((b + c + 1) - (b - c)^2 / (n + 2)) / (n + 2)`. Pairing makes it far narrower than
    two separate intervals would suggest.

    Source: A. Agresti and Y. Min, Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24, 2005.

    Args:
        correct_a: `(N,)`, whether A is right on each sample.
        correct_b: `(N,)`, the same of B.
        confidence: between 0 and 1.

    Returns:
        Accuracy of A minus accuracy of B as observed, and the interval's low and high end.

    Raises:
        DataError: the shapes differ, or there are no samples.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    _check_pair(a, b, axes=1)
    only_a, only_b, total = int((a & ~b).sum()), int((b & ~a).sum()), a.size + 2
    gap = only_a - only_b
    variance = (only_a + only_b + 1) - gap**2 / total
    reach = _normal_quantile(confidence) * np.sqrt(variance) / total
    centre = gap / total
    return gap / a.size, max(-1.0, float(centre - reach)), min(1.0, float(centre + reach))


def sqnr_db(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Signal to quantization-noise ratio in decibels: `10 log10(sum r^2 / sum (r - c)^2)`.

    Returns:
        Infinity for equal arrays; minus infinity where `candidate` is not finite, so that every
        threshold fails, or where the reference is all zero and the candidate is not.

    Raises:
        DataError: the shapes differ, nothing to compare, or `reference` is not finite.
    """
    first, second = _as_floats(reference), _as_floats(candidate)
    _check_pair(first, second)
    if not np.isfinite(first).all():
        raise DataError(
            "the reference holds NaN or infinite values; expected finite ones",
            "check the model that gave the reference, it is broken already",
        )
    if not np.isfinite(second).all():
        return float("-inf")
    noise, signal = np.square(first - second).sum(), np.square(first).sum()
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def agreement(logits_a: ArrayLike, logits_b: ArrayLike) -> float:
    """Share of samples on which two models choose the same class.

    Args:
        logits_a: `(N, C)`.
        logits_b: `(N, C)`. A sample with NaN in either agrees with nothing.

    Raises:
        DataError: the shapes differ, or there are no samples.
    """
    a, b = _as_floats(logits_a), _as_floats(logits_b)
    _check_pair(a, b, axes=2)
    valid = ~(np.isnan(a).any(axis=1) | np.isnan(b).any(axis=1))
    return float(((a.argmax(axis=1) == b.argmax(axis=1)) & valid).mean())


def median_interval(
    rounds: Sequence[Floats], seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bootstrap interval of the median of all samples, resampling whole ROUNDS.

    Samples of a round share the machine's state, so they are not independent, and resampling them
    one by one gives intervals that are far too narrow; rounds are the blocks.

    Source: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application, 1997, ch. 3.8
    (clustered data); the percentile interval is expanded for the small number of blocks as in
    T. C. Hesterberg, What teachers should know about the bootstrap, The American Statistician 69,
    2015.

    Args:
        rounds: samples of each round; 2 rounds or more, none empty.
        seed: of the resampling.
        confidence: between 0 and 1.

    Raises:
        DataError: fewer than 2 rounds, or an empty one.
    """
    table, counts = _quantile_table(rounds)
    picks = _resample(len(rounds), seed)
    return _percentile_interval(_medians(table, counts, picks), len(rounds), confidence)


def median_ratio(
    rounds_a: Sequence[Floats],
    rounds_b: Sequence[Floats],
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float]:
    """Median of A over median of B, with an interval from PAIRED rounds.

    Round `i` of A and round `i` of B were taken side by side, so the same rounds are drawn for
    both: what slowed the whole machine down cancels out.

    Returns:
        The ratio, and the interval's low and high end.

    Raises:
        DataError: different counts of rounds, fewer than 2, or an empty one.
    """
    if len(rounds_a) != len(rounds_b):
        raise DataError(
            f"{len(rounds_a)} rounds against {len(rounds_b)}; expected pairs",
            "take the two from one measurement, in which their rounds are interleaved",
        )
    picks = _resample(len(rounds_a), seed)
    above, below = (_medians(*_quantile_table(rounds), picks) for rounds in (rounds_a, rounds_b))
    value = float(np.median(np.concatenate(rounds_a)) / np.median(np.concatenate(rounds_b)))
    return value, *_percentile_interval(above / below, len(rounds_a), confidence)


def _quantile_table(rounds: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Quantiles `(R, Q)` of the rounds at equal steps, and the counts `(R,)` of their samples.

    The median cannot tell the quantiles from the samples, but their cost does not grow with them.
    """
    if len(rounds) < 2 or any(len(samples) == 0 for samples in rounds):
        raise DataError(
            f"got rounds of {[len(samples) for samples in rounds]} samples; "
            "expected 2 rounds or more, none empty",
            "measure for longer",
        )
    steps = (np.arange(QUANTILES_PER_ROUND) + 0.5) / QUANTILES_PER_ROUND
    table = np.array([np.quantile(samples, steps, method="hazen") for samples in rounds])
    return table, np.array([len(samples) for samples in rounds], dtype=np.float64)


def _resample(rounds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, rounds, size=(RESAMPLES, rounds))


def _medians(table: Floats, counts: Floats, picks: NDArray[np.int64]) -> Floats:
    """Weighted median of each resample `(B,)`: a round weighs as much as it has samples."""
    rounds, quantiles = table.shape
    order = np.argsort(table, axis=None, kind="stable")
    values, owners = table.ravel()[order], order // quantiles
    passed = np.cumsum(owners[:, None] == np.arange(rounds), axis=0) * counts
    drawn = np.array([np.bincount(pick, minlength=rounds) for pick in picks])
    reached = passed @ drawn.T  # weight up to each value `(V, B)`; whole numbers, so exact
    half = reached[-1] / 2
    medians: Floats = (values[(reached < half).sum(0)] + values[(reached <= half).sum(0)]) / 2
    return medians


def _percentile_interval(values: Floats, blocks: int, confidence: float) -> tuple[float, float]:
    """Percentiles further out than nominal, since a bootstrap of few blocks is too narrow."""
    stretch = np.sqrt(blocks / (blocks - 1)) * student_quantile(blocks - 1, confidence)
    tail = NormalDist().cdf(-stretch)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise DataError(f"confidence {confidence}: expected a number between 0 and 1", "try 0.95")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _as_floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _check_pair(a: NDArray[np.generic], b: NDArray[np.generic], axes: int | None = None) -> None:
    if a.shape != b.shape or a.size == 0 or (axes is not None and a.ndim != axes):
        wanted = "" if axes is None else f" of {axes} axes"
        raise DataError(
            f"got shapes {a.shape} and {b.shape}; expected equal, non-empty shapes{wanted}",
            "compare outputs on the same samples",
        )
