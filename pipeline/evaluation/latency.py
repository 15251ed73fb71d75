"""One protocol of latency for every runtime and target.

Each candidate is warmed up until it is stable; then come rounds, in each of which EVERY candidate
gets a slice, in an order that is shuffled anew. So whatever disturbs the machine disturbs all, a
round of one candidate and the same round of another make a pair, and the scatter between rounds
shows how much a figure can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..errors import ConfigError, TargetError
from .timings import LatencyResult, Ratio, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..contracts import Arrays, Session

    Floats = NDArray[np.float64]

__all__ = ["LatencyResult", "LatencySettings", "Ratio", "measure", "ratio", "warm_up"]

Progress: TypeAlias = Callable[[int, int, str], None]

MIN_ROUNDS = 5
DEFAULT_LIMIT_SECONDS = 60.0

WINDOWS = 3
WINDOW_SECONDS = 0.05
WINDOW_AGREEMENT = 0.03

SETTLE_SHARE = 0.02
"""Share of a slice that is run first and thrown away: the caches still hold another candidate."""

PLAN_MARGIN = 1.05
"""Slices are planned a little longer than needed, lest a whole round be added for a millisecond."""


@dataclass(frozen=True, slots=True)
class LatencySettings:
    """How long to measure.

    Attributes:
        seconds: timed seconds per candidate, at least.
        samples: timed inferences per candidate, at least.
        rounds: rounds, at least; 5 or more, or no interval could be trusted.
        warmup_seconds: cap of the warm-up of a candidate.
        limit_seconds: cap of the timed seconds of a candidate, for models so slow that `samples`
            would take for ever; it wins over `samples`, and 5 rounds win over it. None: a minute,
            or twice `seconds` if that is more.
        seed: of the order in the rounds and of the intervals.
    """

    seconds: float = 5.0
    samples: int = 100
    rounds: int = 20
    warmup_seconds: float = 5.0
    limit_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "seconds": self.seconds > 0,
            "samples": self.samples >= 1,
            "rounds": self.rounds >= MIN_ROUNDS,
            "warmup_seconds": self.warmup_seconds >= 0,
            "limit_seconds": self.limit >= self.seconds,
        }
        for name, good in checks.items():
            if not good:
                raise ConfigError(
                    f"latency: {name} = {getattr(self, name)} is out of range",
                    hint=f"times must be positive, rounds {MIN_ROUNDS} or more, "
                    "limit_seconds not below seconds",
                )

    @property
    def limit(self) -> float:
        """The cap of the timed seconds of a candidate."""
        if self.limit_seconds is None:
            return max(DEFAULT_LIMIT_SECONDS, 2 * self.seconds)
        return self.limit_seconds


@dataclass(slots=True)
class _Candidate:
    """One session while it is measured."""

    name: str
    session: Session
    feeds: Arrays
    slice: int
    warmup_seconds: float
    rounds: list[Floats]
    seconds: float = 0.0
    count: int = 0

    def take(self) -> None:
        """One slice: a few inferences to settle, then those that count."""
        settle = max(1, round(self.slice * SETTLE_SHARE))
        timed = _timed(self.name, self.session, self.feeds, settle + self.slice)[settle:]
        self.rounds.append(timed)
        self.seconds += float(timed.sum())
        self.count += len(timed)

    def needs_more(self, settings: LatencySettings) -> bool:
        if len(self.rounds) < MIN_ROUNDS:
            return True
        if self.seconds >= settings.limit:
            return False
        enough = self.seconds >= settings.seconds and self.count >= settings.samples
        return len(self.rounds) < settings.rounds or not enough


def measure(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Arrays],
    settings: LatencySettings,
    progress: Progress = lambda done, total, note: None,
) -> dict[str, LatencyResult]:
    """Time all candidates against one another.

    Args:
        sessions: open sessions by the candidate's name.
        feeds: inputs of one inference, by the candidate's name.
        settings: how long.
        progress: called before each round as `progress(done, total, note)`.

    Returns:
        One result per candidate, in the order of `sessions`, all with the same count of rounds.

    Raises:
        ConfigError: `feeds` lacks a candidate.
        TargetError: a session failed.
    """
    if absent := sorted(sessions.keys() - feeds.keys()):
        raise ConfigError(f"latency: no feeds for {absent}", hint="give feeds for every session")
    candidates = []
    for index, (name, session) in enumerate(sessions.items()):
        progress(index, len(sessions), f"warm-up {name}")
        candidates.append(_prepare(name, session, feeds[name], settings))
    _run_rounds(candidates, settings, progress)
    return {
        one.name: LatencyResult(tuple(one.rounds), one.warmup_seconds, settings.seed)
        for one in candidates
    }


def _run_rounds(
    candidates: list[_Candidate], settings: LatencySettings, progress: Progress
) -> None:
    """Rounds until everyone has enough; all take part in each, so that rounds stay pairs."""
    generator = np.random.default_rng(settings.seed)
    done = 0
    while any(one.needs_more(settings) for one in candidates):
        progress(done, max(settings.rounds, done + 1), f"round {done + 1}")
        for index in generator.permutation(len(candidates)):
            candidates[index].take()
        done += 1


def _prepare(name: str, session: Session, feeds: Arrays, settings: LatencySettings) -> _Candidate:
    seconds, estimate = warm_up(name, session, feeds, settings.warmup_seconds)
    return _Candidate(name, session, feeds, _slice(estimate, settings), seconds, [])


def _slice(estimate: float, settings: LatencySettings) -> int:
    """Inferences a round, so that the rounds together reach both minima and not the limit."""
    wanted = max(PLAN_MARGIN * settings.seconds / estimate, settings.samples)
    most = settings.limit / estimate
    return max(1, int(np.ceil(min(wanted, most) / settings.rounds)))


def warm_up(name: str, session: Session, feeds: Arrays, cap: float) -> tuple[float, float]:
    """Run until the medians of three windows in a row agree within 3 %.

    A window holds 3 inferences or more and takes about a twentieth of a second.

    Args:
        name: for messages.
        session: what to warm.
        feeds: inputs of one inference.
        cap: seconds after which it ends anyway.

    Returns:
        Seconds spent, and the last window's median: the estimate of one inference in seconds.
    """
    first = float(_timed(name, session, feeds, 1)[0])
    spent, medians = first, [first]
    while spent < cap:
        repeats = max(3, round(WINDOW_SECONDS / medians[-1]))
        window = _timed(name, session, feeds, repeats)
        spent += float(window.sum())
        medians.append(float(np.median(window)))
        last = medians[1:][-WINDOWS:]
        if len(last) == WINDOWS and max(last) - min(last) <= WINDOW_AGREEMENT * min(last):
            break
    return spent, medians[-1]


def _timed(name: str, session: Session, feeds: Arrays, repeats: int) -> Floats:
    seconds = session.time(feeds, repeats)
    if len(seconds) != repeats or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise TargetError(
            f"{name}: expected {repeats} positive times, got {len(seconds)} "
            f"with a minimum of {np.min(seconds, initial=np.inf):g} seconds",
            "the clock of the target cannot resolve one inference, or its runner is broken",
        )
    return seconds
