"""The wheel, away from the checkout: every subpackage and data file is in it, and it works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(folder / "source"),
        ],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("edgedistill-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel in it, and an environment in which only that one is found."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    return {**os.environ, "PYTHONPATH": str(site)}, site


def test_the_wheel_holds_packages_and_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[1] for name in names if name.startswith("edgedistill/")}
    assert tops == {"__init__.py", "py.typed", "pipeline", "exporters", "targets"}
    for wanted in (
        "pipeline/templates/predict.py",
        "pipeline/templates/edge.yaml",
        "pipeline/templates/report.html.j2",
        "pipeline/schemas/report.schema.json",
        "pipeline/schemas/edge.schema.json",
        "targets/runtimes/litert.py",
    ):
        assert f"edgedistill/{wanted}" in names


def test_it_runs_an_own_model_and_data_file_elsewhere(installed, tmp_path):
    environment, site = installed
    shutil.copytree(ROOT / "examples" / "own_model", tmp_path / "mine")
    command = [
        str(site / "bin" / "edgedistill"), "run", "mine/edge.yaml",
        "--set", "teacher.epochs=4", "--set", "distill.epochs=4",
        "--set", "export.formats=[onnx]", "--set", "evaluate.seconds=0.05",
        "--set", "evaluate.goals={accuracy_drop: 30}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "runs/tumours/tumours.edge.zip"
    where = subprocess.run(
        [sys.executable, "-c", "import edgedistill; print(edgedistill.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip().startswith(str(site))
