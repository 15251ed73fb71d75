"""A teacher's training as a course that a student may follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import TrainingError
from .schedules import Transition, find_transition, first_above, on_saturation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..contracts import CurvePoint


@dataclass(frozen=True, slots=True)
class Course:
    """A teacher's training, as a student may follow it.

    Attributes:
        curve: one point per epoch.
        kept: epochs of the checkpoints that teach before the final teacher.
        chance: accuracy of guessing, from 0 to 1.
        transition: the largest jump between neighbours of `kept` and the end of the curve.
    """

    curve: tuple[CurvePoint, ...]
    kept: tuple[int, ...]
    chance: float
    transition: Transition

    @classmethod
    def of(cls, curve: Sequence[CurvePoint], chance: float) -> Course:
        """The course of a teacher; what it was after its last epoch counts as the final teacher.

        Args:
            curve: one point per epoch of the teacher, of which some were kept.
            chance: accuracy of guessing, from 0 to 1.

        Raises:
            TrainingError: no checkpoint was kept.
        """
        if not any(point.kept for point in curve):
            raise _nothing_kept(curve)
        kept = tuple(point.epoch for point in curve[:-1] if point.kept)
        return cls(tuple(curve), kept, chance, find_transition(_accuracies(curve, kept)))

    def middle(self, rule: str) -> int | None:
        """Epoch of the checkpoint at the transition; None if there is no such."""
        if rule == "jump":
            return self.kept[self.transition.index] if self.transition.visible else None
        index = first_above(_accuracies(self.curve, self.kept), self.chance)
        return self.kept[index] if index < len(self.kept) else None

    def saturated(self, epochs: int, accuracies: Sequence[float]) -> int | None:
        """The checkpoint of a student that moves on when it stands still, and in time for the last.

        Of more checkpoints than there are epochs for, some are left out, evenly.

        Args:
            epochs: length of the student's training.
            accuracies: of the student on the validation split, one per finished epoch.
        """
        kept = _thinned(self.kept, epochs - 1)  # the final teacher needs an epoch, too
        longest = max(1, epochs // (len(kept) + 1))
        switches = on_saturation(accuracies, self.chance, longest)
        return kept[switches] if switches < len(kept) else None

    def point(self, epoch: int | None) -> CurvePoint:
        """The teacher after an epoch; None is the final one, which is that of its best epoch."""
        if epoch is None:
            return max(self.curve, key=lambda point: (point.accuracy, -point.loss))
        return next(point for point in self.curve if point.epoch == epoch)


def _thinned(kept: tuple[int, ...], most: int) -> tuple[int, ...]:
    """At most so many of them, spread evenly, the last one among them."""
    if len(kept) <= most:
        return kept
    return tuple(kept[len(kept) * (place + 1) // most - 1] for place in range(most))


def _accuracies(curve: Sequence[CurvePoint], kept: Sequence[int]) -> list[tuple[float, float]]:
    """Epoch and accuracy of the kept checkpoints and of the end of the curve."""
    epochs = {*kept, curve[-1].epoch}
    return [(point.epoch, point.accuracy) for point in curve if point.epoch in epochs]


def _nothing_kept(curve: Sequence[CurvePoint]) -> TrainingError:
    if curve:
        return TrainingError(
            f"progressive needs checkpoints of the teacher; none of {len(curve)} was kept",
            "set teacher.checkpoints: 1, which keeps one per epoch",
        )
    return TrainingError(
        "progressive needs checkpoints of the teacher; this one was loaded from weights, so its "
        "training is not known",
        "let it be trained here, without teacher.weights and with teacher.checkpoints: 1; "
        "or set distill.course: one-shot",
    )
