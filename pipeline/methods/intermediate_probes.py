"""Distillation from probes on the teacher's intermediate features.

Ryan Brown, Chris Russell, "Task-Specific Knowledge Distillation via Intermediate Probes", 2026,
arXiv:2603.12270.

    h_l(x)                              pooled features of the frozen teacher at layer l
    q(x) = softmax(g_l(h_l(x)) / T)     g_l: a probe, fitted to the labels
    L = (1 - a) CE(softmax(z_S), y) + a T^2 KL(q || softmax(z_S / T))

The teacher's logits are used nowhere in it: how well its head reads its features does not matter.

Departure: the paper's body was not at hand; from its abstract we have the frozen teacher, light
probes, their answers in the place of the teacher's logits, and the gain with few samples. The rest
is our design: the paper asks language models multiple-choice questions, here features of
classifiers are pooled; standardisation, linear or MLP probe, their optimiser, early stopping and
choice of the layer by the validation loss, cross-fitting, temperatures. Probes are fitted to clean
samples and answer for what the student sees, augmented or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..contracts import Batch, Figure, Method, Needs, Tap
from ..errors import TrainingError
from .losses import soft_divergence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from ..contracts import Study
    from .probes import ProbeTraining
    from .probing_teacher import FittedLayer, ProbingTeacher

_FOLDS = 5


class IntermediateProbes(Method):
    """Soft targets of probes on the teacher's features, in the place of its logits."""

    name: ClassVar[str] = "intermediate-probes"
    summary: ClassVar[str] = "soft targets of probes on the teacher's features, not of its head"
    citation: ClassVar[str] = (
        "Brown, Russell, Task-Specific Knowledge Distillation via Intermediate Probes, 2026"
    )
    own_loss: ClassVar[frozenset[str]] = frozenset({"temperature", "alpha"})
    gives: ClassVar[frozenset[str]] = frozenset({"target"})
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "network"})

    class Options(BaseModel):
        """Options of `intermediate-probes`."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        layers: tuple[str, ...] = Field(
            ("first", "middle", "last"),
            min_length=1,
            description="of the teacher: their names, or first, middle, last",
        )
        probe: Literal["linear", "mlp"] = Field("linear", description="mlp has one hidden layer")
        hidden: int = Field(128, ge=1, description="units of the hidden layer; mlp only")
        dropout: float = Field(0.1, ge=0, lt=1, description="of the hidden units; mlp only")
        probe_lr: float = Field(1e-2, gt=0, description="learning rate of the probes (AdamW)")
        probe_weight_decay: float = Field(1e-3, ge=0, description="of the probes")
        probe_epochs: int = Field(
            200, ge=1, description="of the probes, each one step over all rows"
        )
        patience: int = Field(20, ge=1, description="epochs without a lower validation loss")
        combine: Literal["best", "mean"] = Field(
            "best", description="layer of the lowest validation loss, or mean of all logits"
        )
        folds: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
            "auto", description="of the cross-fit, 1 is none; auto: 5 for few samples, else 1"
        )
        cross_fit_below: int = Field(
            1000, ge=0, description="training samples up to which auto cross-fits"
        )
        temperature: float = Field(2.0, gt=0, description="T: softens both distributions")
        alpha: float = Field(1.0, ge=0, le=1, description="a: weight of the probe; 1: no labels")
        calibrate: bool = Field(
            False, description="divide the probe's logits by a temperature fitted on validation"
        )

        @field_validator("layers")
        @classmethod
        def _no_layer_twice(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
            twice = sorted({name for name in layers if layers.count(name) > 1})
            if twice:
                raise ValueError(f"layer {twice[0]!r} is listed more than once")
            return layers

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        taps = tuple(Tap(layer, "pooled") for layer in options.layers)
        self.needs = Needs(labels=options.alpha < 1, teacher=False, teacher_taps=taps)

    def helpers(self, study: Study) -> ProbingTeacher:
        """Probes fitted to the clean training samples: frozen, the same for the same seed.

        Layers that are named twice, by position and by name, count once. The teacher's logits are
        not looked at.

        Raises:
            TrainingError: a feature is no vector or not finite; fewer samples than folds.
        """
        from .probes import assign_folds, rows_to_learn_from
        from .probing_teacher import ProbingTeacher

        targets = study.targets("train")
        folds = min(self._folds(len(targets), study.rehearsal), len(targets))
        fold = assign_folds(targets, folds, study.seed)
        rows = rows_to_learn_from(fold, folds)
        # Not even the number of classes is asked of the teacher's head.
        classes = study.student_logits("validation").shape[1]
        taps: dict[str, Tap] = {}
        for tap in self.needs.teacher_taps:
            taps.setdefault(study.layer("teacher", tap), tap)
        layers = [self._fit(study, tap, name, rows, classes) for name, tap in taps.items()]
        teacher = ProbingTeacher(layers, fold, self.options.combine)
        if self.options.calibrate:
            features = _features(study, teacher, "validation")
            teacher.calibrate(features, study.targets("validation"))
        return teacher

    def begin_epoch(self, study: Study, helpers: nn.Module | None) -> Mapping[str, float]:
        """Before the first epoch: how good the targets are, and how far from the head's."""
        if study.history:
            return {}
        from .probing_teacher import entropy, quality

        teacher = cast("ProbingTeacher", helpers)
        validation = teacher.of_every_fold(_features(study, teacher, "validation")).cpu()
        loss, accuracy = quality(validation, study.targets("validation"))
        same = validation.argmax(dim=2) == study.teacher_logits("validation").argmax(dim=1)
        train = teacher(_features(study, teacher, "train"), teacher.every_row())
        return {
            "probe_loss": loss,
            "probe_accuracy": accuracy,
            "probe_agrees_with_head": float(same.float().mean()),
            "probe_entropy": entropy(train / self.options.temperature),
        }

    def adapt(self, batch: Batch, helpers: nn.Module | None) -> Batch:
        """Put the probes' logits in the place of the teacher's."""
        teacher = cast("ProbingTeacher", helpers)
        return replace(batch, teacher=teacher(batch.teacher_features, batch.index))

    def loss(self, batch: Batch, helpers: nn.Module | None) -> Mapping[str, Tensor]:
        import torch.nn.functional as F

        alpha, parts = self.options.alpha, {}
        if self.needs.labels:
            labels = F.cross_entropy(batch.student, batch.targets)
            parts["labels"] = labels if alpha == 0 else (1 - alpha) * labels
        if alpha > 0:
            probe, temperature = cast("Tensor", batch.teacher), self.options.temperature
            soft = soft_divergence(batch.student, probe, temperature, batch.weights)
            parts["probe"] = alpha * soft
        return parts

    def figures(self, study: Study, helpers: nn.Module | None) -> Sequence[Figure]:
        """What the probes read off each layer, beside what the teacher's head makes of the last."""
        from .probing_teacher import quality

        teacher = cast("ProbingTeacher", helpers)
        head = study.teacher_logits("validation")[None]
        loss, accuracy = quality(head, study.targets("validation"))
        percent = (100 * teacher.accuracies).tolist()
        return (
            _by_layer(teacher, "accuracy", "accuracy (%)", percent, 100 * accuracy),
            _by_layer(teacher, "loss", "cross-entropy (nats)", teacher.losses.tolist(), loss),
        )

    def _folds(self, samples: int, rehearsal: bool) -> int:
        folds: Literal["auto"] | int = self.options.folds
        if folds == "auto":
            return min(_FOLDS, samples) if samples <= self.options.cross_fit_below else 1
        if folds > samples and not rehearsal:
            what = f"folds is {folds} for {samples} training samples, expected at most {samples}"
            raise TrainingError(what, "Give fewer folds, or `auto`")
        return folds

    def _fit(self, study: Study, tap: Tap, name: str, rows: Tensor, classes: int) -> FittedLayer:
        from .probes import fit_probes
        from .probing_teacher import FittedLayer, quality

        train = _vectors(study, "train", tap), study.targets("train")
        validation = _vectors(study, "validation", tap), study.targets("validation")
        probes = fit_probes(train, rows, validation, classes, self._training(), study.seed)
        return FittedLayer(tap, name, probes, *quality(probes(validation[0]), validation[1]))

    def _training(self) -> ProbeTraining:
        from .probes import ProbeTraining

        o = self.options
        hidden = o.hidden if o.probe == "mlp" else 0
        return ProbeTraining(
            hidden, o.dropout, o.probe_lr, o.probe_weight_decay, o.probe_epochs, o.patience
        )


def _features(study: Study, teacher: ProbingTeacher, split: str) -> dict[Tap, Tensor]:
    """What the probes read of a split, where they are."""
    device = teacher.fold.device
    return {tap: _vectors(study, split, tap).to(device) for tap in teacher.taps}


def _vectors(study: Study, split: str, tap: Tap) -> Tensor:
    """A feature of the teacher `(N, D)`.

    Raises:
        TrainingError: it has other axes, or a value that is not finite.
    """
    features = study.teacher_features(split, tap)
    name = study.layer("teacher", tap)
    if features.ndim != 2:
        shape = tuple(features.shape[1:])
        what = f"Layer {name!r} of the teacher gives {shape} per sample, expected a vector (D,)"
        raise TrainingError(what, "Name a layer in `layers` whose feature can be pooled")
    wrong = int((~features.isfinite()).any(dim=1).sum())
    if wrong:
        what = f"Layer {name!r} of the teacher is NaN or infinite for {wrong} {split} samples"
        raise TrainingError(what, "Leave it out of `layers`, or run the teacher in fp32")
    return features


def _by_layer(
    teacher: ProbingTeacher, what: str, axis: str, values: Sequence[float], head: float
) -> Figure:
    """One value of the probes per layer, with that of the teacher's head as a line beside it."""
    places = list(range(1, len(values) + 1))
    layers = ", ".join(f"{i} is {name}" for i, name in zip(places, teacher.names, strict=True))
    chosen = " and ".join(teacher.names[i] for i in teacher.chosen)
    series = {"probe": (places, values), "teacher's head": (places, [head] * len(places))}
    note = f"On the validation split; {layers}; the student learnt from {chosen}."
    return Figure(f"Probes on the teacher's layers: {what}", "layer", axis, series, note)
