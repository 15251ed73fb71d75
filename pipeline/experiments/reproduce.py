"""Runs the experiments of methods: each paper's claim, tried at a laptop's size.

What an experiment gave is a record (METHOD.json):

    method, citation, claim, setting, command, date, seconds     words and facts
    seeds      how many were run
    tables     title, unit, digits, arms (name, values: one per seed, `inf` as text)
    checks     statement, holds, got
    figures    title, x, y, note, series
    machine    facts of the machine; versions: of edgedistill and the libraries
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from .. import plugins
from ..errors import EdgeDistillError, MissingDependency, StageError
from ..reporting.html import missing
from ..run import Event
from ..store import explaining, write_atomic
from ..surroundings import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .contract import Experiment

    Record = Mapping[str, Any]

KIND = "experiments"


def find(names: Sequence[str]) -> dict[str, Experiment]:
    """The experiments of some methods, or of all of them, by the method's name.

    Raises:
        ConfigError: a method has no experiment; names the nearest that have one.
    """
    wanted = dict.fromkeys(names) or plugins.names(KIND)
    return {name: cast("Experiment", plugins.load(KIND, name)()) for name in wanted}


def prepare(out: Path) -> None:
    """See before any work that the pages can be drawn, and written there.

    Raises:
        MissingDependency: matplotlib or jinja2 is not installed.
        StoreError: the folder cannot be made.
    """
    if absent := missing():
        needed = f"reproduce draws with {' and '.join(absent.libraries)}, not installed here"
        raise MissingDependency(needed, absent.pip_line)
    with explaining(out):
        out.mkdir(parents=True, exist_ok=True)


def reproduce(
    experiments: Mapping[str, Experiment],
    seeds: int | None,
    out: Path,
    listen: Callable[[Event], None],
) -> Iterator[Record]:
    """Run experiments one by one, and leave the files of each as soon as it ended.

    An experiment that breaks is told as `failed`, and the others go on.

    Args:
        experiments: by method.
        seeds: how many; None is as many as each experiment asks for.
        out: an existing folder.
        listen: called for every event.

    Yields:
        The record of each experiment that ran.
    """
    from .pages import write_pictures

    for name, experiment in experiments.items():
        try:
            record = run_experiment(name, experiment, seeds or experiment.seeds, listen)
        except EdgeDistillError as error:
            listen(Event("failed", name, str(error), error=error))
            continue
        content = json.dumps(record, indent=1, allow_nan=False)
        write_atomic(out / f"{name}.json", content.encode())
        write_pictures(record, out)
        yield record


def run_experiment(
    name: str, experiment: Experiment, seeds: int, listen: Callable[[Event], None]
) -> Record:
    """Run one experiment and record what it gave.

    Raises:
        EdgeDistillError: it broke.
    """

    def progress(done: int, total: int, note: str) -> None:
        listen(Event("progress", name, note, done, total))

    listen(Event("started", name))
    start = time.perf_counter()
    try:
        with _one_thread():
            outcome = experiment.run(seeds, progress)
    except EdgeDistillError:
        raise
    except Exception as error:
        what = f"the experiment of {name} failed: {type(error).__name__}: {error}"
        raise StageError(what, "`edgedistill -v reproduce ...` shows the traceback") from error
    seconds = time.perf_counter() - start
    listen(Event("done", name, seconds=seconds))
    about = {
        "method": name,
        "citation": plugins.method(name).citation,
        "claim": experiment.claim,
        "setting": experiment.setting,
        "seeds": seeds,
        "command": f"edgedistill reproduce {name} --seeds {seeds}",
        "seconds": round(seconds, 2),
    }
    return {**about, **_plain(asdict(outcome)), **surroundings()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are then the same whatever the number of cores, and nets so small lose nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _plain(value: Any) -> Any:
    """The same for JSON: no tuples, no numbers of other libraries, `inf` and `nan` as texts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a tensor, also one of a single number
        return _plain(value.tolist())
    number = float(value)
    return number if math.isfinite(number) else str(number)
