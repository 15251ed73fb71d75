from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgedistill.pipeline import console
from edgedistill.pipeline.errors import StageError
from edgedistill.pipeline.run import Event


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_rate_and_time_left_count_only_the_steps_of_this_process(clock, capsys):
    progress = console.Progress(1)
    progress.show(Event("started", "distill"))
    clock.seconds = 5.0
    progress.show(Event("progress", "distill", "epoch 91", 900, 1000))
    clock.seconds = 15.0
    progress.show(Event("progress", "distill", "epoch 92", 920, 1000))
    assert capsys.readouterr().err == "  distill: 920/1000, 2.0/s, 40 s left, epoch 92\n"


def test_before_a_second_step_there_is_no_rate(clock, capsys):
    progress = console.Progress(1)
    progress.show(Event("started", "distill"))
    clock.seconds = 20.0
    progress.show(Event("progress", "distill", "epoch 91", 900, 1000))
    assert capsys.readouterr().err == "  distill: 900/1000, epoch 91\n"


@pytest.mark.parametrize("verbose", [True, False])
def test_the_traceback_of_a_failed_stage_is_for_the_verbose(capsys, verbose):
    error = StageError("it broke")
    error.__cause__ = ValueError("the cause")
    console.Progress(1, verbose).show(Event("failed", "distill", str(error), error=error))
    assert ("ValueError: the cause" in capsys.readouterr().err) is verbose
