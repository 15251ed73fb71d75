"""One finished tiny run that many tests read, and a way to type commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

EDGE_YAML = """\
name: tiny
data: {source: digits}
teacher: {model: mlp, width: 64, epochs: 3}
student: {model: mlp, width: 16, depth: 1}
distill: {epochs: 2}
evaluate: {seconds: 0.05}
"""
COMMAND = (sys.executable, "-m", "edgedistill.pipeline.cli")
Command = subprocess.CompletedProcess[str]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **extra}


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with an edge.yaml, and maybe runs.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "edge.yaml"

    @property
    def run(self) -> Path:
        return self.root / "runs" / "tiny"

    @property
    def bundle(self) -> Path:
        return self.run / "tiny.edge.zip"

    def type(self, *arguments: object, timeout: float = 300) -> Command:
        """Type `edgedistill ARGUMENTS...` in the folder."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.root, env=environment(), capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def events(self) -> list[tuple[str, str]]:
        """(stage, event) of every line of log.jsonl."""
        lines = (self.run / "log.jsonl").read_text().splitlines()
        return [(record["stage"], record["event"]) for record in map(json.loads, lines)]

    def write(self, **sections: Mapping[str, Any] | str) -> None:
        """Replace edge.yaml; JSON is YAML."""
        self.config.write_text(json.dumps(sections))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run over all formats and precisions; to be read only."""
    project = Project(tmp_path_factory.mktemp("finished"))
    project.config.write_text(EDGE_YAML)
    ended = project.type("run", "edge.yaml")
    assert ended.returncode == 0, ended.stderr
    return project


@pytest.fixture
def copied(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished.root, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project: the edge.yaml of the finished run, and no runs."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "edge.yaml").write_text(EDGE_YAML)
    return Project(root)


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[[str], Path]:
    """Write text to an edge.yaml."""

    def write(text: str) -> Path:
        path = tmp_path / "edge.yaml"
        path.write_text(text)
        return path

    return write
