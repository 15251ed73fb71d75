"""A training that was stopped anywhere ends with the bits of one that was not."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgedistill.pipeline.training.checkpoint import FILE

SCRIPT = Path(__file__).with_name("killable.py")


def _load():
    spec = importlib.util.spec_from_file_location("killable", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


killable = _load()


class Stopped(Exception):
    """What the progress callback raises in place of Ctrl-C."""


def stop_at(step: int):
    def progress(done: int, total: int, note: str) -> None:
        if done == step:
            raise Stopped

    return progress


def finish(scratch: Path, model: str, optimizer: str):
    """Train to the end, from whatever lies in `scratch`; the steps that were made, and the rest."""
    steps: list[int] = []
    loop = killable.make_loop(scratch, model, optimizer, lambda done, *_: steps.append(done))
    torch.manual_seed(0)  # the state of the global generator is nobody's business
    return loop.fit(), steps, loop


def assert_same(kit, resumed, whole) -> None:
    (one, _, one_loop), (two, _, two_loop) = resumed, whole
    assert kit.equal(one.student.state_dict(), two.student.state_dict())
    assert kit.equal(one_loop.trainable.state_dict(), two_loop.trainable.state_dict())
    assert kit.untimed(one.history) == kit.untimed(two.history)
    assert one.best == two.best
    states = [loop.optimizer.state_dict()["state"] for loop in (one_loop, two_loop)]
    assert all(kit.equal(states[0][key], states[1][key]) for key in states[1])


@pytest.mark.parametrize(
    ("model", "optimizer"), [("mlp", "adamw"), ("dscnn", "sgd"), ("transformer", "adamw")]
)
@pytest.mark.parametrize("step", [killable.STEPS + 2, 2 * killable.STEPS])
def test_stopped_in_an_epoch_it_ends_as_if_uninterrupted(
    kit, tmp_path, model, optimizer, step
) -> None:
    whole = finish(tmp_path / "whole", model, optimizer)
    with pytest.raises(Stopped):
        killable.make_loop(tmp_path / "cut", model, optimizer, stop_at(step)).fit()
    resumed = finish(tmp_path / "cut", model, optimizer)
    assert resumed[1] == list(range(killable.STEPS + 1, 3 * killable.STEPS + 1))
    assert whole[1] == list(range(1, 3 * killable.STEPS + 1))
    assert_same(kit, resumed, whole)


def test_killed_by_the_system_it_ends_as_if_uninterrupted(kit, tmp_path) -> None:
    scratch, stop = tmp_path / "cut", 2 * killable.STEPS + 1
    command = [sys.executable, str(SCRIPT), str(scratch), "mlp", "adamw", str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.kill()
        assert child.wait(60) == -signal.SIGKILL
    resumed = finish(scratch, "mlp", "adamw")
    assert resumed[1] == list(range(stop, 3 * killable.STEPS + 1))
    assert_same(kit, resumed, finish(tmp_path / "whole", "mlp", "adamw"))


def test_stopped_twice(kit, tmp_path) -> None:
    for step in (killable.STEPS + 1, 2 * killable.STEPS + 3):
        with pytest.raises(Stopped):
            killable.make_loop(tmp_path / "cut", "mlp", "adamw", stop_at(step)).fit()
    resumed = finish(tmp_path / "cut", "mlp", "adamw")
    assert_same(kit, resumed, finish(tmp_path / "whole", "mlp", "adamw"))


def test_a_finished_training_is_not_trained_again(kit, tmp_path) -> None:
    first = finish(tmp_path / "whole", "dscnn", "adamw")
    again = finish(tmp_path / "whole", "dscnn", "adamw")
    assert again[1] == []
    assert_same(kit, again, first)


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "byte", "seal"])
def test_a_damaged_checkpoint_is_as_good_as_none(kit, tmp_path, damage) -> None:
    whole = finish(tmp_path / "whole", "mlp", "sgd")
    file = tmp_path / "whole" / FILE
    content = file.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2], "empty": b"", "other": b"no",
        "byte": flipped(content, len(content) // 2), "seal": flipped(content, -1),
    }  # fmt: skip
    file.write_bytes(damaged[damage])
    again = finish(tmp_path / "whole", "mlp", "sgd")
    assert again[1][0] == 1
    assert_same(kit, again, whole)


def test_an_epoch_is_told_again_until_its_checkpoint_is_written(kit, tmp_path) -> None:
    told: list[int] = []

    def on_epoch(epoch, student) -> None:
        told.append(epoch)
        if told == [1, 2]:
            raise Stopped

    with pytest.raises(Stopped):
        kit.loop(scratch=tmp_path / "cut", on_epoch=on_epoch, epochs=3).fit()
    kit.loop(scratch=tmp_path / "cut", on_epoch=on_epoch, epochs=3).fit()
    assert told == [1, 2, 2, 3]
