"""A group of networks learns what each of them would learn alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline.experiments.arms import (
    draw,
    group_loss,
    mean,
    percent,
    pick,
    told,
    train_teachers,
)
from edgedistill.pipeline.experiments.batched import accuracy
from edgedistill.pipeline.experiments.digits import CLASSES, PIXELS, flat, load_digits
from edgedistill.pipeline.methods.kd import KnowledgeDistillation

S, N = 3, 5


def test_the_loss_of_a_group_is_the_sum_over_its_networks() -> None:
    method = KnowledgeDistillation(KnowledgeDistillation.Options())
    student, teacher = (torch.randn(S, N, CLASSES) for _ in range(2))
    targets = torch.randint(CLASSES, (S, N))
    whole = group_loss(method, student, teacher, targets)
    alone = [group_loss(method, *(x[[i]] for x in (student, teacher, targets))) for i in range(S)]
    torch.testing.assert_close(whole, torch.stack(alone).sum())
    labels = F.cross_entropy(student[0], targets[0])
    assert float(alone[0]) != pytest.approx(float(labels))


def test_rows_are_drawn_from_the_pool_and_picked_per_network() -> None:
    pool = torch.tensor([2, 3, 5, 7])
    twins = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    rows = draw(pool, 50, twins)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert set(rows.flatten().tolist()) == set(pool.tolist())
    signals = torch.arange(3 * 8).view(3, 8)
    assert torch.equal(pick(signals, rows), torch.stack([signals[i][rows[i]] for i in range(3)]))


def test_teachers_learn_and_a_seed_is_always_the_same_teacher() -> None:
    splits = load_digits()
    x, y = flat(splits["train"]), splits["train"].targets
    assert x.shape[1] == PIXELS
    steps: list[int] = []
    sizes = (PIXELS, 32, CLASSES)
    two = train_teachers(x, y, sizes, 2, 60, steps.append, noise=0.1)
    one = train_teachers(x, y, sizes, 1, 60, steps.append, noise=0.1)
    assert steps == [*range(1, 61)] * 2
    test = flat(splits["test"])
    torch.testing.assert_close(two(test)[0], one(test)[0])
    assert not any(p.requires_grad for p in two.parameters)
    assert float(accuracy(two(test), splits["test"].targets).min()) > 0.6


def test_words_of_arms() -> None:
    arms = [percent("labels", torch.tensor([0.5, 0.25])), percent("kd", [1.0])]
    assert arms[0].values == (50.0, 25.0)
    assert mean(arms[0]) == 37.5
    assert told(arms) == "labels 37.5, kd 100.0"
