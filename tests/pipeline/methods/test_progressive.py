"""Progressive distillation: its loss, its schedules in a loop, and what it degrades to."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from edgedistill.pipeline.contracts import Batch, CurvePoint, Moment
from edgedistill.pipeline.errors import TrainingError
from edgedistill.pipeline.methods.composed import Composed
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.methods.progressive import Progressive

N, C, STEPS = 16, 3, 4  # 56 samples in batches of 16
SHARP = (0.34, 0.33, 0.35, 0.34, 0.40, 0.90, 0.95)
SMOOTH = (0.60, 0.70, 0.75, 0.80, 0.82)


def method(**options) -> Progressive:
    return Progressive(Progressive.Options(**options))


def points(values=SHARP, kept=lambda epoch: True) -> list[CurvePoint]:
    return [CurvePoint(e, v, 1 - v, kept(e)) for e, v in enumerate(values, 1)]


def followed(curve=None, **options) -> Progressive:
    made = method(**options)
    made.follow(points() if curve is None else curve, chance=1 / C)
    return made


def choices(made: Progressive, epochs: int, steps: int = 4, history=()) -> list[int | None]:
    """What teaches every step of a training."""
    moments = [Moment(e, epochs, s, steps, history) for e in range(epochs) for s in range(steps)]
    return [made.checkpoint(moment) for moment in moments]


def batch(teacher: torch.Tensor | None = None, weights=None, scale: float = 1.0) -> Batch:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(N, C, generator=random).requires_grad_()
    other = scale * torch.randn(N, C, generator=random) if teacher is None else teacher
    return Batch(
        student, other, torch.arange(N) % C, 0, 0.0, torch.arange(N), weights=weights
    )  # fmt: skip


def gradient(made, given: Batch) -> torch.Tensor:
    loss = torch.stack(list(made.loss(given, None).values())).sum()
    return torch.autograd.grad(loss, given.student)[0]


class TestLoss:
    def test_a_cold_teacher_is_its_arg_max_exactly(self) -> None:
        logits = batch(scale=30.0).teacher
        cold = F.softmax(logits / 1e-20, dim=1)
        assert torch.equal(cold, F.one_hot(logits.argmax(1), C).float())
        assert (torch.tensor([3e18, -3e18]) / 1e-20).isfinite().all()

    def test_hard_labels_are_the_cold_limit(self) -> None:
        given = batch(scale=30.0)
        hard, cold = method(labels="hard"), method(labels="tempered", temperature=1e-20)
        torch.testing.assert_close(hard.loss(given, None), cold.loss(given, None))
        torch.testing.assert_close(gradient(hard, given), gradient(cold, given))

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
    def test_tempered_softens_the_teacher_alone_without_a_factor(self, temperature) -> None:
        given = batch()
        q = F.softmax(given.teacher / temperature, dim=1)
        loss = method(labels="tempered", temperature=temperature).loss(given, None)["teacher"]
        wanted = -(q * F.log_softmax(given.student, dim=1)).sum(1).mean()
        torch.testing.assert_close(loss, wanted)
        wanted_gradient = (given.student.softmax(1) - q) / N
        got = gradient(method(labels="tempered", temperature=temperature), given)
        torch.testing.assert_close(got, wanted_gradient.detach())

    def test_unset_temperatures_are_one_and_four(self) -> None:
        given = batch()
        for labels, value in (("tempered", 1.0), ("soft", 4.0)):
            unset, said = method(labels=labels), method(labels=labels, temperature=value)
            assert torch.equal(*(m.loss(given, None)["teacher"] for m in (unset, said)))

    def test_the_ground_truth_has_the_weight_alpha(self) -> None:
        given = batch()
        mixed = method(labels="hard", alpha=0.25)
        parts = mixed.loss(given, None)
        torch.testing.assert_close(
            parts["labels"], F.cross_entropy(given.student, given.targets) / 4
        )
        pure = method(labels="hard").loss(given, None)["teacher"]
        torch.testing.assert_close(parts["teacher"], 0.75 * pure)
        assert mixed.needs.labels
        assert not method().needs.labels

    @pytest.mark.parametrize("labels", ["hard", "tempered", "soft"])
    def test_weights_scale_each_sample_and_the_denominator_stays(self, labels) -> None:
        ones, none = torch.ones(N), None
        made = method(labels=labels)
        torch.testing.assert_close(
            gradient(made, batch(weights=ones)), gradient(made, batch(weights=none))
        )
        half = torch.ones(N)
        half[: N // 2] = 0
        got = gradient(made, batch(weights=half))
        assert not got[: N // 2].any()
        torch.testing.assert_close(got[N // 2 :], gradient(made, batch())[N // 2 :])


class TestNeutral:
    """What must be the same, bit for bit."""

    def test_hard_labels_of_a_perfect_teacher_are_labels_only(self) -> None:
        perfect = F.one_hot(torch.arange(N) % C, C) * 2.0 - torch.rand(N, C)
        given, truth = batch(perfect), LabelsOnly(LabelsOnly.Options())
        ours = method(course="one-shot", labels="hard")
        assert torch.equal(ours.loss(given, None)["teacher"], truth.loss(given, None)["labels"])
        assert torch.equal(gradient(ours, given), gradient(truth, given))

    def test_one_shot_with_soft_labels_is_kd(self) -> None:
        kd = KnowledgeDistillation(KnowledgeDistillation.Options(alpha=1.0, temperature=4.0))
        given, ours = batch(), method(course="one-shot", labels="soft")
        assert torch.equal(ours.loss(given, None)["teacher"], kd.loss(given, None)["teacher"])
        assert torch.equal(gradient(ours, given), gradient(kd, given))

    @pytest.mark.parametrize(
        ("curve", "options"),
        [
            pytest.param(points(), {"course": "one-shot"}, id="one-shot"),
            pytest.param(points(), {"speed": float("inf")}, id="infinite speed"),
            pytest.param(points(kept=lambda e: e == 7), {}, id="the last checkpoint alone"),
            pytest.param(points((0.9,)), {}, id="a teacher of one epoch"),
            pytest.param(points(), {"course": "two-shot", "switch": 0.0}, id="switch at once"),
        ],
    )
    def test_the_final_teacher_teaches_throughout(self, curve, options) -> None:
        assert choices(followed(curve, **options), epochs=9) == [None] * 36

    def test_whole_trainings_are_kd(self, kit) -> None:
        teacher = kit.teacher()
        before = kit.weights(teacher)
        source = kit.source(teacher, curve=points(kept=lambda e: e == 7))
        kd = KnowledgeDistillation(KnowledgeDistillation.Options(alpha=1.0))
        wanted = kit.loop(kd, teacher=teacher).fit()
        for made, given in (
            (method(course="one-shot"), teacher),
            (method(speed=float("inf")), kit.source(teacher, curve=points())),
            (method(), source),
        ):
            got = kit.loop(made, teacher=given).fit()
            assert kit.equal(got.student.state_dict(), wanted.student.state_dict())
        assert kit.equal(kit.weights(teacher), before)


class TestSchedules:
    def test_time_matched_goes_with_the_teacher(self) -> None:
        made = followed(points(SHARP[:4]))
        assert choices(made, epochs=5) == [1] * 5 + [2] * 4 + [3] * 4 + [None] * 7

    def test_only_kept_checkpoints_teach(self) -> None:
        got = choices(followed(points(kept=lambda e: e % 3 == 0)), epochs=9)
        assert [*dict.fromkeys(got)] == [3, 6, None]

    def test_two_shot_takes_the_checkpoint_before_the_jump(self) -> None:
        got = choices(followed(course="two-shot"), epochs=10)
        assert got == [5] * 12 + [None] * 28

    def test_two_shot_takes_the_first_that_is_a_fifth_of_the_way(self) -> None:
        smooth = followed(points(SMOOTH), course="two-shot", transition="first-above", switch=0.5)
        assert choices(smooth, epochs=2) == [1] * 4 + [None] * 4
        sharp = followed(course="two-shot", transition="first-above", switch=0.5)
        assert choices(sharp, epochs=2) == [6] * 4 + [None] * 4

    def test_without_a_transition_two_shot_gives_equal_shares(self) -> None:
        got = choices(followed(points(SMOOTH), course="two-shot"), epochs=10, steps=1)
        assert got == [1, 1, 2, 2, 3, 3, 4, 4, None, None]

    def test_on_saturation_moves_on_by_the_history_alone(self) -> None:
        made = followed(points(kept=lambda e: e in (2, 5)), course="on-saturation")
        flat = [{"validation_accuracy": value} for value in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6)]
        seen = [made.checkpoint(Moment(n, 60, 0, 4, flat[:n])) for n in range(7)]
        assert seen == [2] * 6 + [5]
        late = [{"validation_accuracy": 1 / C}] * 60
        by_time = [made.checkpoint(Moment(n, 60, 0, 4, late[:n])) for n in (19, 20, 39, 40, 59)]
        assert by_time == [2, 5, 5, None, None], "in time for the final teacher"

    def test_on_saturation_leaves_an_epoch_to_the_final_teacher(self) -> None:
        made = followed(points(kept=lambda e: e < 7), course="on-saturation")
        still = [{"validation_accuracy": 1 / C}] * 3
        seen = [made.checkpoint(Moment(n, 3, 0, 4, still[:n])) for n in range(3)]
        assert seen == [3, 6, None]

    def test_what_teaches_depends_on_the_moment_alone(self) -> None:
        made = followed()
        forward = choices(made, epochs=8)
        backward = [
            made.checkpoint(Moment(e, 8, s, 4, ())) for e in range(7, -1, -1) for s in (3, 2, 1, 0)
        ]
        assert forward == backward[::-1]


class TestOptions:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"labels": "hard", "temperature": 2.0}, {"alpha": 1.0}, {"speed": 0.0},
            {"switch": 1.1}, {"temperature": 0.0}, {"course": "three-shot"}, {"tau": 1.0},
        ],
        ids=str,
    )  # fmt: skip
    def test_nonsense_is_refused(self, wrong) -> None:
        with pytest.raises(ValidationError):
            Progressive.Options(**wrong)

    def test_only_a_schedule_with_checkpoints_asks_for_them(self) -> None:
        assert method().needs.checkpoints
        assert not method(course="one-shot").needs.checkpoints

    def test_nothing_kept_names_the_setting(self) -> None:
        with pytest.raises(TrainingError, match="none of 7 was kept") as caught:
            followed(points(kept=lambda e: False))
        assert "teacher.checkpoints: 1" in caught.value.hint

    def test_a_loaded_teacher_has_no_past(self, kit) -> None:
        with pytest.raises(TrainingError, match="training is not known") as caught:
            kit.loop(method(), teacher=kit.teacher())
        assert "teacher.weights" in caught.value.hint


def past(kit, epochs: int = 4):
    """A teacher whose checkpoints answer differently, and the loop's source of them."""
    teacher = kit.teacher()
    checkpoints = {}
    for epoch in range(1, epochs + 1):
        checkpoints[epoch] = copy.deepcopy(teacher)
        for parameter in checkpoints[epoch][-1].parameters():
            parameter.data *= -epoch
    values = (0.35, 0.34, 0.36, 0.97)[:epochs]
    return kit.source(teacher, curve=points(values), checkpoints=checkpoints)


class TestLoop:
    def test_the_records_tell_who_taught(self, kit) -> None:
        history = kit.loop(method(), teacher=past(kit), epochs=5).fit().history
        told = [record["method"] for record in history]
        assert [t["checkpoint"] for t in told] == [1, 2, 3, 4, 4], "the final one is the best"
        assert [t["checkpoint_accuracy"] for t in told] == [0.35, 0.34, 0.36, 0.97, 0.97]
        assert {t["transition_visible"] for t in told} == {1.0}

    def test_a_checkpoint_teaches_something_else_than_the_final_teacher(self, kit) -> None:
        ends = [
            kit.loop(method(course=schedule), teacher=past(kit)).fit().student.state_dict()
            for schedule in ("time-matched", "one-shot")
        ]
        assert not kit.equal(*ends)

    @pytest.mark.parametrize("schedule", ["time-matched", "two-shot", "on-saturation"])
    def test_stopped_between_epochs_it_ends_as_if_uninterrupted(self, kit, schedule) -> None:
        def stop(done: int, total: int, note: str) -> None:
            if done == 2 * STEPS + 1:
                raise KeyboardInterrupt

        made = (
            {"course": schedule, "switch": 0.5} if schedule == "two-shot" else {"course": schedule}
        )
        whole = kit.loop(method(**made), teacher=past(kit), epochs=4).fit()
        scratch = kit.root / "cut"
        with pytest.raises(KeyboardInterrupt):
            kit.loop(
                method(**made), teacher=past(kit), epochs=4, scratch=scratch, progress=stop
            ).fit()
        resumed = kit.loop(method(**made), teacher=past(kit), epochs=4, scratch=scratch).fit()
        assert kit.equal(resumed.student.state_dict(), whole.student.state_dict())
        assert kit.untimed(resumed.history) == kit.untimed(whole.history)
        assert resumed.figures == whole.figures

    def test_the_figure_shows_teacher_and_student(self, kit) -> None:
        result = kit.loop(method(course="two-shot"), teacher=past(kit), epochs=5).fit()
        (figure,) = result.figures
        assert list(figure.series["teacher"][1]) == [0.35, 0.34, 0.36, 0.97]
        assert list(figure.series["checkpoint that taught"][1]) == [0.36, 0.36, 0.97, 0.97, 0.97]
        accuracies = [record["validation_accuracy"] for record in result.history]
        assert list(figure.series["student"][1]) == accuracies
        assert "after its epoch 3" in figure.note

    def test_the_figure_says_when_there_is_no_transition(self, kit) -> None:
        source = kit.source(
            kit.teacher(),
            curve=points(SMOOTH),
            checkpoints=dict.fromkeys(range(1, 5), kit.teacher()),
        )
        (figure,) = kit.loop(method(course="two-shot"), teacher=source).fit().figures
        assert "no sharp transition" in figure.note
        assert "equal shares" in figure.note

    def test_under_with_it_chooses_the_teacher_of_another_method(self, kit) -> None:
        composed = Composed(kit.kd(alpha=1.0), [method()])
        alone = method()
        loops = [kit.loop(made, teacher=past(kit), epochs=3) for made in (composed, alone)]
        ends = [loop.fit().student.state_dict() for loop in loops]
        assert kit.equal(*ends), "soft labels of the same checkpoints"
