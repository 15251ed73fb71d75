"""Sparse parity and what labels tell of it, against sums over the whole cube."""

from __future__ import annotations

import itertools

import pytest
import torch

from edgedistill.pipeline.experiments.parity import SparseParityTask

TASK = SparseParityTask(dimensions=6, degree=3)
CUBE = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)))


def test_labels_are_the_sign_of_the_product() -> None:
    inputs, labels = TASK.draw(500, torch.Generator().manual_seed(0))
    assert set(inputs.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(labels == 1, inputs[:, :3].prod(1) == -1)
    assert 0.4 < labels.float().mean() < 0.6
    assert labels.dtype == torch.int64


def test_the_same_stream_gives_the_same_samples_and_goes_on() -> None:
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    first = TASK.draw(20, one)
    assert all(torch.equal(a, b) for a, b in zip(first, TASK.draw(20, two), strict=True))
    assert not torch.equal(TASK.draw(20, one)[0], first[0])


def test_there_are_as_many_monomials_outside_as_inside() -> None:
    for degree, count in ((1, 3), (2, 3), (3, 1)):
        inside, outside = (TASK.monomials(degree, flag) for flag in (True, False))
        assert len(inside) == len(outside) == count
        assert all(set(m) <= {0, 1, 2} for m in inside)
        assert all(set(m) <= {3, 4, 5} for m in outside)


def test_true_labels_tell_of_the_highest_degree_alone() -> None:
    labels = (CUBE[:, :3].prod(1) == -1).long()
    assert TASK.correlations(CUBE, labels, inside=True) == [0, 0, 1]
    assert TASK.correlations(CUBE, labels, inside=False) == [0, 0, 0]


def test_the_majority_tells_of_single_coordinates() -> None:
    labels = (CUBE[:, :3].sum(1) < 0).long()
    assert TASK.correlations(CUBE, labels, inside=True) == pytest.approx([0.5, 0, 0.5])
