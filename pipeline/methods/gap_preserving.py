"""Gap-preserving distillation: a dynamic teacher that is the student, grown, with shared weights.

Yong Guo, Shulian Zhang, Haolin Pan, Jing Liu, Yulun Zhang, Jian Chen, "Gap Preserving Distillation
by Building Bidirectional Mappings with A Dynamic Teacher", ICLR 2025, arXiv:2410.04140.

The student S is enlarged without loss (more channels, more branches) into a dynamic teacher D that
starts at the same function and holds the student as a part of itself; both learn at once:

    L_D = CE(z_D, y) + s T^2 KL(p_T || p_D)
    L_S = CE(z_S, y) + s T^2 KL(p_T || p_S) + l H(softmax(stopgrad z_D), softmax(z_S))

z_T are the logits of the usual, static teacher, p its distributions at a temperature T, and H is
cross-entropy at temperature 1 with smoothed targets. Gradients of both add up on the shared
weights. At the end the student is read out of D and its branches are merged: nothing of D is left.

The equations are those of the authors' released code; the body of the paper was not at hand.

Departures:
- The static teacher teaches by the plain divergence at a temperature; the code uses decoupled KD or
  feature review. `lambda_static: 0` is what the paper calls GPD*, without a static teacher.
- Activations are replicated as they are and the columns of dense layers divided by the ratio; the
  code divides activations and rescales batch norm and activations at run time. Same functions.
- Of the code's six kinds of branches there are, besides the convolution itself, the 1x1 and the 1x1
  followed by a mean; a fourth, a second convolution, is ours. The convolution itself has no scale.
- Noise is put on the copies only, so that the student starts exactly where it was.
- No moving average of the weights, and no clipping here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ..contracts import Batch, Figure, Method, Needs, Tap
from ..errors import TrainingError
from .losses import mean_over_batch, soft_divergence
from .modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Study

DYNAMIC = Tap("dynamic-teacher")
_STUDENT_TRAIN, _DYNAMIC_TRAIN = "student_train_accuracy", "dynamic_teacher_train_accuracy"
_WATCHED = 256  # training samples that are looked at before every epoch
_TOLERANCE = 1e-4  # of the largest logit


def smoothed_cross_entropy(
    student: Tensor, teacher: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy to the teacher's smoothed distribution at temperature 1, mean over the batch.

    Args:
        student: logits `(N, C)`.
        teacher: logits `(N, C)`; no gradient reaches them.
        smoothing: share of the target that is spread over all classes.
        weights: of each sample `(N,)`.
    """
    import torch.nn.functional as F

    target = teacher.detach().softmax(dim=1)
    each = F.cross_entropy(student, target, reduction="none", label_smoothing=smoothing)
    return mean_over_batch(each, weights)


class GapPreserving(Method):
    """A larger network around the student is trained with it and teaches it."""

    name: ClassVar[str] = "gap-preserving"
    summary: ClassVar[str] = "a grown copy that shares the student's weights learns and teaches"
    citation: ClassVar[str] = (
        "Guo, Zhang, Pan, Liu, Zhang, Chen, Gap Preserving Distillation by Building Bidirectional"
        " Mappings with A Dynamic Teacher, 2025"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"network"})
    takes: ClassVar[frozenset[str]] = frozenset({"target", "weights", "checkpoint"})

    class Options(BaseModel):
        """Options of `gap-preserving`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        ratio: int = Field(2, ge=1, description="r: channels of the dynamic teacher per channel")
        branches: int = Field(3, ge=1, le=4, description="per convolution with a window; 1 is none")
        lambda_dt: float = Field(3.0, ge=0, description="l: weight of the dynamic teacher")
        lambda_static: float = Field(1.0, ge=0, description="s: weight of the teacher; 0 is GPD*")
        temperature: float = Field(4.0, gt=0, description="T: of the teacher's distributions")
        smoothing: float = Field(0.1, ge=0, lt=1, description="of the dynamic teacher's targets")
        noise: float = Field(1e-6, ge=0, description="on the copies, so that they grow apart")
        share: bool = Field(True, description="share weights; false is an ablation")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        # A network that nothing is added to is the student itself, and has nothing to teach it.
        self.grows = options.ratio > 1 or options.branches > 1
        taps = (DYNAMIC,) if self.grows else ()
        self.needs = Needs(labels=True, teacher=options.lambda_static > 0, student_taps=taps)

    def adopt(self, student: nn.Module) -> nn.Module:
        if not self.grows:
            return student
        from .expansion import grow
        from .expansion_pair import Apart

        options = self.options
        grown = grow(student, options.ratio, options.branches, options.noise)
        return grown if options.share else Apart(student, grown.teacher)

    def helpers(self, study: Study) -> nn.Module | None:
        """None; but it tries on real samples that growing this student changes nothing."""
        import torch

        if self.grows:
            few = torch.arange(min(4, len(study.targets("train"))))
            inputs = study.samples(few)[0]
            if len(inputs) != 1:
                raise TrainingError(
                    f"gap-preserving grows students of one input; this one takes {sorted(inputs)}",
                    "take another method, or `ratio: 1, branches: 1`, which grows nothing",
                )
            (x,) = inputs.values()
            check_lossless(self.finish(study.network), x, self.options.ratio)
        return None

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        """Training accuracy of both networks, and how far the copies have grown apart."""
        from .expansion_pair import Pair, Shared

        if not isinstance(study.network, Pair):
            return {}
        student, dynamic = _accuracies(study)
        found = {_STUDENT_TRAIN: student, _DYNAMIC_TRAIN: dynamic}
        if isinstance(study.network, Shared) and study.network.plan:
            found["replica_divergence"] = study.network.replica_divergence()
        return found

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        labels = {"labels": F.cross_entropy(batch.student, batch.targets)}
        static = self._static("teacher", batch, batch.student)
        return {**labels, **static, **self.terms(batch, helpers)}

    def terms(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        if not self.grows:
            return {}
        dynamic, options = batch.student_features[DYNAMIC], self.options
        parts = {"dynamic_labels": F.cross_entropy(dynamic, batch.targets)}
        parts |= self._static("dynamic_teacher", batch, dynamic)
        if options.lambda_dt > 0:
            parts["from_dynamic"] = options.lambda_dt * smoothed_cross_entropy(
                batch.student, dynamic, options.smoothing, batch.weights
            )
        return parts

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        told = {record["epoch"] - 1: record.get("method", {}) for record in study.history}
        series = {
            name: _curve(told, key)
            for name, key in (("dynamic teacher", _DYNAMIC_TRAIN), ("student", _STUDENT_TRAIN))
        }
        note = "The distance of the lines is the gap that the method keeps small."
        figure = Figure(
            "Dynamic teacher and student", "finished epochs", "% of training samples", series, note
        )
        return (figure,) if series["student"][0] else ()

    def finish(self, network: nn.Module) -> nn.Module:
        from .expansion_pair import Pair

        return network.student() if isinstance(network, Pair) else network

    def _static(self, name: str, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        """The static teacher's term for one of the two networks, if there is a static teacher."""
        if batch.teacher is None or self.options.lambda_static == 0:
            return {}
        soft = soft_divergence(logits, batch.teacher, self.options.temperature, batch.weights)
        return {name: self.options.lambda_static * soft}


def check_lossless(student: nn.Module, x: Tensor, ratio: int) -> None:
    """See on samples that the student, grown without noise, gives the same logits.

    Args:
        student: a plain student; left in eval mode.
        x: samples `(N, ...)`, anywhere.
        ratio: how many times larger the grown network is.

    Raises:
        TrainingError: it does not, or it cannot take the samples.
    """
    import torch

    from .expansion import grow

    if ratio == 1:
        return
    hint = "choose another method, or a student that passes on its channels as they are"
    grown = grow(student.eval(), ratio, branches=1, noise=0)
    x = x.to(next(student.parameters()).device)
    try:
        with torch.no_grad():
            wanted, got = student(x), grown.teacher(x)
    except RuntimeError as error:
        what = str(error).splitlines()[0]
        raise TrainingError(f"the grown student cannot take its inputs: {what}", hint) from error
    difference = float((wanted - got).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise TrainingError(
            f"the grown student is another function: logits differ by {difference:.2g}, expected"
            f" at most {_TOLERANCE:g} of the largest",
            hint,
        )


def _accuracies(study: Study) -> tuple[float, float]:
    """Share of some clean training samples that student and dynamic teacher get right."""
    import torch

    total = len(study.targets("train"))
    inputs, targets = study.samples(torch.arange(min(total, _WATCHED)))
    network: Any = study.network
    x = next(iter(inputs.values())).to(next(network.parameters()).device)
    with torch.no_grad(), evaluating(network):
        logits, features = network.forward_with_taps(x, [DYNAMIC.layer])
    both = (logits, features[DYNAMIC.layer])
    student, dynamic = ((z.argmax(1).cpu() == targets).float().mean().item() for z in both)
    return student, dynamic


def _curve(told: Mapping[int, Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Finished epochs, and a share in percent at each of them."""
    epochs = [epoch for epoch, figures in told.items() if key in figures]
    return [float(epoch) for epoch in epochs], [100 * told[epoch][key] for epoch in epochs]
