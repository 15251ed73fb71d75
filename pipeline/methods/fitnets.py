"""FitNets: hints from the middle of the teacher for a student that is thin and deep.

Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta, Yoshua
Bengio, "FitNets: Hints for Thin Deep Nets", 2015, arXiv:1412.6550.

    stage 1:  L = 1/2 || u(x) - r(v(x)) ||^2      up to the guided layer v, and the regressor r
    stage 2:  L = CE(z_S, y) + lambda KD(z_S, z_T; T)     all of the student, lambda from 4 to 1

u is the teacher's hint layer, r a convolution without padding whose kernel makes the maps equal
(student side - teacher side + 1), or a linear layer. Middle layers, lambda's linear decay from 4
to 1 and T = 3 are the paper's.

Departure: the squared distance is a mean over the elements, not their sum, because one learning
rate serves both stages; r is linear (the paper gives it the hint's non-linearity); KD is
T^2 KL as in `kd`; `hint_share` (the paper trains each stage until its validation error stands
still) and one schedule of the learning rate over both stages are design choices; labels and KD
are weighted 1 - a and a lambda, so a = 0.5 is the paper's mixture, halved.

`stages: one` is what benchmarks usually call FitNet, (1 - a) CE + a KD + beta MSE(r(v), u) all the
time; with a = 0 it is their form. The paper tried both at once, and its network failed to learn
(section 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..contracts import Batch, Method, Needs, Tap
from ..errors import TrainingError
from .kd import KnowledgeDistillation
from .losses import mean_over_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ..contracts import Study

    Shape = tuple[int, ...]

_LAMBDA_END = 1.0


class FitNets(Method):
    """First the guided layer learns the teacher's hint, then the whole student by KD."""

    name: ClassVar[str] = "fitnets"
    summary: ClassVar[str] = "first a hint from the teacher's middle, then kd: for thin deep nets"
    citation: ClassVar[str] = (
        "Romero, Ballas, Kahou, Chassang, Gatta, Bengio, FitNets: Hints for Thin Deep Nets, 2015"
    )

    takes: ClassVar[frozenset[str]] = frozenset({"target", "weights", "checkpoint", "network"})

    class Options(BaseModel):
        """Options of `fitnets`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        student_layer: str = Field("middle", description="guided layer: a name or a position")
        teacher_layer: str = Field("middle", description="hint layer: a name or a position")
        stages: Literal["two", "one"] = Field("two", description="hint first, or all at once")
        hint_share: float = Field(
            0.3, ge=0, lt=1, description="share of the training that is stage 1 (two stages)"
        )
        anneal_from: float = Field(
            4.0, ge=0, description="lambda at the start of stage 2; it ends at 1 (two stages)"
        )
        beta: float = Field(100.0, ge=0, description="weight of the hint (one stage)")
        temperature: float = Field(3.0, gt=0, description="T of the KD term")
        alpha: float = Field(0.5, ge=0, le=1, description="a: weight of the KD term")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.base = KnowledgeDistillation(
            KnowledgeDistillation.Options(temperature=options.temperature, alpha=options.alpha)
        )
        two = options.stages == "two"
        self.hints = (options.hint_share if two else options.beta) > 0
        self.guided, self.hint = Tap(options.student_layer), Tap(options.teacher_layer)
        self.needs = Needs(
            labels=self.base.needs.labels,
            teacher=self.base.needs.teacher,
            student_taps=(self.guided,) if self.hints else (),
            teacher_taps=(self.hint,) if self.hints else (),
        )

    def helpers(self, study: Study) -> nn.Module | None:
        """The regressor from the guided layer to the hint; the same for the same seed.

        Raises:
            TrainingError: no regressor leads from one shape to the other.
        """
        if not self.hints:
            return None
        import torch

        student, teacher = study.student_shape(self.guided), study.teacher_shape(self.hint)
        fault = regressor_fault(student, teacher)
        if fault:
            guided, hint = study.layer("student", self.guided), study.layer("teacher", self.hint)
            what = f"fitnets: layer {guided!r} of the student gives {student}, the hint layer"
            hint_line = "Name other layers in `student_layer` and `teacher_layer`"
            raise TrainingError(f"{what} {hint!r} of the teacher {teacher}: {fault}", hint_line)
        # Apart from the random numbers of the training, which stay those of kd.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(study.seed)
            return make_regressor(student, teacher)

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        options = self.options
        if options.stages == "two" and batch.progress < options.hint_share:
            return {"hint": self._hint_loss(batch, helpers) / 2}
        parts = dict(self.base.loss(batch, None))
        if options.stages == "one" and self.hints:
            parts["hint"] = options.beta * self._hint_loss(batch, helpers)
        elif options.stages == "two" and "teacher" in parts:
            parts["teacher"] = self.annealed(batch.progress) * parts["teacher"]
        return parts

    def annealed(self, progress: float) -> float:
        """Lambda of stage 2: linear from `anneal_from` to 1 over what is left of the training.

        Args:
            progress: share of the whole training that is done, at least `hint_share`.
        """
        share, start = self.options.hint_share, self.options.anneal_from
        done = (progress - share) / (1 - share)
        return float(start + (_LAMBDA_END - start) * done)

    def _hint_loss(self, batch: Batch, regressor: nn.Module | None) -> Tensor:
        assert regressor is not None, "the loop hands the helpers on"
        regressed = regressor(batch.student_features[self.guided])
        return hint_loss(regressed, batch.teacher_features[self.hint], batch.weights)


def hint_loss(regressed: Tensor, hint: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared difference of two features of one shape `(N, ...)`.

    Args:
        regressed: of the student.
        hint: of the teacher.
        weights: of each sample `(N,)`.
    """
    import torch.nn.functional as F

    if weights is None:
        return F.mse_loss(regressed, hint)
    return mean_over_batch((regressed - hint).square().flatten(1).mean(dim=1), weights)


def regressor_fault(student: Shape, teacher: Shape) -> str:
    """Why no regressor leads from one shape (without the batch axis) to the other, or empty."""
    if len(student) != len(teacher):
        return "expected features of one kind: vectors (C,), tokens (T, C) or maps (C, H, W)"
    if len(student) == 3 and any(s < t for s, t in zip(student[1:], teacher[1:], strict=True)):
        return "the student's map is smaller; expected one at least as large (an earlier layer)"
    if len(student) == 2 and student[0] != teacher[0]:
        return f"expected as many tokens; they have {student[0]} and {teacher[0]}"
    if len(student) not in (1, 2, 3):
        return "expected vectors (C,), tokens (T, C) or maps (C, H, W)"
    return ""


def make_regressor(student: Shape, teacher: Shape) -> nn.Module:
    """A layer from the student's feature to the teacher's: never exported.

    Args:
        student: `(C,)`, `(T, C)` or `(C, H, W)`, for which `regressor_fault` is empty.
        teacher: likewise.
    """
    from torch import nn

    if len(student) < 3:
        return nn.Linear(student[-1], teacher[-1])
    kernel = (student[1] - teacher[1] + 1, student[2] - teacher[2] + 1)
    return nn.Conv2d(student[0], teacher[0], kernel)
