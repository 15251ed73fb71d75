"""The experiment of `intermediate-probes`, small, and whole in a nightly run."""

from __future__ import annotations

import pytest
import torch

from edgedistill.pipeline.experiments.arms import mean
from edgedistill.pipeline.experiments.batched import BatchedMLP
from edgedistill.pipeline.experiments.corrupted_head import damaged, draw_task
from edgedistill.pipeline.experiments.intermediate_probes import KD, PROBES, CorruptedHead

TINY = {
    "noises": (0.0, 4.0), "sizes": (40,), "hidden": (16, 16), "others": 300, "validation": 40,
    "epochs": 10, "steps": 40,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_no_item_is_in_two_parts_of_a_seed() -> None:
    task = draw_task(2, items=30, others=200, validation=20)
    for seed in range(2):
        parts = [p.inputs[seed] for p in (task.teacher, task.student, task.validation)]
        rows = torch.cat([*parts, task.test_inputs])
        assert len(rows) == 250 + len(task.test_inputs)
        assert len(rows.unique(dim=0)) == len(rows)
    assert not torch.equal(task.student.inputs[0], task.student.inputs[1])


def test_damage_is_done_to_the_weights_of_the_head_alone() -> None:
    nets = BatchedMLP.initialised((64, 50, 50, 10), [0, 1]).copy()
    assert all(
        torch.equal(a, b)
        for a, b in zip(damaged(nets, 0.0).parameters, nets.parameters, strict=True)
    )
    hurt = damaged(nets, 1.5)
    same = [torch.equal(a, b) for a, b in zip(hurt.parameters, nets.parameters, strict=True)]
    assert same == [True, True, True, True, False, True]
    for seed in range(2):
        noise = hurt.weights[-1][seed] - nets.weights[-1][seed]
        assert float(noise.std() / nets.weights[-1][seed].std()) == pytest.approx(3.0, rel=0.1)


def test_a_tiny_one_says_what_the_arms_did() -> None:
    steps: list[tuple[int, int]] = []
    experiment = CorruptedHead(**TINY)
    outcome = experiment.run(2, lambda done, total, note: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    teacher, students, probes = outcome.tables
    assert [len(arm.values) for table in outcome.tables for arm in table.arms] == [2] * 15
    assert mean(teacher.arms[1]) < mean(teacher.arms[0]) - 10
    by_name = {arm.name: arm.values for arm in students.arms}
    assert by_name[f"noise 0: {KD}"] != by_name[f"noise 4: {KD}"]
    for name in PROBES:
        assert by_name[f"noise 0: {name}"] == by_name[f"noise 4: {name}"]
    assert [arm.name for arm in probes.arms] == ["hidden1", "hidden2"]
    assert min(mean(arm) for arm in probes.arms) > 50
    assert outcome.checks[0].holds
    assert outcome.checks[0].got == "12 of 12 weight tensors are equal"
    (figure,) = outcome.figures
    assert figure.series[KD][0] == (0.0, 4.0)


def test_one_seed_is_enough_to_run() -> None:
    outcome = CorruptedHead(**TINY).run(1, lambda done, total, note: None)
    assert "standard error inf" in outcome.checks[2].got


@pytest.mark.slow
def test_whole() -> None:
    """The claim about a damaged head holds; what is no claim is only measured."""
    outcome = CorruptedHead().run(CorruptedHead.seeds, lambda done, total, note: None)
    identical, damage, *_ = outcome.checks
    assert identical.holds, identical.got
    assert damage.holds, damage.got
    assert all(check.got for check in outcome.checks)
