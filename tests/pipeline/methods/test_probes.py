"""Probes: what they may see, what they start from, and that they stop by themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedistill.pipeline.methods.probes import (
    LayerProbes,
    ProbeTraining,
    assign_folds,
    fit_probes,
    out_of_fold,
    probe_from_head,
    rows_to_learn_from,
    standardisation,
)

N, M, D, C, FOLDS = 60, 40, 12, 3, 5


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre per class, and labels."""
    random = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn((C, D), generator=torch.Generator().manual_seed(99))
    targets = torch.randint(0, C, (count,), generator=random)
    return centres[targets] + torch.randn((count, D), generator=random) + 5, targets


def fit(train=None, rows=None, validation=None, seed=0, **training) -> LayerProbes:
    train, validation = train or samples(N, 0), validation or samples(M, 1)
    if rows is None:
        rows = rows_to_learn_from(assign_folds(train[1], FOLDS, 0), FOLDS)
    return fit_probes(train, rows, validation, C, ProbeTraining(**training), seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


def changed(values: torch.Tensor, row: int, value: float) -> torch.Tensor:
    values = values.clone()
    values[row] = value
    return values


def test_folds_share_the_samples_out_with_each_class_in_proportion() -> None:
    targets = torch.arange(103) % C
    fold = assign_folds(targets, FOLDS, 3)
    assert fold.unique().tolist() == list(range(FOLDS))
    for label in range(C):
        counts = torch.bincount(fold[targets == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(fold, assign_folds(targets, FOLDS, 3))
    assert not torch.equal(fold, assign_folds(targets, FOLDS, 4))


def test_each_probe_learns_from_the_other_folds_or_from_all_if_there_is_one() -> None:
    fold = assign_folds(samples(N, 0)[1], FOLDS, 0)
    rows = rows_to_learn_from(fold, FOLDS)
    assert rows.sum(0).tolist() == [FOLDS - 1] * N
    assert not rows[fold, torch.arange(N)].any()
    assert rows_to_learn_from(torch.zeros_like(fold), 1).all()


def test_a_sample_is_answered_by_its_own_fold() -> None:
    logits, fold = torch.randn(FOLDS, N, C), torch.arange(N) % FOLDS
    picked = out_of_fold(logits, fold)
    assert all(torch.equal(picked[i], logits[fold[i], i]) for i in range(N))


def test_the_label_of_a_sample_never_reaches_the_probe_that_teaches_it() -> None:
    features, targets = samples(N, 0)
    fold = assign_folds(targets, FOLDS, 0)
    lied = changed(targets, 7, (int(targets[7]) + 1) % C)
    rows = rows_to_learn_from(fold, FOLDS)
    honest, misled = fit(rows=rows), fit(train=(features, lied), rows=rows)
    kept = [torch.equal(honest.weight0[f], misled.weight0[f]) for f in range(FOLDS)]
    assert kept == [f == int(fold[7]) for f in range(FOLDS)]


def test_statistics_hold_no_row_of_the_fold_and_none_of_validation() -> None:
    (features, targets), (held, labels) = samples(N, 0), samples(M, 1)
    fold = assign_folds(targets, FOLDS, 0)
    honest = fit()
    shifted = fit(validation=(100 * held + 1000, labels))
    assert torch.equal(honest.mean, shifted.mean)
    assert torch.equal(honest.scale, shifted.scale)
    outlier = fit(train=(changed(features, 7, 1e4), targets))
    for f in range(FOLDS):
        assert torch.equal(honest.mean[f], outlier.mean[f]) == (f == int(fold[7]))
        assert torch.equal(honest.scale[f], outlier.scale[f]) == (f == int(fold[7]))


def test_statistics_are_those_of_the_rows() -> None:
    features, _ = samples(N, 0)
    rows = torch.zeros(2, N, dtype=torch.bool)
    rows[0, :20], rows[1, 5:] = True, True
    mean, scale = standardisation(features, rows)
    for i, part in enumerate((features[:20], features[5:])):
        assert torch.allclose(mean[i, 0], part.mean(0), rtol=1e-5)
        assert torch.allclose(scale[i, 0], part.std(0, correction=0), rtol=1e-4)


def test_a_unit_that_sleeps_in_training_does_not_drown_the_others_when_it_wakes() -> None:
    features, targets = samples(N, 0)
    features[:, 0] = 0.0
    probes = fit(train=(features, targets))
    woken = samples(M, 1)[0]
    woken[:, 0] = 3.0
    assert bool((((woken - probes.mean) / probes.scale).abs() < 1e4).all())
    asleep = woken.clone()
    asleep[:, 0] = 0.0
    assert torch.equal(probes(woken).argmax(2), probes(asleep).argmax(2))
    nothing = fit(train=(torch.zeros(N, D), targets))
    assert torch.equal(nothing.scale, torch.ones_like(nothing.scale))


@pytest.mark.parametrize("hidden", [0, 16], ids=["linear", "mlp"])
def test_they_learn(hidden: int) -> None:
    features, targets = samples(200, 5)
    assert float((fit(hidden=hidden)(features).argmax(2) == targets).float().mean()) > 0.9


@pytest.mark.parametrize("hidden", [0, 16], ids=["linear", "mlp"])
@pytest.mark.parametrize("folds", [1, FOLDS])
def test_shuffled_labels_leave_them_at_chance(hidden: int, folds: int) -> None:
    """On samples from which a probe has not learnt."""
    count = 400
    random = torch.Generator().manual_seed(8)
    features, targets = samples(count, 0)
    targets = targets[torch.randperm(count, generator=random)]
    held, labels = samples(count, 1)
    labels = labels[torch.randperm(count, generator=random)]
    fold = assign_folds(targets, folds, 0)
    rows = rows_to_learn_from(fold, folds)
    probes = fit(train=(features, targets), rows=rows, validation=(held, labels), hidden=hidden)
    tolerance = 4 * ((1 - 1 / C) / C / count) ** 0.5  # standard errors of a guess
    right = (probes(held).argmax(2) == labels).float().mean()
    assert abs(float(right) - 1 / C) < tolerance
    if folds > 1:
        right = (out_of_fold(probes(features), fold).argmax(1) == targets).float().mean()
        assert abs(float(right) - 1 / C) < tolerance


def test_probes_do_not_see_each_other() -> None:
    rows = rows_to_learn_from(assign_folds(samples(N, 0)[1], FOLDS, 0), FOLDS)
    together = fit(rows=rows, patience=5)
    for f in range(FOLDS):
        alone = fit(rows=rows[f : f + 1], patience=5)
        assert torch.allclose(together.weight0[f], alone.weight0[0], atol=1e-5)


def test_the_weights_of_the_lowest_validation_loss_are_kept() -> None:
    """Checked against a plain loop over one probe with `torch.optim.AdamW`."""
    (features, targets), (held, labels) = samples(20, 0), samples(M, 1)
    targets[:6] = (targets[:6] + 1) % C  # so that it overfits
    rows = torch.ones(1, 20, dtype=torch.bool)
    found = fit((features, targets), rows, (held, labels), lr=0.1, epochs=60, patience=4)
    head = nn.Linear(D, C)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight]}, {"params": [head.bias], "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=1e-3)
    mean, scale = features.mean(0), features.std(0, correction=0)
    best, losses = None, []
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head((features - mean) / scale), targets).backward()
        optimizer.step()
        losses.append(F.cross_entropy(head((held - mean) / scale), labels).item())
        if losses[-1] == min(losses):
            best = head.weight.detach().clone()
        if len(losses) - 1 - losses.index(min(losses)) >= 4:
            break
    assert 1 < losses.index(min(losses)) == len(losses) - 5 < 55  # it stopped, and went back
    assert torch.allclose(found.weight0[0].t(), best, atol=1e-4)


def test_the_seed_decides_an_mlp_and_nothing_about_a_linear_probe() -> None:
    assert same(fit(hidden=16, seed=1), fit(hidden=16, seed=1))
    assert not same(fit(hidden=16, seed=1), fit(hidden=16, seed=2))
    assert same(fit(seed=1), fit(seed=2))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fit(hidden=16)
    assert torch.equal(torch.get_rng_state(), before)


def test_they_are_fitted_where_gradients_are_switched_off_too() -> None:
    with torch.inference_mode():
        features = samples(N, 0)[0] * 1.0
    with torch.no_grad():
        assert same(fit(train=(features, samples(N, 0)[1])), fit())


def test_fitted_probes_are_buffers_that_no_gradient_reaches() -> None:
    probes = fit(hidden=16)
    assert list(probes.parameters()) == []
    assert set(probes.state_dict()) == {"mean", "scale", "weight0", "bias0", "weight1", "bias1"}
    assert not probes(samples(N, 0)[0]).requires_grad
    assert torch.equal(probes.train()(samples(N, 0)[0]), probes.eval()(samples(N, 0)[0]))


def test_a_probe_made_of_a_head_is_that_head() -> None:
    head = nn.Linear(D, C)
    features = samples(N, 0)[0]
    logits = probe_from_head(head.weight, head.bias)(features)
    assert logits.shape == (1, N, C)
    assert torch.allclose(logits[0], head(features), atol=1e-6, rtol=1e-6)
