"""Progressive distillation: the teacher's own checkpoints teach, one after the other.

Abhishek Panigrahi, Bingbin Liu, Sadhika Malladi, Andrej Risteski, Surbhi Goel, "Progressive
distillation induces an implicit curriculum", 2025 (ICLR), arXiv:2410.05464.

    L = a CE(softmax(z_S), y) + (1 - a) CE(softmax(z_S), q),   q = softmax(z_T^{c(s)} / tau)

c(s) is the checkpoint that teaches step s: the one that is as old as the student (`time-matched`);
one from inside the teacher's sharp transition, then the final teacher (`two-shot`); the next one
whenever the student stands still (`on-saturation`); or always the final teacher (`one-shot`, the
control). tau softens the teacher alone, and there is no T^2.

Departure: `labels: hard` is the limit tau -> 0, the arg-max, which stands for the paper's very
small tau (its value is from memory). `labels: soft`, the default, is our choice for images, where
what the teacher says of the other classes is worth having: T^2 KL with T on both sides, as in `kd`,
so that one-shot is exactly kd with alpha 1. Ours are also: what counts as a visible transition, the
equal segments in its absence, the switch after 0.3 of the training, the longest stay under one
checkpoint in `on-saturation`, and its reading that the last of five evaluations is compared with
the first. The final teacher is that of its best epoch; it takes the place of a checkpoint of its
last epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..contracts import Batch, Figure, Method, Needs
from .course import Course
from .losses import hard_label_loss, mean_over_batch, soft_divergence
from .schedules import equal_segments, time_matched, two_shot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from torch import Tensor, nn

    from ..contracts import CurvePoint, Moment, Study

JUST_AFTER = 1e-6  # of an epoch: its first step may still belong to the checkpoint before


class Progressive(Method):
    """The student follows the teacher's own training."""

    name: ClassVar[str] = "progressive"
    summary: ClassVar[str] = "the teacher's checkpoints teach one after the other, then the teacher"
    citation: ClassVar[str] = (
        "Panigrahi, Liu, Malladi, Risteski, Goel, Progressive distillation induces an implicit "
        "curriculum, 2025"
    )
    own_loss: ClassVar[frozenset[str]] = frozenset({"labels", "temperature", "alpha"})
    gives: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "network"})

    class Options(BaseModel):
        """Options of `progressive`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        course: Literal["time-matched", "two-shot", "on-saturation", "one-shot"] = Field(
            "time-matched", description="which checkpoint teaches when"
        )
        speed: float = Field(
            1.0, gt=0, description="time-matched: epochs of the teacher per epoch of the student"
        )
        switch: float = Field(
            0.3, ge=0, le=1, description="two-shot: share of the training before the final teacher"
        )
        transition: Literal["jump", "first-above"] = Field(
            "jump",
            description="two-shot: the checkpoint before the largest jump of accuracy, or the "
            "first that is a fifth of the way from chance to the best",
        )
        labels: Literal["hard", "tempered", "soft"] = Field(
            "soft",
            description="arg-max of the teacher; its softmax, it alone at a temperature; or both "
            "sides at a temperature, as in kd",
        )
        temperature: float | None = Field(
            None, gt=0, description="of the labels; unset, 1 if tempered and 4 if soft"
        )
        alpha: float = Field(0.0, ge=0, lt=1, description="a: weight of the ground truth")

        @model_validator(mode="after")
        def _hard_labels_have_no_temperature(self) -> Self:
            if self.labels == "hard" and self.temperature is not None:
                raise ValueError("labels: hard has no temperature; leave it out")
            return self

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        follows = options.course != "one-shot"
        self.needs = Needs(labels=options.alpha > 0, teacher=True, checkpoints=follows)
        self._course: Course | None = None
        self._memory: nn.Module | None = None
        self._epochs = 0

    def helpers(self, study: Study) -> nn.Module | None:
        import torch

        if not self.needs.checkpoints:
            return None
        counts = torch.bincount(study.targets("validation"))
        self.follow(study.curve, float(counts.max() / counts.sum()))
        self._epochs, self._memory = 0, torch.nn.Module()
        self._memory.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        return self._memory

    def follow(self, curve: Sequence[CurvePoint], chance: float) -> Course:
        """Take the teacher's training that the schedule goes by; `helpers` does it for the loop.

        Args:
            curve: one point per epoch of the teacher, of which some were kept.
            chance: accuracy of guessing, from 0 to 1.

        Raises:
            TrainingError: no checkpoint was kept.
        """
        self._course = Course.of(curve, chance)
        return self._course

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        if self._course is None or helpers is None:
            return {}
        point = self._point(study.history, int(helpers.get_buffer("epochs")))
        return {
            "checkpoint": float(point.epoch),
            "checkpoint_accuracy": point.accuracy,
            "transition_visible": float(self._course.transition.visible),
        }

    def checkpoint(self, moment: Moment) -> int | None:
        if self._memory is not None and self._epochs != moment.epochs:
            self._epochs = moment.epochs
            self._memory.get_buffer("epochs").fill_(moment.epochs)  # begin_epoch is not told it
        position = moment.epoch + moment.step / moment.steps
        return self._choose(position, moment.epochs, moment.history)

    def _choose(
        self, position: float, epochs: int, history: Sequence[Mapping[str, Any]]
    ) -> int | None:
        """Epoch of the checkpoint that teaches when `position` of `epochs` epochs are done."""
        course, options = self._course, self.options
        if course is None or not course.kept or options.course == "one-shot":
            return None
        if options.course == "time-matched":
            return time_matched(course.kept, position, options.speed)
        if options.course == "on-saturation":
            return course.saturated(epochs, [record["validation_accuracy"] for record in history])
        middle = self._middle()
        if middle is None:
            return equal_segments(course.kept, position / epochs)
        return two_shot(middle, position / epochs, options.switch)

    def _middle(self) -> int | None:
        """Two-shot: epoch of the checkpoint that comes first; None where there is no such."""
        return self._course.middle(self.options.transition) if self._course else None

    def _point(self, history: Sequence[Mapping[str, Any]], epochs: int) -> CurvePoint:
        """The teacher of the epoch that follows a history, from its second step on."""
        assert self._course is not None
        position = len(history) + JUST_AFTER
        return self._course.point(self._choose(position, max(epochs, 1), history))

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        alpha, taught = self.options.alpha, self._from_teacher(batch)
        if alpha == 0:
            return {"teacher": taught}
        labels = F.cross_entropy(batch.student, batch.targets)
        return {"labels": alpha * labels, "teacher": (1 - alpha) * taught}

    def _from_teacher(self, batch: Batch) -> Tensor:
        """What the student still has to learn of the teacher's labels, mean over the batch."""
        assert batch.teacher is not None
        temperature = self.options.temperature
        if self.options.labels == "hard":
            return hard_label_loss(batch.student, batch.teacher, batch.weights)
        if self.options.labels == "tempered":
            return tempered_label_loss(
                batch.student, batch.teacher, temperature or 1.0, batch.weights
            )
        return soft_divergence(batch.student, batch.teacher, temperature or 4.0, batch.weights)

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        if self._course is None:
            return ()
        curve, history = self._course.curve, study.history
        epochs = range(1, len(history) + 1)
        taught = [self._point(history[: epoch - 1], len(history)).accuracy for epoch in epochs]
        learnt = [record["validation_accuracy"] for record in history]
        series = {
            "teacher": ([point.epoch for point in curve], [point.accuracy for point in curve]),
            "checkpoint that taught": (epochs, taught),
            "student": (epochs, learnt),
        }
        return (Figure("What taught when", "epoch", "validation accuracy", series, self._note()),)

    def _note(self) -> str:
        """How to read the figure, and whether the method's argument applies."""
        assert self._course is not None
        transition = self._course.transition
        equal = self.options.course == "two-shot" and self._middle() is None
        instead = "; its checkpoints taught for equal shares of the training" if equal else ""
        if transition.visible:
            before = self._course.kept[transition.index]
            return f"The teacher's sharp transition begins after its epoch {before}{instead}."
        return (
            f"The teacher shows no sharp transition (largest jump {transition.gain:.3f}), so no "
            f"faster learning is to be expected{instead}."
        )


def tempered_label_loss(
    student: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with softmax(teacher / T), mean over the batch; the student stays at T = 1.

    Args:
        student: logits `(N, C)`.
        teacher: logits `(N, C)`.
        temperature: T > 0; there is no factor T^2.
        weights: of each sample `(N,)`.
    """
    import torch.nn.functional as F

    labels = F.softmax(teacher / temperature, dim=1)
    if weights is None:
        return F.cross_entropy(student, labels)
    return mean_over_batch(F.cross_entropy(student, labels, reduction="none"), weights)
