"""The thresholds of what is claimed on sparse parity."""

from __future__ import annotations

import math

import pytest
import torch

from edgedistill.pipeline.experiments import parity_claims
from edgedistill.pipeline.experiments.parity_claims import check_leak, check_same, compare_speeds


def medians(**changes: float) -> dict[str, float]:
    names = {
        "labels": parity_claims.CE, "teacher": parity_claims.TEACHER,
        "follower": parity_claims.PROGRESSIVE, "two": parity_claims.TWO_SHOT,
    }  # fmt: skip
    values = {"labels": 600.0, "teacher": 200.0, "follower": 300.0, "two": 200.0, **changes}
    return {names[name]: value for name, value in values.items()}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({}, [True, True, True], id="at the thresholds"),
        pytest.param({"follower": 301.0}, [False, True, True], id="not twice as fast"),
        pytest.param({"two": 201.0}, [True, False, True], id="not three times"),
        pytest.param({"teacher": 187.0}, [True, True, False], id="the teacher is faster"),
        pytest.param({"labels": math.inf}, [True, True, True], id="labels never get there"),
        pytest.param(
            dict.fromkeys(["labels", "follower", "two"], math.inf), [False] * 3, id="nobody"
        ),
    ],
)
def test_speeds_are_compared_by_medians(changes, wanted) -> None:
    assert [check.holds for check in compare_speeds(medians(**changes))] == wanted


def test_a_leak_is_of_a_lower_degree_than_the_labels() -> None:
    tells = {parity_claims.INSIDE: [0.01, 0.2, 0.9], parity_claims.OUTSIDE: [0.001, 0.05, 0.001]}
    assert not check_leak(tells).holds
    tells[parity_claims.OUTSIDE] = [0.001, 0.03, 0.001]
    assert check_leak(tells).holds
    assert "degree 2" in check_leak(tells).got


@pytest.mark.parametrize(
    ("ours", "holds", "got"),
    [
        ([[0.5, 0.6], [0.7, 1.0]], True, "0 of 2"),
        ([[0.5, 0.6], [0.7, 0.9]], False, "1 of 2"),
        ([[0.5, 0.6]], False, "1 of 2"),
        ([[0.5, 0.6], [0.7, 1.0], [1.0, 1.0]], False, "1 of 3"),
    ],
)
def test_the_same_is_every_evaluation_of_every_seed(ours, holds, got) -> None:
    labels = torch.tensor([[0.5, 0.6], [0.7, 1.0]])
    check = check_same({"ours": torch.tensor(ours), parity_claims.CE: labels}, "ours")
    assert check.holds is holds
    assert check.got.startswith(got)
