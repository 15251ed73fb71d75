from __future__ import annotations

import pytest

from edgedistill.pipeline.reporting import words


@pytest.mark.parametrize(
    ("milliseconds", "wanted"),
    [(None, "-"), (0.0004, "0.400 µs"), (0.2134, "213 µs"), (0.9994, "999 µs"),
     (0.9996, "1.00 ms"), (1.234, "1.23 ms"), (999.6, "1.00 s"), (2500, "2.50 s")],
)  # fmt: skip
def test_duration(milliseconds, wanted):
    assert words.duration(milliseconds) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (58_000, "58.0 kB"),
     (999_700, "1.00 MB"), (1_234_567, "1.23 MB"), (5e9, "5.00 GB")],
)  # fmt: skip
def test_size(count, wanted):
    assert words.size(count) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0, "0"), (9.996, "10.0"), (99.96, "100"), (1234.5, "1234"), (0.001234, "0.00123"),
     (-0.5, "-0.500")],
)  # fmt: skip
def test_significant_never_uses_an_exponent(value, wanted):
    assert words.significant(value) == wanted


@pytest.mark.parametrize(("value", "wanted"), [(-0.04, "0.0"), (0.26, "0.3"), (None, "-")])
def test_points_have_no_negative_zero(value, wanted):
    assert words.points(value) == wanted


def test_interval_writes_a_shared_unit_once():
    assert words.interval([0.978, 0.992], words.percent) == "97.8 to 99.2 %"
    assert words.interval([0.9, 1.1], words.duration) == "900 µs to 1.10 ms"
    assert words.interval([11.5, 12.6], words.ratio) == "11.5x to 12.6x"
    assert words.interval(None, words.ratio) == "-"


@pytest.mark.parametrize(
    ("drop", "wanted"),
    [(0.3, "0.3 points below the teacher"), (-1.2, "1.2 points above the teacher"),
     (0.04, "level with the teacher"), (-0.04, "level with the teacher")],
)  # fmt: skip
def test_against_teacher(drop, wanted):
    assert words.against_teacher(drop) == wanted
