"""Figures in human units, the same way in the terminal, in Markdown, in HTML and in charts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NONE = "-"
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNTS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float, digits: int = 3) -> str:
    """`value` with at least `digits` significant digits and never an exponent, such as `1.20`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = round(value, _decimals(value, digits))
    return f"{rounded:.{_decimals(rounded, digits)}f}"


def percent(fraction: float | None) -> str:
    """A fraction from 0 to 1 as `98.7 %`."""
    return NONE if fraction is None else f"{100 * fraction:.1f} %"


def points(value: float | None) -> str:
    """Percentage points without their unit, such as `0.3`; never `-0.0`."""
    return NONE if value is None else f"{round(value, 1) + 0.0:.1f}"


def against_teacher(drop: float) -> str:
    """A drop in points as words: `0.3 points below the teacher`."""
    if points(drop) == points(0.0):
        return "level with the teacher"
    return f"{points(abs(drop))} points {'below' if drop > 0 else 'above'} the teacher"


def duration(milliseconds: float | None) -> str:
    """Milliseconds as `213 µs`, `1.23 ms` or `2.50 s`."""
    if milliseconds is None:
        return NONE
    if milliseconds < 0.9995:
        return f"{significant(1e3 * milliseconds)} µs"
    if milliseconds < 999.5:
        return f"{significant(milliseconds)} ms"
    return f"{significant(milliseconds / 1e3)} s"


def size(count: float | None) -> str:
    """Bytes as `58.0 kB`; a kB is 1000 bytes."""
    if count is None:
        return NONE
    return _scaled(count, _BYTES) or f"{count:.0f} B"


def quantity(count: float | None) -> str:
    """A number of parameters or samples as `1.08 M`."""
    if count is None:
        return NONE
    return _scaled(count, _COUNTS) or f"{count:.0f}"


def ratio(value: float | None) -> str:
    """A ratio as `12.1x`."""
    return NONE if value is None else f"{significant(value)}x"


def interval(bounds: Sequence[float] | None, unit: Callable[[float | None], str]) -> str:
    """A 95 % interval as `97.8 to 99.2 %`; a dash when there is none.

    Args:
        bounds: lower and upper bound.
        unit: how one bound is written; a unit that both share is written once.
    """
    if bounds is None:
        return NONE
    low, high = unit(bounds[0]), unit(bounds[1])
    if " " in low and low.rpartition(" ")[2] == high.rpartition(" ")[2]:
        low = low.rpartition(" ")[0]
    return f"{low} to {high}"


def with_interval(
    value: float, bounds: Sequence[float] | None, unit: Callable[[float | None], str]
) -> str:
    """A figure and, where there is one, its 95 % interval: `98.7 % (97.8 to 99.2 %)`."""
    return unit(value) if bounds is None else f"{unit(value)} ({interval(bounds, unit)})"


def plural(count: int, noun: str) -> str:
    """`1 goal`, `2 goals`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    for scale, unit in units:
        if abs(value) >= 0.9995 * scale:
            return f"{significant(value / scale)} {unit}"
    return ""


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))
