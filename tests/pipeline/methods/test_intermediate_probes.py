"""`intermediate-probes`: what its students depend on, and what they do not."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from edgedistill.pipeline.contracts import Batch, Tap
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.composed import Composed, faults
from edgedistill.pipeline.methods.intermediate_probes import IntermediateProbes
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.losses import soft_divergence
from edgedistill.pipeline.methods.probes import probe_from_head
from edgedistill.pipeline.methods.probing_teacher import FittedLayer, ProbingTeacher, entropy
from edgedistill.pipeline.training.taps import Tapped

N, M, D, C = 60, 45, 8, 3
SPLITS = {"train": (N, 0), "validation": (M, 1)}
EASY, HARD = Tap("easy", "pooled"), Tap("hard", "pooled")


@dataclass
class HandStudy:
    """Features that tell the class clearly or badly, and a head that says nothing."""

    noise: dict[str, float] = field(default_factory=lambda: {"easy": 1.0, "hard": 4.0})
    changes: dict[str, torch.Tensor] = field(default_factory=dict)
    history: tuple = ()
    seed: int = 0
    rehearsal: bool = False

    def targets(self, split: str) -> torch.Tensor:
        count, seed = SPLITS[split]
        return torch.randint(0, C, (count,), generator=torch.Generator().manual_seed(seed))

    def teacher_features(self, split: str, tap: Tap) -> torch.Tensor:
        layer = self.layer("teacher", tap)
        if layer in self.changes:
            return self.changes[layer]
        random = torch.Generator().manual_seed(SPLITS[split][1] + len(layer))
        centres = 2 * torch.randn((C, D), generator=torch.Generator().manual_seed(99))
        targets = self.targets(split)
        return centres[targets] + self.noise[layer] * torch.randn(
            (len(targets), D), generator=random
        )

    def teacher_logits(self, split: str) -> torch.Tensor:
        return torch.zeros(SPLITS[split][0], C)

    def student_logits(self, split: str) -> torch.Tensor:
        return torch.zeros(SPLITS[split][0], C)

    def layer(self, role: str, tap: Tap) -> str:
        assert role == "teacher"
        return {"first": "hard", "last": "easy"}.get(tap.layer, tap.layer)


class Unreadable:
    """Labels that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the labels were read: {name}")


def make(**options) -> IntermediateProbes:
    options = {"layers": ("easy", "hard"), **options}
    return IntermediateProbes(IntermediateProbes.Options(**options))


def batch(study=None, student=None, targets=None, rows=slice(None), weights=None) -> Batch:
    study = study or HandStudy()
    index = torch.arange(N)[rows]
    student = torch.randn(len(index), C) if student is None else student
    targets = study.targets("train")[rows] if targets is None else targets
    features = {tap: study.teacher_features("train", tap)[rows] for tap in (EASY, HARD)}
    return Batch(
        student, None, targets, 0, 0.0, index, teacher_features=features, weights=weights
    )  # fmt: skip


def target(method, helpers, **options) -> torch.Tensor:
    return method.adapt(batch(**options), helpers).teacher


def corrupted(teacher: nn.Module, noise: float) -> nn.Module:
    teacher = copy.deepcopy(teacher)
    for i, parameter in enumerate(teacher.head.parameters()):
        random = torch.Generator().manual_seed(i)
        parameter.data += noise * torch.randn(parameter.shape, generator=random)
    return teacher


# Independence from the head.


@pytest.mark.parametrize(
    "options", [{}, {"probe": "mlp", "combine": "mean"}, {"folds": 1}], ids=str
)
def test_students_have_the_same_bits_whatever_became_of_the_head(kit, options) -> None:
    teacher = kit.teacher()
    method = IntermediateProbes(IntermediateProbes.Options(probe_epochs=20, **options))
    runs = [kit.loop(method, kit.model(), corrupted(teacher, s)).fit() for s in (0.0, 1.0, 5.0)]
    first = kit.weights(runs[0].student)
    assert all(kit.equal(first, kit.weights(run.student)) for run in runs)
    assert not kit.equal(first, kit.weights(kit.model()))


def test_students_of_kd_do_not(kit) -> None:
    teacher = kit.teacher()
    a, b = (kit.loop(kit.kd(), kit.model(), corrupted(teacher, s)).fit() for s in (0.0, 1.0))
    assert not kit.equal(kit.weights(a.student), kit.weights(b.student))


def test_the_teacher_is_frozen_and_the_student_is_bare(kit) -> None:
    teacher, student = kit.teacher(), kit.model()
    keys, before = list(student.state_dict()), kit.weights(teacher)
    loop = kit.loop(IntermediateProbes(IntermediateProbes.Options()), student, teacher)
    found = loop.fit()
    assert kit.equal(before, kit.weights(teacher))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert list(found.student.state_dict()) == keys
    assert list(loop.trainable.helpers.parameters()) == []
    trained = [p for group in loop.optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(list(student.parameters()))


def test_signals_that_were_stored_teach_as_live_ones_do(kit) -> None:
    """fp16 in the store: within 0.01 in probability."""
    seen: dict[bool, dict[int, torch.Tensor]] = {True: {}, False: {}}

    class Recording(IntermediateProbes):
        stored = False

        def adapt(self, batch, helpers):
            batch = super().adapt(batch, helpers)
            q = (batch.teacher / self.options.temperature).softmax(1)
            seen[self.stored].update(zip(batch.index.tolist(), q, strict=True))
            return batch

    teacher, method = kit.teacher(), Recording(IntermediateProbes.Options())
    for method.stored in (False, True):
        loop = kit.loop(method, kit.model(), kit.source(teacher, stored=method.stored), epochs=1)
        loop.fit()
    live, stored = (torch.stack([s[i] for i in range(56)]) for s in (seen[False], seen[True]))
    assert (live - stored).abs().max() < 1e-2
    helpers = loop.trainable.helpers
    features = {tap: loop.study.teacher_features("train", tap) for tap in helpers.taps}
    q = (helpers(features, torch.arange(56)) / 2).softmax(1)
    assert torch.allclose(live, q, atol=1e-5)


# Neutral: the probe is the teacher's own head.


def test_a_probe_that_is_the_head_reproduces_kd(kit) -> None:
    teacher, inputs = kit.teacher().eval(), kit.split(N).inputs
    tap = Tap("last", "pooled")
    with torch.no_grad():
        logits, features = Tapped(teacher, [tap], "teacher")(inputs)
    head = next(m for m in teacher.head.modules() if isinstance(m, nn.Linear))
    probe = probe_from_head(head.weight, head.bias)
    helpers = ProbingTeacher([FittedLayer(tap, "", probe, 0, 0)], torch.zeros(N).long(), "best")
    student, targets = torch.randn(N, C, requires_grad=True), kit.split(N).targets
    given = Batch(student, None, targets, 0, 0.0, torch.arange(N), teacher_features=features)
    method = make(layers=("last",), temperature=4, alpha=0.9)
    adapted = method.adapt(given, helpers)
    scale = float(logits.abs().max())
    assert (adapted.teacher - logits).abs().max() <= 1e-6 * scale
    ours = sum(method.loss(adapted, helpers).values())
    kd = KnowledgeDistillation(KnowledgeDistillation.Options())
    theirs = sum(kd.loss(Batch(student, logits, targets, 0, 0.0, given.index), None).values())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    (a,), (b,) = (torch.autograd.grad(loss, student, retain_graph=True) for loss in (ours, theirs))
    assert torch.allclose(a, b, atol=1e-6)


def test_for_equal_targets_it_is_kd_bit_for_bit() -> None:
    logits, student = torch.randn(N, C), torch.randn(N, C)
    for weights in (None, torch.rand(N)):
        given = Batch(
            student, logits, torch.arange(N) % C, 0, 0.0, torch.arange(N), weights=weights
        )
        for alpha in (0.3, 1.0):
            ours = make(alpha=alpha, temperature=3).loss(given, None)
            options = KnowledgeDistillation.Options(alpha=alpha, temperature=3)
            theirs = KnowledgeDistillation(options).loss(given, None)
            assert all(
                torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True)
            )


def test_without_weight_it_is_cross_entropy_bit_for_bit() -> None:
    method, given = make(alpha=0), batch()
    parts = method.loss(method.adapt(given, method.helpers(HandStudy())), None)
    assert parts.keys() == {"labels"}
    assert torch.equal(parts["labels"], F.cross_entropy(given.student, given.targets))


def test_by_default_labels_are_replaced_and_never_read() -> None:
    method = make()
    assert not method.needs.labels
    assert not method.needs.teacher
    adapted = method.adapt(batch(targets=Unreadable()), method.helpers(HandStudy()))
    assert method.loss(adapted, None).keys() == {"probe"}


def test_under_kd_the_target_is_the_probes() -> None:
    method, study = make(), HandStudy()
    helpers, given = method.helpers(study), batch(study)
    kd = KnowledgeDistillation(KnowledgeDistillation.Options(alpha=1, temperature=2))
    wanted = soft_divergence(given.student, target(method, helpers), 2.0)
    assert torch.equal(kd.loss(method.adapt(given, helpers), None)["teacher"], wanted)


def test_kd_with_probes_and_probes_alone_train_the_same_student(kit) -> None:
    kd, probes = kit.kd(alpha=1, temperature=2), IntermediateProbes(IntermediateProbes.Options())
    assert faults(type(kd), [type(probes)]) == []
    a, b = (
        kit.loop(method, kit.model(), kit.teacher()).fit()
        for method in (Composed(kd, [probes]), probes)
    )
    assert kit.equal(kit.weights(a.student), kit.weights(b.student))
    assert a.history[0]["method"].keys() == {
        f"intermediate-probes: {name}" for name in b.history[0]["method"]
    }
    assert "method" not in b.history[1]


# The targets.


def test_targets_are_distributions_from_one_hot_to_uniform() -> None:
    method, study = make(), HandStudy()
    logits = target(method, method.helpers(study))
    for temperature in (1e-3, 0.5, 2.0, 1e6):
        q = (logits / temperature).softmax(1)
        assert torch.allclose(q.sum(1), torch.ones(N), atol=1e-6)
    assert torch.equal((logits / 1e-4).softmax(1).round(), F.one_hot(logits.argmax(1), C).float())
    assert torch.allclose((logits / 1e6).softmax(1), torch.full((N, C), 1 / C), atol=1e-5)
    told = [
        make(temperature=t).begin_epoch(study, make().helpers(study))["probe_entropy"]
        for t in (1e-4, 1.0, 1e6)
    ]
    assert told[0] == pytest.approx(0, abs=1e-3)
    assert told[0] < told[1] < told[2] == pytest.approx(math.log(C), abs=1e-5)


def test_each_sample_is_taught_by_the_probe_that_did_not_see_it() -> None:
    method = make(layers=("easy",))
    helpers = method.helpers(HandStudy())
    everyone = helpers.probes[0](HandStudy().teacher_features("train", EASY))
    assert everyone.shape == (5, N, C)
    logits = target(method, helpers)
    assert all(torch.equal(logits[i], everyone[helpers.fold[i], i]) for i in range(N))
    rows = torch.tensor([7, 3, 50])
    assert torch.allclose(target(method, helpers, rows=rows), logits[rows], atol=1e-5)


def test_no_probe_saw_the_label_of_the_sample_it_teaches() -> None:
    """Labels at random: without a cross-fit the targets repeat them, with it they cannot."""

    class Random(HandStudy):
        def targets(self, split: str) -> torch.Tensor:
            count, seed = SPLITS[split]
            return torch.randint(0, C, (count,), generator=torch.Generator().manual_seed(seed + 5))

        def teacher_features(self, split: str, tap: Tap) -> torch.Tensor:
            random = torch.Generator().manual_seed(SPLITS[split][1])
            return torch.randn((SPLITS[split][0], 4 * D), generator=random)

    study, right = Random(), {}
    for folds in (1, 5):
        method = make(layers=("easy",), folds=folds)
        logits = target(method, method.helpers(study), study=study)
        right[folds] = float((logits.argmax(1) == study.targets("train")).float().mean())
    assert right[1] > 0.6
    assert abs(right[5] - 1 / C) < 4 * (1 / C * (1 - 1 / C) / N) ** 0.5


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, 5), ({"cross_fit_below": N}, 5), ({"cross_fit_below": N - 1}, 1), ({"folds": 1}, 1),
     ({"folds": 3, "cross_fit_below": 0}, 3)], ids=str,
)  # fmt: skip
def test_folds(options: dict, wanted: int) -> None:
    helpers = make(**options).helpers(HandStudy())
    assert len(helpers.probes[0].mean) == wanted
    assert helpers.fold.unique().tolist() == list(range(wanted))


def test_more_folds_than_samples_are_refused() -> None:
    with pytest.raises(TrainingError, match="folds is 61 for 60 training samples"):
        make(folds=61).helpers(HandStudy())


# The layers.


def test_best_is_the_layer_of_the_lowest_validation_loss() -> None:
    method = make(layers=("hard", "easy"))
    helpers = method.helpers(HandStudy())
    assert helpers.losses[1] < helpers.losses[0]
    alone = make(layers=("easy",))
    assert torch.equal(target(method, helpers), target(alone, alone.helpers(HandStudy())))


def test_mean_is_of_all_logits() -> None:
    both = make(combine="mean")
    parts = [make(layers=(layer,)) for layer in ("easy", "hard")]
    logits = [target(part, part.helpers(HandStudy())) for part in parts]
    mean = target(both, both.helpers(HandStudy()))
    assert torch.allclose(mean, (logits[0] + logits[1]) / 2, atol=1e-6)


def test_two_names_of_one_layer_count_once() -> None:
    method = make(layers=("first", "last", "easy"), combine="mean")
    helpers = method.helpers(HandStudy())
    assert helpers.names == ("hard", "easy")
    assert method.needs.teacher_taps == tuple(Tap(x, "pooled") for x in ("first", "last", "easy"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(N, 4, 4), r"Layer 'easy' of the teacher gives \(4, 4\) per sample"),
        (torch.full((N, D), torch.nan), "NaN or infinite for 60 train samples"),
    ],
)
def test_features_that_cannot_be_probed_are_refused(values: torch.Tensor, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make().helpers(HandStudy(changes={"easy": values}))


@pytest.mark.parametrize(
    "values", [{"layers": []}, {"layers": ["a", "a"]}, {"folds": 0}, {"lr": 0}]
)
def test_options_that_are_refused(values: dict) -> None:
    with pytest.raises(ValidationError):
        IntermediateProbes.Options(**values)


def test_folds_are_read_as_yaml_gives_them() -> None:
    assert IntermediateProbes.Options(folds=3).folds == 3
    assert IntermediateProbes.Options(folds="auto").folds == "auto"


# Calibration.


def test_calibration_changes_confidence_alone() -> None:
    plain, calibrated = make(layers=("hard",)), make(layers=("hard",), calibrate=True)
    study = HandStudy()
    a, b = plain.helpers(study), calibrated.helpers(study)
    assert float(a.temperature) == 1.0 != float(b.temperature)
    assert torch.equal(target(plain, a).argmax(1), target(calibrated, b).argmax(1))
    features = {HARD: study.teacher_features("validation", HARD)}
    labels = study.targets("validation").repeat(5)
    losses = [F.cross_entropy(h.of_every_fold(features).flatten(0, 1), labels) for h in (a, b)]
    assert losses[1] < losses[0]


# What is remembered and told.


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_helpers_are_the_same_when_made_again_and_hold_buffers_alone(probe: str) -> None:
    method = make(probe=probe)
    a, b, other = (method.helpers(HandStudy(seed=s)).state_dict() for s in (3, 3, 4))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["fold"], other["fold"])
    assert list(method.helpers(HandStudy()).parameters()) == []


def test_targets_carry_no_gradient() -> None:
    method = make(probe="mlp")
    given = batch(student=torch.randn(N, C, requires_grad=True))
    adapted = method.adapt(given, method.helpers(HandStudy()))
    assert not adapted.teacher.requires_grad
    assert method.loss(adapted, None)["probe"].requires_grad


def test_a_resumed_training_finds_the_same_probes(kit, tmp_path) -> None:
    class Stop(Exception):
        pass

    def stop(epoch: int, student: nn.Module) -> None:
        if epoch == 2:
            raise Stop

    method, scratch = IntermediateProbes(IntermediateProbes.Options()), tmp_path / "one"
    whole = kit.loop(method, kit.model(), kit.teacher(), epochs=3).fit()
    scratch.mkdir()
    with pytest.raises(Stop):
        kit.loop(method, kit.model(), kit.teacher(), scratch=scratch, on_epoch=stop, epochs=3).fit()
    resumed = kit.loop(method, kit.model(), kit.teacher(), scratch=scratch, epochs=3).fit()
    assert kit.equal(kit.weights(whole.student), kit.weights(resumed.student))
    assert kit.untimed(whole.history) == kit.untimed(resumed.history)


def test_the_first_record_tells_how_good_the_targets_are() -> None:
    method, study = make(layers=("hard", "easy")), HandStudy()
    helpers = method.helpers(study)
    told = method.begin_epoch(study, helpers)
    assert told["probe_loss"] == pytest.approx(float(helpers.losses[1]), rel=1e-5)
    assert told["probe_accuracy"] == pytest.approx(float(helpers.accuracies[1]))
    logits = helpers.of_every_fold({EASY: study.teacher_features("validation", EASY)})
    assert told["probe_agrees_with_head"] == pytest.approx(
        float((logits.argmax(2) == 0).float().mean())
    )
    assert told["probe_entropy"] == pytest.approx(entropy(target(method, helpers) / 2))
    assert method.begin_epoch(HandStudy(history=({},)), helpers) == {}


def test_figures_show_every_layer_beside_the_head() -> None:
    method, study = make(layers=("hard", "easy")), HandStudy()
    accuracy, loss = method.figures(study, helpers := method.helpers(study))
    always_first = 100 * float((study.targets("validation") == 0).float().mean())
    assert accuracy.series["teacher's head"][1] == pytest.approx([always_first] * 2)
    assert accuracy.series["probe"] == ([1, 2], pytest.approx((100 * helpers.accuracies).tolist()))
    assert loss.series["teacher's head"][1] == pytest.approx([math.log(C)] * 2)
    assert loss.series["probe"][1] == pytest.approx(helpers.losses.tolist())
    assert "1 is hard, 2 is easy; the student learnt from easy." in loss.note
