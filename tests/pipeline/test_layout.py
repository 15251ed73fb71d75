"""The package is the repository's root: what is kept by hand agrees with what is there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import edgedistill

ROOT = Path(edgedistill.__file__).parent
PARTS = ("pipeline", "exporters", "targets")
MODULES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_list_of_packages_is_the_folders():
    folders = {path.parent for path in MODULES if path.name == "__init__.py"}
    names = {".".join(("edgedistill", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert {*PYPROJECT["tool"]["setuptools"]["packages"]} == {"edgedistill", *names}


def test_every_folder_with_modules_is_a_package():
    # what is in templates/ is copied into bundles, and is no part of the package
    folders = {path.parent for path in MODULES if path.parent.name != "templates"}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.name != "__init__.py" or p.read_text().strip()],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_every_data_file_is_in_the_wheel():
    listed = set()
    for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        listed |= {path for pattern in patterns for path in folder.glob(pattern)}
    there = {
        path for part in PARTS for path in (ROOT / part).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }  # fmt: skip
    there |= set((ROOT / "pipeline/templates").glob("*.py")) | {ROOT / "py.typed"}
    assert there - listed == set()


def test_the_public_names_load():
    for name in edgedistill.__all__:
        assert getattr(edgedistill, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = edgedistill.nothing_of_the_kind
