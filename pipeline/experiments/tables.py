"""A table of an experiment in words: the same cells on a terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..evaluation.seeds import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NEVER = "never"
NONE = "-"
HOLDS, FAILS = "holds", "does not hold here"


@dataclass(frozen=True, slots=True)
class Grid:
    """Heads and rows of words; the first column names the arms."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grid(table: Mapping[str, Any], sign: str = "±") -> Grid:
    """Mean with its 95 % t-interval, smallest and largest value of each arm.

    Where an arm has values that are not finite, medians and shares of solved seeds stand beside.

    Args:
        table: as in METHOD.json.
        sign: what stands between a mean and its interval.
    """
    spreads = [spread(arm_values(arm)) for arm in table["arms"]]
    unsolved = any(found.solved < found.count for found in spreads)
    heads = ("arm", f"mean {sign} 95 %", *(("median", "solved") if unsolved else ()), "min", "max")
    rows = tuple(
        (arm["name"], *_cells(found, table["digits"], sign, unsolved))
        for arm, found in zip(table["arms"], spreads, strict=True)
    )
    return Grid(heads, rows)


def _cells(found: Spread, digits: int, sign: str, unsolved: bool) -> tuple[str, ...]:
    median = (number(found.median, digits), f"{found.solved}/{found.count}") if unsolved else ()
    ends = number(found.least, digits), number(found.most, digits)
    return (average(found, digits, sign), *median, *ends)


def average(found: Spread, digits: int, sign: str = "±") -> str:
    """`97.3 ± 0.4`; without the interval for one seed; a dash where a value is not finite."""
    if found.mean is None:
        return NONE
    mean = number(found.mean, digits)
    return mean if found.reach is None else f"{mean} {sign} {number(found.reach, digits)}"


def number(value: float, digits: int) -> str:
    """A value with its decimals, never `-0.0`; `never` for an infinite one."""
    if math.isinf(value):
        return NEVER if value > 0 else f"-{NEVER}"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def arm_values(arm: Mapping[str, Any]) -> tuple[float, ...]:
    """The values of an arm, one per seed; JSON holds infinite ones as the text `inf`."""
    return tuple(float(value) for value in arm["values"])


def title(table: Mapping[str, Any]) -> str:
    """`accuracy (% of test digits)`."""
    return f"{table['title']} ({table['unit']})" if table["unit"] else str(table["title"])


def verdict(check: Mapping[str, Any]) -> str:
    """`holds` or `does not hold here`."""
    return HOLDS if check["holds"] else FAILS


def passed(checks: Sequence[Mapping[str, Any]]) -> str:
    """`2 of 3 checks hold here`."""
    return f"{sum(check['holds'] for check in checks)} of {len(checks)} checks hold here"
