"""A group of networks against the same networks, trained one by one by torch's own modules."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedistill.pipeline.experiments.batched import (
    BatchedMLP,
    BatchedSGD,
    accuracy,
    cosine,
    shuffled,
)

SIZES, SEEDS = (6, 5, 4, 3), (3, 11)


def module(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    first, second, head = (nn.Linear(a, b) for a, b in itertools.pairwise(SIZES))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), head)


@pytest.fixture
def nets() -> BatchedMLP:
    return BatchedMLP.initialised(SIZES, SEEDS)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))


def test_the_weights_are_those_of_linear_bit_for_bit(nets) -> None:
    for s, seed in enumerate(SEEDS):
        linears = [m for m in module(seed) if isinstance(m, nn.Linear)]
        for i, linear in enumerate(linears):
            assert torch.equal(nets.weights[i][s].t(), linear.weight)
            assert torch.equal(nets.biases[i][s][0], linear.bias)


def test_each_network_answers_its_own_inputs(nets, inputs) -> None:
    logits, features = nets(inputs), nets.hidden(inputs)
    assert [f.shape for f in features] == [(2, 7, 5), (2, 7, 4)]
    for s, seed in enumerate(SEEDS):
        torch.testing.assert_close(logits[s], module(seed)(inputs[s]))
        torch.testing.assert_close(features[-1][s], module(seed)[:4](inputs[s]))


def test_shared_inputs_are_given_to_every_network(nets, inputs) -> None:
    shared = inputs[0]
    assert torch.equal(nets(shared), nets(shared.expand(2, -1, -1)))


def test_a_single_layer_has_no_hidden_features(inputs) -> None:
    line = BatchedMLP.initialised((6, 3), (5,))
    assert line.hidden(inputs[0]) == []
    assert line(inputs[0]).shape == (1, 7, 3)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"momentum": 0.9}, id="momentum"),
        pytest.param({"momentum": 0.9, "weight_decay": 0.1}, id="decay"),
        pytest.param({"clip": 0.3}, id="clip"),
    ],
)
def test_it_trains_each_network_as_torch_does(nets, inputs, options) -> None:
    targets = torch.arange(7) % 3
    torch_options = {k: v for k, v in options.items() if k != "clip"}
    singles = [module(seed) for seed in SEEDS]
    theirs = [torch.optim.SGD(m.parameters(), lr=0.1, **torch_options) for m in singles]
    ours = BatchedSGD(nets.parameters, lr=0.1, **options)
    for step in range(5):
        share = cosine(step, 5)
        loss = F.cross_entropy(nets(inputs).flatten(0, 1), targets.repeat(2)) * len(nets)
        ours.step(loss, share)
        for s, (single, optimizer) in enumerate(zip(singles, theirs, strict=True)):
            optimizer.param_groups[0]["lr"] = 0.1 * share
            optimizer.zero_grad()
            F.cross_entropy(single(inputs[s]), targets).backward()
            if "clip" in options:
                nn.utils.clip_grad_norm_(single.parameters(), options["clip"])
            optimizer.step()
    for s, single in enumerate(singles):
        torch.testing.assert_close(nets.weights[0][s].t(), single[0].weight)
        torch.testing.assert_close(nets.biases[2][s][0], single[4].bias)


def test_a_network_does_not_feel_the_others(nets, inputs) -> None:
    alone = nets.select([1])
    for group, rows in ((nets, inputs), (alone, inputs[1:])):
        optimizer = BatchedSGD(group.parameters, lr=0.5, momentum=0.5, clip=0.1)
        for _ in range(3):
            optimizer.step(group(rows).square().mean(dim=(1, 2)).sum())
    torch.testing.assert_close(nets(inputs)[1], alone(inputs[1])[0])


def test_copies_and_selections_stay_behind_when_training_goes_on(nets, inputs) -> None:
    before = nets(inputs).detach()
    frozen, swapped = nets.copy(), nets.select([1, 0])
    BatchedSGD(nets.parameters, lr=1.0).step(nets(inputs).square().sum())
    assert not any(p.requires_grad for p in frozen.parameters)
    assert all(p.requires_grad and p.is_leaf for p in swapped.parameters)
    assert torch.equal(frozen(inputs), before)
    torch.testing.assert_close(swapped(inputs.flip(0)).flip(0), before)
    assert not torch.allclose(nets(inputs), before)


def test_cosine_falls_from_one_to_nothing() -> None:
    assert [cosine(step, 4) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0], abs=1e-12)


def test_accuracy_is_per_network() -> None:
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert accuracy(logits, torch.tensor([0, 1])).tolist() == [1.0, 0.5]
    assert accuracy(logits, torch.tensor([[1, 1], [1, 1]])).tolist() == [0.5, 1.0]


def test_each_network_has_an_order_of_its_own() -> None:
    orders = shuffled(20, [torch.Generator().manual_seed(seed) for seed in (0, 1, 0)])
    assert torch.equal(orders.sort(1).values, torch.arange(20).expand(3, -1))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
