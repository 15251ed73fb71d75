"""What the experiment of a method is: its paper's claim, tried at a size that a laptop can carry.

An experiment joins by an entry point in the group `edgedistill.experiments` under the name of its
method. It must use the method's own code, so that what is proven is what users run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..contracts import Figure


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, over all seeds.

    Attributes:
        name: such as `uniform forward KL`.
        values: one per seed; `inf` where a threshold was never reached.
    """

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Arms that are compared by one figure.

    Attributes:
        title: what was measured.
        unit: of the values, such as `% of test digits` or `steps`.
        arms: the method, its baselines and its controls.
        digits: decimals that are shown.
    """

    title: str
    unit: str
    arms: tuple[Arm, ...]
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Check:
    """One statement of the claim, tried here.

    Attributes:
        statement: what should hold, with its threshold.
        holds: whether it did.
        got: the figures that decide it.
    """

    statement: str
    holds: bool
    got: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an experiment gave."""

    tables: tuple[Table, ...]
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...] = ()


class Experiment(Protocol):
    """The experiment of one method.

    Attributes:
        claim: what the paper says, with its figure and where it stands.
        setting: data, teacher, student, budget and controls of our reduction.
        seeds: how many are run unless the user says otherwise.
    """

    claim: ClassVar[str]
    setting: ClassVar[str]
    seeds: ClassVar[int]

    def run(self, seeds: int, progress: Callable[[int, int, str], None]) -> Outcome:
        """Run all arms for seeds 0 to `seeds - 1`.

        Args:
            seeds: at least 1.
            progress: called as `progress(done, total, note)`.
        """
