"""Which checkpoint teaches when: the boundaries of every schedule."""

from __future__ import annotations

import itertools
import math

import pytest

from edgedistill.pipeline.methods.schedules import (
    equal_segments,
    find_transition,
    first_above,
    on_saturation,
    time_matched,
    two_shot,
)

KEPT = (2, 4, 8)
PARITY = (0.50, 0.51, 0.49, 0.50, 0.51, 0.50, 0.52, 0.53, 0.58, 0.83, 0.97, 1.0, 1.0)


def curve(values, first: int = 1) -> list[tuple[float, float]]:
    return list(enumerate(values, first))


@pytest.mark.parametrize(
    ("position", "speed", "wanted"),
    [
        pytest.param(0, 1, 2, id="at the start the first checkpoint"),
        pytest.param(1.5, 1, 2, id="between"),
        pytest.param(2, 1, 2, id="exactly on one: that one"),
        pytest.param(2 + 1e-9, 1, 4, id="just after it the next"),
        pytest.param(8, 1, 8, id="exactly on the last one"),
        pytest.param(8.01, 1, None, id="beyond the end the final teacher"),
        pytest.param(1e9, 1, None, id="far beyond"),
        pytest.param(2, 2, 4, id="twice as fast"),
        pytest.param(4, 0.5, 2, id="half as fast"),
        pytest.param(0, math.inf, None, id="infinitely fast at the start"),
        pytest.param(3, math.inf, None, id="infinitely fast"),
    ],
)
def test_time_matched(position, speed, wanted) -> None:
    assert time_matched(KEPT, position, speed) == wanted


def test_an_untrained_teacher_never_teaches() -> None:
    assert time_matched((0, 3), 0) == 3


@pytest.mark.parametrize("position", [0, 1, 100])
def test_without_checkpoints_the_final_teacher_teaches(position) -> None:
    assert time_matched((), position) is None
    assert equal_segments((), min(position / 100, 0.99)) is None


def test_two_shot_switches_once_and_exactly_there() -> None:
    got = [two_shot(5, step / 10, 0.3) for step in range(10)]
    assert got == [5, 5, 5] + [None] * 7
    assert two_shot(5, 0.0, 0.0) is None


def test_equal_segments_share_the_training_with_the_final_teacher() -> None:
    got = [equal_segments((1, 2, 3), step / 12) for step in range(12)]
    assert got == [1] * 3 + [2] * 3 + [3] * 3 + [None] * 3
    assert equal_segments((1, 2, 3), 1.0) is None


def test_a_student_that_stands_still_after_progress_moves_on() -> None:
    rising = [0.2, 0.3, 0.4, 0.5, 0.6]
    assert on_saturation(rising, 0.1, longest=100) == 0
    assert on_saturation([*rising, *[0.6] * 3], 0.1, longest=100) == 0
    assert on_saturation([*rising, *[0.6] * 4], 0.1, longest=100) == 1


def test_a_student_that_never_moved_stays_until_the_longest() -> None:
    assert on_saturation([0.1] * 29, 0.1, longest=30) == 0
    assert on_saturation([0.1] * 30, 0.1, longest=30) == 1
    assert on_saturation([0.1] * 60, 0.1, longest=30) == 2


def test_progress_is_counted_from_the_last_switch() -> None:
    history = [0.5, *[0.6] * 5]
    assert on_saturation(history, 0.1, longest=100) == 1
    assert on_saturation([*history, *[0.6] * 20], 0.1, longest=100) == 1
    assert on_saturation([*history, 0.7, *[0.7] * 4], 0.1, longest=100) == 2


def test_a_longer_history_never_takes_a_switch_back() -> None:
    history = [0.1 + 0.8 * (1 - 0.8**i) + 0.02 * (i % 3) for i in range(60)]
    counts = [on_saturation(history[:n], 0.1, longest=7) for n in range(61)]
    assert counts[0] == 0
    assert counts[-1] >= 8
    assert all(0 <= b - a <= 1 for a, b in itertools.pairwise(counts))


def test_the_checkpoint_before_the_largest_jump_is_found() -> None:
    found = find_transition(curve(PARITY))
    assert (found.index, found.visible) == (8, True)
    assert found.gain == pytest.approx(0.25)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param((), id="nothing"),
        pytest.param((0.4,), id="one checkpoint"),
        pytest.param((0.5,) * 9, id="never learns"),
        pytest.param((0.60, 0.75, 0.85, 0.90, 0.93, 0.94, 0.95), id="steepest at the start"),
        pytest.param((0.10, 0.25, 0.40, 0.55, 0.70, 0.85), id="steady"),
        pytest.param((0.90, 0.93, 0.89, 0.94, 0.91, 0.95), id="noise on a plateau"),
        pytest.param((0.4, 0.7, 0.8, *(0.81, 0.79) * 9, 0.91, 0.92), id="learning rate lowered"),
        pytest.param((0.5, 1.0, 1.0, 1.0), id="over before it was seen"),
        pytest.param((0.9, 0.8, 0.7, 0.6), id="it only falls"),
    ],
)
def test_what_is_no_sharp_transition(values) -> None:
    assert not find_transition(curve(values)).visible


def test_a_grid_that_is_too_coarse_hides_the_transition() -> None:
    fine = find_transition(curve(PARITY))
    coarse = find_transition([(i, PARITY[i - 1]) for i in (6, 12)])
    assert fine.visible
    assert not coarse.visible


def test_first_above_is_a_share_of_the_way_from_chance() -> None:
    assert first_above(curve(PARITY), chance=0.5, share=0.1) == 8
    assert first_above(curve(PARITY), chance=0.5, share=0.5) == 9
    assert first_above(curve(PARITY), chance=0.5, share=1.0) == 11
    assert first_above(curve([0.8, 0.9]), chance=0.1) == 0
    assert first_above(curve([0.2, 0.3, 0.1]), chance=0.5) == 1, "worse than chance: the best"
