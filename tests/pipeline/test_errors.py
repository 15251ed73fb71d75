from __future__ import annotations

import inspect

import pytest

from edgedistill.pipeline import errors
from edgedistill.pipeline.errors import ConfigError, EdgeDistillError, Fault

CLASSES = {
    name: kind for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, EdgeDistillError)
}  # fmt: skip
OTHER_CODES = {"ConfigError": 2, "MissingDependency": 2, "GoalMissed": 3, "Interrupted": 130}


@pytest.mark.parametrize("name", CLASSES)
def test_exit_codes(name):
    assert CLASSES[name].exit_code == OTHER_CODES.get(name, 1)


@pytest.mark.parametrize("kind", CLASSES.values())
def test_a_message_and_the_next_step(kind):
    assert str(kind("wrong", hint="do this")) == "wrong\n  -> do this"
    assert str(kind("wrong")) == "wrong"


def test_the_page_of_the_tree_names_every_class():
    assert all(name in (errors.__doc__ or "") for name in CLASSES)


def test_a_config_error_tells_every_fault():
    faults = [
        Fault("a.b", "f:1", "3", "less", "did you mean 2?"),
        Fault("c", "f:2", "'x'", "a number"),
    ]
    told = str(ConfigError("2 faults", faults, "mend them")).splitlines()
    assert told == [
        "2 faults",
        "  f:1: a.b = 3: expected less; did you mean 2?",
        "  f:2: c = 'x': expected a number",
        "  -> mend them",
    ]
