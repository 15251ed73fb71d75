"""Attention transfer: the student looks where the teacher looks.

Sergey Zagoruyko, Nikos Komodakis, "Paying More Attention to Attention: Improving the Performance of
Convolutional Neural Networks via Attention Transfer", 2017, arXiv:1612.03928.

    Q(F) = vec(mean_c F_c^2)                                one value per position of a map F
    L = CE(z_S, y) + beta sum_layers mean((Q_S / |Q_S| - Q_T / |Q_T|)^2)        (+ KD)

No regressor is needed: channels may differ, and of two maps the larger is average-pooled.

Departure: this is the form of the released code, the mean of squared differences with beta = 1000.
The paper's text has their norm, weighted by beta / 2 and by 1000 over map size times batch. The
optional KD term is that of `kd`, (1 - a) CE + a T^2 KL; that of the released code is averaged over
the classes as well, which is another scale. Which layers are paired by default is our choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..contracts import Batch, Method, Needs, Tap
from ..errors import ModelError, TrainingError
from .kd import KnowledgeDistillation
from .losses import mean_over_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ..contracts import Study

_HINT = "Pair other layers in `layers` as [student, teacher], or take a method such as kd"


class AttentionTransfer(Method):
    """The maps of where features are strong are made alike, layer by layer."""

    name: ClassVar[str] = "attention-transfer"
    summary: ClassVar[str] = "normalised spatial attention maps of some layers made alike (CNNs)"
    citation: ClassVar[str] = (
        "Zagoruyko, Komodakis, Paying More Attention to Attention: Improving the Performance of"
        " Convolutional Neural Networks via Attention Transfer, 2017"
    )

    takes: ClassVar[frozenset[str]] = frozenset({"target", "weights", "checkpoint", "network"})

    class Options(BaseModel):
        """Options of `attention-transfer`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        layers: tuple[tuple[str, str], ...] = Field(
            (("middle", "middle"), ("last", "last")),
            min_length=1,
            description="pairs [student, teacher] of layers: names or positions",
        )
        beta: float = Field(1000.0, ge=0, description="weight of the attention term; 0 is `kd`")
        temperature: float = Field(4.0, gt=0, description="T of the KD term")
        alpha: float = Field(0.0, ge=0, le=1, description="a: weight of the KD term; 0: none")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.base = KnowledgeDistillation(
            KnowledgeDistillation.Options(temperature=options.temperature, alpha=options.alpha)
        )
        pairs = options.layers if options.beta > 0 else ()
        self.pairs = [(Tap(s, "attention"), Tap(t, "attention")) for s, t in pairs]
        self.needs = Needs(
            labels=self.base.needs.labels,
            teacher=self.base.needs.teacher,
            student_taps=tuple(dict.fromkeys(student for student, _ in self.pairs)),
            teacher_taps=tuple(dict.fromkeys(teacher for _, teacher in self.pairs)),
        )

    def helpers(self, study: Study) -> None:
        """There are none; looks whether the layers have maps to compare.

        Raises:
            TrainingError: a layer gives no map, or no pair has more than one position.
        """
        sides = [
            (_map_shape(study, "student", student), _map_shape(study, "teacher", teacher))
            for student, teacher in self.pairs
        ]
        if sides and all(common_positions(*pair) == 1 for pair in sides):
            what = f"the common maps of all pairs {sides} have one position"
            raise TrainingError(f"attention-transfer: {what}: there is nowhere to look", _HINT)

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        parts = dict(self.base.loss(batch, None))
        terms = [
            attention_loss(
                batch.student_features[student], batch.teacher_features[teacher], batch.weights
            )
            for student, teacher in self.pairs
        ]
        if terms:
            parts["attention"] = self.options.beta * sum(terms[1:], terms[0])
        return parts


def attention_map(feature: Tensor) -> Tensor:
    """Where a feature is strong: mean square over the channels, `(N, C, H, W)` -> `(N, H, W)`."""
    return feature.square().mean(dim=1)


def attention_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of two attention maps, each normalised to length 1.

    Between 0 and 4 / positions for each sample.

    Args:
        student: maps `(N, H, W)`.
        teacher: maps `(N, H', W')`; of each axis the longer is average-pooled to the shorter.
        weights: of each sample `(N,)`.
    """
    import torch.nn.functional as F

    size = common_size(student.shape[1:], teacher.shape[1:])
    pooled = (F.adaptive_avg_pool2d(maps, size).flatten(1) for maps in (student, teacher))
    a, b = (F.normalize(maps, dim=1) for maps in pooled)
    return mean_over_batch((a - b).square().mean(dim=1), weights)


def common_size(student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[int, int]:
    """Height and width to which two maps `(H, W)` are pooled."""
    return min(student[0], teacher[0]), min(student[1], teacher[1])


def common_positions(student: tuple[int, ...], teacher: tuple[int, ...]) -> int:
    """Number of positions at which two maps `(H, W)` are compared."""
    height, width = common_size(student, teacher)
    return height * width


def _map_shape(study: Study, role: Literal["student", "teacher"], tap: Tap) -> tuple[int, ...]:
    """Height and width of a layer's map."""
    try:
        return study.student_shape(tap) if role == "student" else study.teacher_shape(tap)
    except ModelError as error:
        what = f"attention-transfer cannot compare the {role}'s layer {study.layer(role, tap)!r}"
        raise TrainingError(f"{what}: {error.message}", f"{error.hint}. {_HINT}") from error
