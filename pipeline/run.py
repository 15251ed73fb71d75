"""Walks a plan: finds each stage's artefact in the store, or makes it; tells what happens.

Stages that only wait for a child process run side by side; a stage that trains or measures runs
alone. A failed stage takes those that need it with it; the rest go on.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
import threading
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import child
from .contracts import Artifact, Stage, Workspace
from .errors import EdgeDistillError, Interrupted, StageError
from .store import Damaged, Store, canonical, explaining

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from .plan import Plan

EventKind = Literal[
    "started", "progress", "cached", "waiting", "damaged", "done", "failed", "skipped"
]


STOP_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a stage.

    Attributes:
        kind: what.
        stage: to which.
        message: for a person.
        done: steps done, for `progress`.
        total: steps in all, for `progress`.
        seconds: how long it took, for `done`.
        error: what went wrong, for `failed`.
    """

    kind: EventKind
    stage: str
    message: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    error: EdgeDistillError | None = None


@dataclass(slots=True)
class Outcome:
    """What a walk left.

    Attributes:
        artifacts: by stage.
        recipes: by stage, what its key was made of; `plan` compares it next time.
        failures: errors by stage; a skipped stage is not among them.
    """

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, EdgeDistillError] = field(default_factory=dict)


def recipe(
    stage: Stage, artifacts: Mapping[str, Artifact], failures: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All that decides what a stage makes: its key is the hash of this.

    Args:
        stage: the stage.
        artifacts: by stage, at least those that it needs.
        failures: messages of failed stages; they count for a stage that tells them.
    """
    needs = {n: artifacts[n].digest for n in (*stage.needs, *stage.optional) if n in artifacts}
    told = {"failures": dict(failures)} if stage.tells_failures and failures else {}
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": dict(stage.settings),
        "needs": needs,
        "libraries": {name: _version(name) for name in stage.libraries},
        **told,
    }


def key_of(recipe: Mapping[str, Any]) -> str:
    """The key of an artefact that is made by this recipe."""
    return hashlib.sha256(canonical(recipe)).hexdigest()


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def run_plan(
    plan: Plan,
    store: Store,
    listen: Callable[[Event], None] = lambda event: None,
    again: Collection[str] = (),
) -> Outcome:
    """Make every artefact of a plan that the store does not hold.

    Args:
        plan: what to make.
        store: where artefacts are.
        listen: called for every event, from several threads.
        again: stages to remake although the store has them.

    Raises:
        Interrupted: Ctrl-C; what was finished is kept, training resumes from its checkpoint.
    """
    walk = _Walk(plan, store, listen, set(again))
    try:
        walk.run()
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; everything that was finished is kept") from error
    finally:
        walk.stop()
    return walk.outcome


@contextmanager
def _foreseen(stage: str) -> Iterator[None]:
    """Turn what a stage raised by accident into an error that stops this stage alone."""
    try:
        yield
    except EdgeDistillError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        place = _user_place(error)
        message = f"{place}: {what}" if place else f"{stage} failed: {what}"
        raise StageError(message, "`edgedistill -v run ...` shows the traceback") from error


def _user_place(error: BaseException) -> str:
    """`file:line` of the innermost frame that is neither ours nor a library's; may be empty."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if _is_users(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _is_users(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    package = Path(__file__).parents[1]
    ours = (package / name for name in ("pipeline", "exporters", "targets"))
    libraries = (Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
    return not any(path.is_relative_to(folder) for folder in (*ours, *libraries))


class _Walk:
    """One walk over a plan."""

    def __init__(
        self, plan: Plan, store: Store, listen: Callable[[Event], None], again: set[str]
    ) -> None:
        self.store, self.listen, self.again = store, listen, again
        self.outcome = Outcome()
        self.waiting = list(plan.stages)
        self.stopped = threading.Event()
        self.running: dict[Future[Artifact], Stage] = {}
        self.pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)

    def run(self) -> None:
        while self.waiting or self.running:
            self._start_ready()
            if self.running:
                done, _ = wait(self.running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._collect(self.running.pop(future), future)

    def stop(self) -> None:
        """End what still runs; the store keeps only what is complete."""
        self.stopped.set()
        self.pool.shutdown(wait=False, cancel_futures=True)
        while any(not future.done() for future in self.running):
            child.kill_all()  # again and again: a thread may be about to start one
            wait(self.running, timeout=STOP_POLL_SECONDS)
        self.pool.shutdown(wait=True)

    def _start_ready(self) -> None:
        for stage in list(self.waiting):
            unfinished = {s.name for s in (*self.waiting, *self.running.values())}
            if unfinished & {*stage.needs, *stage.optional}:
                continue
            if lost := [name for name in stage.needs if name not in self.outcome.artifacts]:
                self.waiting.remove(stage)
                self.listen(Event("skipped", stage.name, f"needs {', '.join(lost)}"))
            elif stage.alone and self.running:
                continue
            else:
                self.waiting.remove(stage)
                self._start(stage)
                if stage.alone:
                    return

    def _start(self, stage: Stage) -> None:
        """Run a stage: here if it runs alone, in a thread if it only waits for a child."""
        # Taken here: a thread that walked through the dict while it grows would crash.
        failures = {name: str(error) for name, error in self.outcome.failures.items()}
        if not stage.alone:
            self.running[self.pool.submit(self._make, stage, failures)] = stage
            return
        future: Future[Artifact] = Future()
        try:
            future.set_result(self._make(stage, failures))
        except EdgeDistillError as error:
            future.set_exception(error)
        self._collect(stage, future)

    def _collect(self, stage: Stage, future: Future[Artifact]) -> None:
        error = future.exception()
        if error is None:
            self.outcome.artifacts[stage.name] = future.result()
        elif isinstance(error, EdgeDistillError) and not isinstance(error, Interrupted):
            self.outcome.failures[stage.name] = error
            self.listen(Event("failed", stage.name, str(error), error=error))
        else:
            raise error

    def _make(self, stage: Stage, failures: Mapping[str, str]) -> Artifact:
        made_of = recipe(stage, self.outcome.artifacts, failures)
        key = key_of(made_of)
        self.outcome.recipes[stage.name] = made_of
        with self.store.lock(key, self._waiter(stage.name)):
            if stage.name in self.again:
                self.store.drop(stage.name, key)
            found = self._find(stage, key)
            if found is not None:
                self.listen(Event("cached", stage.name))
                return found
            return self._fill(stage, key, failures)

    def _waiter(self, stage: str) -> Callable[[], None]:
        """What to call while another process makes a stage: tells it once, and heeds Ctrl-C."""
        told = False

        def heed() -> None:
            nonlocal told
            if self.stopped.is_set():
                raise Interrupted("interrupted")
            if not told:
                self.listen(Event("waiting", stage, "another process makes it"))
            told = True

        return heed

    def _find(self, stage: Stage, key: str) -> Artifact | None:
        try:
            return self.store.find(stage.name, key)
        except Damaged as error:
            self.listen(Event("damaged", stage.name, f"{error.message}: made again"))
            self.store.drop(stage.name, key)
            return None

    def _fill(self, stage: Stage, key: str, failures: Mapping[str, str]) -> Artifact:
        if self.stopped.is_set():
            raise Interrupted("interrupted")
        self.listen(Event("started", stage.name))
        start = time.perf_counter()
        inputs = {
            name: self.outcome.artifacts[name]
            for name in (*stage.needs, *stage.optional)
            if name in self.outcome.artifacts
        }
        out, scratch = self.store.work_folders(key)
        workspace = Workspace(
            out, scratch, partial(self._progress, stage.name), failures, shared=self.store.shared
        )
        try:
            with _foreseen(stage.name), explaining(out):
                stage.run(inputs, workspace)
                artifact = self.store.commit(stage.name, key, workspace.describe)
        except BaseException:
            self.store.abandon(key)
            raise
        self.listen(Event("done", stage.name, seconds=time.perf_counter() - start))
        return artifact

    def _progress(self, stage: str, done: int, total: int, note: str) -> None:
        if self.stopped.is_set():
            raise Interrupted("interrupted")
        self.listen(Event("progress", stage, note, done, total))
