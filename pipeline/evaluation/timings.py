"""Timed inferences -> figures: percentiles, intervals, a verdict on the noise, ratios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .statistics import median_interval, median_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Verdict: TypeAlias = Literal["stable", "noisy"]

MIN_FOR_P90 = 100
MIN_FOR_P99 = 1000
NOISY_WIDTH = 0.05
NOISY_DRIFT = 0.05


@dataclass(frozen=True)
class LatencyResult:
    """Timed inferences of one candidate, in seconds.

    Attributes:
        rounds: samples of each round, in the order in which they were taken.
        warmup_seconds: how long the warm-up took.
        seed: of the interval.
    """

    rounds: tuple[Floats, ...]
    warmup_seconds: float = 0.0
    seed: int = 0

    @cached_property
    def samples(self) -> Floats:
        """All samples `(S,)`."""
        return np.concatenate(self.rounds)

    @property
    def min(self) -> float:
        return float(self.samples.min())

    @cached_property
    def p50(self) -> float:
        """The median: with `min`, the figure to judge by, since it repeats best."""
        return float(np.median(self.samples))

    @property
    def p90(self) -> float | None:
        """90th percentile; None below 100 samples."""
        return self._percentile(90, MIN_FOR_P90)

    @property
    def p99(self) -> float | None:
        """99th percentile; None below 1000 samples."""
        return self._percentile(99, MIN_FOR_P99)

    @cached_property
    def ci95(self) -> tuple[float, float]:
        """Interval of the median by a bootstrap over the rounds."""
        return median_interval(self.rounds, self.seed)

    @property
    def drift(self) -> float:
        """Change of the median from the first half of the rounds to the second, over the first."""
        half = len(self.rounds) // 2
        first, second = (np.concatenate(part) for part in (self.rounds[:half], self.rounds[half:]))
        return float(np.median(second) / np.median(first) - 1)

    @property
    def verdict(self) -> Verdict:
        """`noisy` if the interval is wider than 5 % of the median, or the drift is over 5 %.

        A noisy figure is reported, but nothing should be concluded from differences of its size.
        """
        low, high = self.ci95
        wide = high - low > NOISY_WIDTH * self.p50
        return "noisy" if wide or abs(self.drift) > NOISY_DRIFT else "stable"

    def to_json(self) -> dict[str, Any]:
        """The figures in milliseconds; `samples` is their count."""
        figures = {"min": self.min, "p50": self.p50, "p90": self.p90, "p99": self.p99}
        return {
            **{key: None if value is None else value * 1e3 for key, value in figures.items()},
            "ci95": [end * 1e3 for end in self.ci95],
            "samples": len(self.samples),
            "verdict": self.verdict,
        }

    def _percentile(self, percent: float, least: int) -> float | None:
        enough = len(self.samples) >= least
        return float(np.percentile(self.samples, percent)) if enough else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two medians.

    Attributes:
        value: above 1 where the first is slower.
        ci95: low and high end of its interval.
    """

    value: float
    ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "ci95": list(self.ci95)}


def ratio(a: LatencyResult, b: LatencyResult) -> Ratio:
    """Median of `a` over median of `b`: the speed-up of `b` over `a`, with its 95 % interval.

    Both must come from the same `measure` call: the interval is that of paired rounds.

    Raises:
        DataError: the two do not have the same count of rounds.
    """
    value, low, high = median_ratio(a.rounds, b.rounds, a.seed)
    return Ratio(value, (low, high))
