from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from edgedistill.pipeline.errors import DataError, ModelError
from edgedistill.pipeline.usercode import load_user_function, source_files

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder.resolve()


def test_a_file_imports_its_neighbours_and_leaves_the_path_alone(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        my_file="import edge_neighbour\ndef f(): return edge_neighbour.VALUE\n",
        edge_neighbour="VALUE = 7\n",
    )
    before = list(sys.path)
    assert load_user_function("my_file.py:f", root)() == 7
    assert sys.path == before


def test_neighbours_of_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    text = (
        "import helper\n"
        "def early(): return helper.VALUE\n"
        "def late():\n"
        "    from helper import VALUE\n"
        "    return VALUE\n"
    )
    for name in ("a", "b"):
        write(tmp_path / name, my_file=text, helper=f"VALUE = {name!r}\n")
    functions = {
        (name, kind): load_user_function(f"{name}/my_file.py:{kind}", tmp_path)
        for name in ("a", "b")
        for kind in ("early", "late")
    }
    for (name, _), function in [*functions.items(), *functions.items()]:
        assert function() == name


def test_a_neighbour_is_the_same_module_at_load_and_at_call(tmp_path: Path) -> None:
    text = "import once\ndef f():\n    import once as again\n    return again is once\n"
    functions = []
    for name in ("x", "y"):
        root = write(tmp_path / name, my_file=text, once="")
        functions.append(load_user_function("my_file.py:f", root))
    assert [function() for function in [*functions, *functions]] == [True] * 4


def test_an_installed_module_of_a_neighbour_s_name_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "lib", edge_same_name="VALUE = 'library'\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    library = importlib.import_module("edge_same_name")
    root = write(
        tmp_path / "user",
        my_file="import edge_same_name\ndef f(): return edge_same_name.VALUE\n",
        edge_same_name="VALUE = 'neighbour'\n",
    )
    assert load_user_function("my_file.py:f", root)() == "neighbour"
    assert sys.modules["edge_same_name"] is library


def test_an_edited_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for value in (1, 2):
        root = write(tmp_path, my_file=f"def f(): return {value}\n")
        os.utime(root / "my_file.py", (1, 1))  # same date, same size
        assert load_user_function("my_file.py:f", root)() == value


def test_a_file_is_executed_once(tmp_path: Path) -> None:
    root = write(tmp_path, my_file="class C: ...\ndef f(): return C\n")
    first, second = (load_user_function("my_file.py:f", root)() for _ in range(2))
    assert first is second


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, my_model="")
    with pytest.raises(ModelError, match=r"no file .*my_modle\.py") as caught:
        load_user_function("my_modle.py:f", tmp_path)
    assert "'my_model.py'" in caught.value.hint


def test_missing_function_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, my_file="from os.path import join\ndef build(): ...\n")
    with pytest.raises(DataError, match="no function 'biuld'") as caught:
        load_user_function("my_file.py:biuld", tmp_path, DataError)
    assert caught.value.hint == "did you mean 'build'? Known: build"


@pytest.mark.parametrize("reference", ["my_file.py", "my_file:f", "my_file.py:", "my_file.py:a b"])
def test_a_reference_that_is_none(tmp_path: Path, reference: str) -> None:
    with pytest.raises(ModelError, match="does not name a function") as caught:
        load_user_function(reference, tmp_path)
    assert "my_file.py:my_function" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        pytest.param("x = 1\ny = (\n", 2, "SyntaxError", id="syntax"),
        pytest.param("import no_such_library\n", 1, "ModuleNotFoundError", id="import"),
        pytest.param("\nimport sys; sys.exit(3)\n", 2, "SystemExit: 3", id="exit"),
        pytest.param("import json\n\njson.loads('{')\n", 3, "JSONDecodeError", id="library"),
    ],
)
def test_a_file_that_cannot_be_executed(tmp_path: Path, text: str, line: int, what: str) -> None:
    root = write(tmp_path, my_file=text)
    with pytest.raises(ModelError) as caught:
        load_user_function("my_file.py:f", root)
    assert caught.value.message.startswith(f"{root / 'my_file.py'}:{line}: {what}")
    assert caught.value.__cause__ is not None


def test_a_failure_in_a_neighbour_is_told_there(tmp_path: Path) -> None:
    root = write(tmp_path, my_file="import deep\ndef f(): deep.g()\n", deep="def g():\n  1 / 0\n")
    with pytest.raises(DataError) as caught:
        load_user_function("my_file.py:f", root, DataError)()
    assert caught.value.message.startswith(f"{root / 'deep.py'}:2: ZeroDivisionError")


def test_source_files_follow_imports_and_nothing_else(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        my_file="import os\nimport one\nfrom pack import inner\n",
        one="def f():\n    import two\n",
        two="",
        unused="",
    )
    write(tmp_path / "pack", __init__="", inner="from .other import X\n", other="X = 1\n")
    files = source_files("my_file.py:f", root)
    assert [str(path.relative_to(root)) for path in files] == [
        "my_file.py",
        "one.py",
        "pack/__init__.py",
        "pack/inner.py",
        "pack/other.py",
        "two.py",
    ]
