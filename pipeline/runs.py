"""The folder `runs/NAME`: what a run leaves for a person, and what the next one reads.

NAME.edge.zip  report.html  report.json  summary.md      copies of the newest artefacts
stages/<stage>                                            links into the store
run.json                                                  recipes and keys of every stage
log.jsonl                                                 every event, one JSON line each
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .run import Event, Outcome, key_of
from .store import Damaged, Store, explaining, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from .contracts import Artifact

STORE = ".store"
PUBLISHED = {"bundle": "*.edge.zip", "report": "*.*"}


class RunFolder:
    """One `runs/NAME`.

    Args:
        runs: the folder of all runs; the store they share is below it.
        name: of the run.
    """

    def __init__(self, runs: Path, name: str) -> None:
        self.runs, self.name, self.path = runs, name, runs / name
        self.store = Store(runs / STORE)
        self._lock = threading.Lock()

    @classmethod
    def find(cls, run: Path) -> RunFolder:
        """The run that a person names by its folder.

        Raises:
            ConfigError: there is no finished run.
        """
        if not (run / "run.json").is_file():
            raise ConfigError(
                f"{run} is not the folder of a run", hint="expected runs/NAME with a run.json"
            )
        resolved = run.resolve()
        return cls(resolved.parent, resolved.name)

    def log(self, event: Event) -> None:
        """Append an event to log.jsonl."""
        if event.kind == "progress":
            return
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stage": event.stage,
            "event": event.kind,
            "message": event.message,
            "seconds": round(event.seconds, 3),
        }
        with self._lock, explaining(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")

    def recipes(self) -> dict[str, Any]:
        """What every stage of the last run was made of; empty before the first."""
        try:
            record = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return dict(record.get("recipes", {}))

    def publish(self, outcome: Outcome) -> None:
        """Record a run, and put links and copies of what it made where a person looks."""
        known = {**self.recipes(), **outcome.recipes}
        write_atomic(
            self.path / "run.json",
            json.dumps({"name": self.name, "recipes": known}, indent=1, sort_keys=True).encode(),
        )
        for stage, artifact in outcome.artifacts.items():
            _link(self.path / "stages" / stage, artifact.root)
            for path in (
                sorted(artifact.root.glob(PUBLISHED.get(stage, ""))) if stage in PUBLISHED else ()
            ):
                if path.name in artifact.files:
                    self._copy(path)

    def _copy(self, path: Path) -> None:
        content, target = path.read_bytes(), self.path / path.name
        if not target.is_file() or target.read_bytes() != content:
            write_atomic(target, content)

    def artifacts(self) -> dict[str, Artifact]:
        """The artefacts of the last run that are still whole, by stage."""
        found = {}
        for stage, made_of in self.recipes().items():
            try:
                artifact = self.store.find(stage, key_of(made_of))
            except Damaged:
                continue
            if artifact is not None:
                found[stage] = artifact
        return found


def _link(link: Path, folder: Path) -> None:
    """Point a link at an artefact, relative, so that the runs folder may be moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(folder, link.parent)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.symlink_to(target, target_is_directory=True)
    part.replace(link)
