"""Methods x seeds on a user's own config, cell by cell, in the store of the run.

A cell is the `distill` stage (for labels alone: the `baseline` stage) that the config would have
with that method and that seed, under the same key: what a run made already is not made again, and
a killed comparison goes on with the cell that it was at. Data, teacher and the teacher's signals
are those of the config itself, for every cell.

    runs/NAME/compare/seconds.json                 seconds per epoch of each cell, by its key
    runs/NAME/compare/compare.json .html .png      the newest comparison
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import plugins
from .errors import EdgeDistillError
from .evaluation.comparison import Answers, Cell, Result, compare
from .plan import Plan, make_plan, require, student_stage
from .reporting import comparison
from .run import Event, Outcome, key_of, run_plan
from .stages import report
from .stages.distill import MethodSpec
from .store import write_atomic
from .surroundings import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from .config import Config
    from .contracts import Artifact, Stage
    from .store import Store

    Listener = Callable[[Event], None]

REFERENCES = ("none", "kd")
TRUNK = ("data", "teacher")


@dataclass(frozen=True, slots=True)
class Task:
    """One cell that is to be trained.

    Attributes:
        method: its name.
        seed: of the student.
        stage: trains it, after the trunk; None where the plan itself refuses.
        refused: why.
    """

    method: str
    seed: int
    stage: Stage | None
    refused: EdgeDistillError | None = None

    @property
    def name(self) -> str:
        """Names the cell in progress and log: `kd-seed0`."""
        return f"{self.method}-seed{self.seed}"


def entries(config: Config, names: Iterable[str]) -> dict[str, MethodSpec]:
    """What is compared: a method with its options for each row of the table.

    The config's own method keeps its options and its `with`, under a name such as `fitnets+paced`;
    any other has its defaults. The references, always there, stand alone.

    Raises:
        ConfigError: there is no such method.
    """
    own = MethodSpec.of(config)
    composed = "+".join(spec.name for spec in (own, *own.also))
    alone = replace(own, also=())
    found = {name: alone if name == own.name else MethodSpec(name) for name in REFERENCES}
    for name in names:
        plugins.method(name)  # an unknown name shows before any work
        found |= {composed: own} if name == own.name else {name: MethodSpec(name)}
    return found


def make_tasks(
    config: Config, root: Path, names: Iterable[str], seeds: int
) -> tuple[Plan, tuple[Task, ...]]:
    """Lay out a comparison.

    Args:
        config: checked.
        root: folder of the config.
        names: of methods; the references are added.
        seeds: how many, from `train.seed` on.

    Returns:
        The plan of data and teacher, and one task per method and seed.

    Raises:
        ConfigError: there is no such method, or what `make_plan` raises.
    """
    specs, first = entries(config, names), config.train.seed
    plan = make_plan(config, root)
    trunk = replace(plan, stages=tuple(s for s in plan.stages if s.name in TRUNK))
    tasks = (
        _task(name, spec, config, root, seed)
        for name, spec in specs.items()
        for seed in range(first, first + seeds)
    )
    return trunk, tuple(tasks)


def _task(name: str, spec: MethodSpec, config: Config, root: Path, seed: int) -> Task:
    # Named as a run names it, since the name is in the key.
    stage = "baseline" if spec.name == "none" != config.distill.method else "distill"
    train = config.train.model_copy(update={"seed": seed})
    seeded = config.model_copy(update={"train": train})
    try:
        return Task(name, seed, student_stage(stage, spec, seeded, root))
    except EdgeDistillError as error:
        return Task(name, seed, None, error)


def run_tasks(
    trunk: Plan, tasks: Iterable[Task], store: Store, seconds: Seconds, listen: Listener
) -> tuple[Answers, list[Cell]]:
    """Train every cell that the store does not hold; a cell that fails is a result too.

    Raises:
        EdgeDistillError: data or teacher cannot be made.
        Interrupted: Ctrl-C; the same comparison goes on from there.
    """
    made = run_plan(trunk, store, listen)
    for error in made.failures.values():
        raise error
    shared = _answers(made)
    return shared, [_cell(trunk, task, store, seconds, listen) for task in tasks]


def _cell(trunk: Plan, task: Task, store: Store, seconds: Seconds, listen: Listener) -> Cell:
    if task.stage is None or task.refused is not None:
        listen(Event("failed", task.name, str(task.refused), error=task.refused))
        return Cell(task.method, task.seed, None, str(task.refused))
    stage, watch = task.stage, Stopwatch()

    def hear(event: Event) -> None:
        if event.stage == stage.name:
            watch.hear(event)
            listen(replace(event, stage=task.name))

    outcome = run_plan(replace(trunk, stages=(*trunk.stages, stage)), store, hear)
    if stage.name not in outcome.artifacts:
        fault = outcome.failures.get(stage.name, next(iter(outcome.failures.values()), None))
        return Cell(task.method, task.seed, None, str(fault))
    key = key_of(outcome.recipes[stage.name])
    seconds.remember(key, watch.per_epoch(stage.settings["epochs"]))
    result = _result(outcome.artifacts[stage.name], seconds.of(key))
    return Cell(task.method, task.seed, result, "")


class Stopwatch:
    """Seconds per epoch of a training, from the pace of its steps: a resumed one counts too."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)
        self._total = 0

    def hear(self, event: Event) -> None:
        """Take note of an event of the training."""
        if event.kind != "progress":
            return
        now = (event.done, time.perf_counter())
        if self._first is None or event.total != self._total or event.done < self._last[0]:
            self._first, self._total = now, event.total  # something else was counted before
        self._last = now

    def per_epoch(self, epochs: int) -> float | None:
        """Seconds; None where fewer than two steps were seen."""
        if self._first is None or self._last[0] <= self._first[0]:
            return None
        pace = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return pace * self._total / epochs


class Seconds:
    """Seconds per epoch of cells, remembered for those that will be cached.

    Args:
        path: seconds.json.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, float] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def remember(self, key: str, seconds: float | None) -> None:
        """Write down what was measured; None, of a cached cell, changes nothing."""
        if seconds is not None:
            self._known[key] = seconds
            write_atomic(self._path, json.dumps(self._known, indent=1, sort_keys=True).encode())

    def of(self, key: str) -> float | None:
        """What is known of a cell."""
        return self._known.get(key)


def _answers(made: Outcome) -> Answers:
    import numpy as np

    targets = np.load(made.artifacts["data"].root / "test" / "targets.npy")
    return Answers(np.load(made.artifacts["teacher"].root / "outputs" / "test.npy"), targets)


def _result(artifact: Artifact, seconds: float | None) -> Result:
    import numpy as np

    note: dict[str, Any] = json.loads((artifact.root / "model.json").read_text())
    logits = np.load(artifact.root / "outputs" / "test.npy")
    return Result(logits, note["accuracy"]["validation"], note["best_epoch"], seconds)


def prepare(config: Config) -> None:
    """See before any work that the data can be read and the page be drawn.

    Raises:
        MissingDependency: a library for that is not installed.
    """
    found = [report.missing()]
    if ":" not in config.data.source:
        found.append(plugins.load("data", config.data.source)().missing())
    require([missing for missing in found if missing is not None])


def record_of(
    config: Config, cells: Sequence[Cell], answers: Answers, command: str
) -> dict[str, Any]:
    """Everything that is told of a comparison: what compare.json holds."""
    rows, best = compare(cells, answers, REFERENCES)
    right = answers.teacher.argmax(axis=1) == answers.targets
    models = {
        "teacher": foreign[1].name if (foreign := config.teacher.foreign) else config.teacher.model,
        "student": config.student.model,
        "data": config.data.source,
    }
    return {
        "name": config.name,
        "models": models,
        "seeds": sorted({cell.seed for cell in cells}),
        "teacher": 100 * float(right.mean()),
        "references": list(REFERENCES),
        "methods": rows,
        "best": best,
        "command": command,
        **surroundings(),
    }


def write_pages(record: Mapping[str, Any], out: Path) -> None:
    """Write compare.json, compare.png and compare.html."""
    content = json.dumps(record, indent=1, allow_nan=False)
    write_atomic(out / "compare.json", content.encode())
    write_atomic(out / "compare.png", comparison.draw_png(record))
    write_atomic(out / "compare.html", comparison.render_page(record).encode())
