"""The experiment of `attention-transfer` at a tiny size, and whole."""

from __future__ import annotations

import pytest
import torch
from kit import _one_thread  # noqa: F401

from edgedistill.pipeline.experiments.attention_transfer import BOTH, KD, SmallDataAttention
from edgedistill.pipeline.methods.attention_transfer import AttentionTransfer
from edgedistill.pipeline.methods.kd import KnowledgeDistillation

TINY = SmallDataAttention(
    images=20, betas=(1000.0, 1.0), width=2, teacher_width=2, steps=3, teacher_steps=2, batch=8
)


def silent(done: int, total: int, note: str) -> None:
    pass


def test_tiny_it_gives_tables_checks_and_progress() -> None:
    told: list[tuple[int, int, str]] = []
    state = torch.random.get_rng_state()
    outcome = TINY.run(2, lambda *step: told.append(step))
    assert torch.equal(state, torch.random.get_rng_state())
    assert [done for done, _, _ in told] == list(range(1, 2 * (2 + 5 * 3) + 1))
    assert {total for _, total, _ in told} == {34}
    accuracies, gains = outcome.tables
    assert [arm.name for arm in accuracies.arms] == [
        "teacher", "labels", "kd", "attention, beta 1000", "attention, beta 1", "attention and kd",
    ]  # fmt: skip
    by_name = {arm.name: arm.values for arm in accuracies.arms}
    paired = [a - b for a, b in zip(by_name[BOTH], by_name[KD], strict=True)]
    assert list(gains.arms[1].values) == paired
    assert len(outcome.checks) == 4
    assert TINY.run(2, silent) == outcome


def test_the_first_beta_is_the_default_and_kd_is_the_same_alone_and_beside() -> None:
    assert SmallDataAttention().betas[0] == AttentionTransfer.Options().beta
    methods = SmallDataAttention().methods()
    given = KnowledgeDistillation.Options()
    assert methods[KD].options == given
    assert methods[BOTH].base.options == given


@pytest.mark.slow
def test_whole_it_says_what_attention_gives_on_small_maps() -> None:
    experiment = SmallDataAttention()
    outcome = experiment.run(experiment.seeds, silent)
    accuracies = {arm.name: arm.values for arm in outcome.tables[0].arms}
    assert min(accuracies["teacher"]) > 95
    assert min(accuracies["labels"]) > 60
    served = next(check for check in outcome.checks if check.statement.startswith("beta 1000"))
    assert not served.holds
