"""`none` against cross-entropy worked out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistill.pipeline.contracts import Batch
from edgedistill.pipeline.methods.none import LabelsOnly


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    logits = np.random.default_rng(0).standard_normal((6, 4))
    targets = np.array([0, 1, 2, 3, 0, 1])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = np.full((6, 4), smoothing / 4)
    wanted[np.arange(6), targets] += 1 - smoothing
    expected = -(wanted * log_p).sum(1).mean()
    method = LabelsOnly(LabelsOnly.Options(label_smoothing=smoothing))
    batch = Batch(
        torch.from_numpy(logits),
        None,
        torch.from_numpy(targets),
        0,
        0.0,
        torch.arange(len(targets)),
    )
    assert float(method.loss(batch, None)["labels"]) == pytest.approx(expected, rel=1e-12)
    assert not method.needs.teacher
