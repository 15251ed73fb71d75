"""Lessons taught as one tensor program, against lessons taught one by one."""

from __future__ import annotations

import math

import pytest
import torch
from kit import _one_thread  # noqa: F401
from torch import nn

from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.experiments import lessons
from edgedistill.pipeline.experiments.batched import BatchedMLP, accuracy
from edgedistill.pipeline.experiments.lessons import Lesson, School
from edgedistill.pipeline.experiments.paced import paced, uniform
from edgedistill.pipeline.methods.kd import KnowledgeDistillation
from edgedistill.pipeline.methods.losses import soft_divergence
from edgedistill.pipeline.methods.none import LabelsOnly
from edgedistill.pipeline.methods.paced import Paced, gold_probability

SEEDS, ITEMS, EPOCHS = 2, 80, 3
KD = KnowledgeDistillation(KnowledgeDistillation.Options(alpha=1, temperature=2))
NONE = LabelsOnly(LabelsOnly.Options())


@pytest.fixture(scope="module")
def task() -> lessons.Task:
    return lessons.draw_task(SEEDS, ITEMS, 0.3)


@pytest.fixture(scope="module")
def teacher(task) -> torch.Tensor:
    return lessons.fit_teachers(task, 60)(task.inputs)


@pytest.fixture
def students() -> BatchedMLP:
    return BatchedMLP.initialised(lessons.STUDENT, range(SEEDS))


def taught(task, teacher, students, *arms: Lesson, epochs: int = EPOCHS) -> School:
    school = School(task, teacher, arms, students)
    school.teach(epochs, lambda epoch: None)
    return school


def same(one: BatchedMLP, two: BatchedMLP) -> bool:
    return all(map(torch.equal, one.parameters, two.parameters))


def test_the_share_of_wrong_labels_is_exact_and_seeds_are_independent(task) -> None:
    assert (task.labels != task.clean).sum(dim=1).tolist() == [24, 24]
    assert not torch.equal(task.clean[0], task.clean[1])
    alone = lessons.draw_task(1, ITEMS, 0.3)
    assert torch.equal(alone.labels[0], task.labels[0])
    assert torch.equal(alone.inputs[0], task.inputs[0])
    assert torch.equal(lessons.draw_task(1, ITEMS, 0).labels, alone.clean)


def test_the_teacher_learns_the_wrong_labels_by_heart(task, teacher) -> None:
    assert accuracy(teacher, task.labels).tolist() == [1.0, 1.0]
    assert not teacher.requires_grad


def test_a_student_of_some_classes_knows_only_those(task) -> None:
    known = lessons.fit_on_known(task, 3, 60)
    answers = known(task.inputs).argmax(dim=2)
    assert set(answers.unique().tolist()) <= {0, 1, 2}
    assert (answers == task.clean)[task.clean < 3].float().mean() > 0.95


def one_by_one(task, teacher, seed: int) -> nn.Sequential:
    """PACED as a plain loop would train one student."""
    start = BatchedMLP.initialised(lessons.STUDENT, [seed])
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for layer, i in ((network[0], 0), (network[2], 1)):
        layer.weight.data = start.weights[i].detach()[0].t().clone()
        layer.bias.data = start.biases[i].detach()[0, 0].clone()
    optimizer = torch.optim.SGD(network.parameters(), lessons.LR, momentum=lessons.MOMENTUM)
    random = torch.Generator().manual_seed(seed)
    steps = EPOCHS * math.ceil(ITEMS / lessons.BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    inputs, labels = task.inputs[seed], task.labels[seed]
    for _ in range(EPOCHS):
        p = gold_probability(network(inputs).detach(), labels)
        for rows in torch.randperm(ITEMS, generator=random).split(lessons.BATCH):
            weights = 4 * p[rows] * (1 - p[rows])
            loss = soft_divergence(network(inputs[rows]), teacher[seed, rows], 2.0, weights)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), lessons.CLIP)
            optimizer.step()
            schedule.step()
    return network


def test_the_program_trains_what_a_plain_loop_trains(task, teacher, students) -> None:
    school = taught(task, teacher, students, Lesson("labels", NONE), Lesson("paced", paced()))
    for seed in range(SEEDS):
        network, found = one_by_one(task, teacher, seed), school.arm("paced")
        torch.testing.assert_close(
            found(task.inputs)[seed], network(task.inputs[seed]), rtol=1e-3, atol=1e-4
        )


def test_uniform_weights_are_kd_bit_for_bit(task, teacher, students) -> None:
    school = taught(task, teacher, students, Lesson("ours", uniform()), Lesson("kd", KD))
    assert same(school.arm("ours"), school.arm("kd"))


def test_all_start_alike_and_the_start_is_left_alone(task, teacher, students) -> None:
    before = students.copy()
    school = School(task, teacher, [Lesson("a", NONE), Lesson("b", paced())], students)
    assert same(school.arm("a"), school.arm("b"))
    school.teach(1, lambda epoch: None)
    assert not same(school.arm("a"), school.arm("b"))
    assert same(students, before)


def test_it_is_called_before_every_epoch_and_at_the_end(task, teacher, students) -> None:
    school, seen = School(task, teacher, [Lesson("a", NONE)], students), []
    school.teach(2, seen.append)
    assert seen == [0, 1, 2]


def test_the_controls_are_what_they_say(task, teacher, students) -> None:
    arms = [
        Lesson("p", paced()),
        Lesson("drawn", paced(), rollouts=8),
        Lesson("clean", paced(), clean=True),
    ]
    school = School(task, teacher, arms, students)
    school._measure()
    rates = {
        arm.name: kept.get_buffer("rates").view(SEEDS, ITEMS)
        for arm, kept in zip(arms, school.kept, strict=True)
    }
    with torch.no_grad():
        chances = students(task.inputs).softmax(dim=2)
    torch.testing.assert_close(rates["p"], chances.gather(2, task.labels[..., None])[..., 0])
    torch.testing.assert_close(rates["clean"], chances.gather(2, task.clean[..., None])[..., 0])
    assert torch.equal((8 * rates["drawn"]).round(), 8 * rates["drawn"])
    assert float((rates["drawn"] - rates["p"]).mean().abs()) < 0.03


def test_weights_over_their_mean_have_the_mean_one(task, teacher, students) -> None:
    school = School(task, teacher, [Lesson("a", paced(), by_mean=True)], students)
    kept = Paced.unknown_rates(4)
    kept.get_buffer("rates").copy_(torch.tensor([0.5, 0.1, 0.01, 0.02]))
    student, target = torch.randn(2, 4, 10)
    batch = Batch(student, target, torch.arange(4), 0, 0.0, torch.arange(4))
    weights = 4 * kept.get_buffer("rates") * (1 - kept.get_buffer("rates"))
    scaled = (weights.view(2, 2) / weights.view(2, 2).mean(dim=1, keepdim=True)).flatten()
    wanted = soft_divergence(student, target, 2.0, scaled)
    torch.testing.assert_close(school._lesson_loss(school.lessons[0], batch, kept), wanted)
