from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgedistill.pipeline import child
from edgedistill.pipeline.errors import ChildError, ConfigError, ExportError


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a function of a module of ours in a child."""

    def run(body, timeout=60, **arguments):
        (tmp_path / "job_module.py").write_text(f"def job({', '.join(arguments)}):\n    {body}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return child.run_in_child("job_module:job", arguments, tmp_path / "scratch", timeout)

    return run


def test_gives_back_what_the_function_returns(call):
    assert call("return {'sum': a + b, 'none': None}", a=1, b=2) == {"sum": 3, "none": None}


def test_what_is_printed_goes_to_the_log(call, tmp_path, capfd):
    call("import os; print('chatter'); os.write(2, b'more')")
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "scratch" / "child.log").read_text()
    assert "chatter" in log
    assert "more" in log


@pytest.mark.parametrize("name", ["ExportError", "ParityError"])
def test_an_error_on_purpose_keeps_its_class_and_hint(call, tmp_path, name):
    text = f"from edgedistill.pipeline.errors import {name}; raise {name}('bad op', 'use another')"
    with pytest.raises(ExportError) as caught:
        call(text)
    assert type(caught.value).__name__ == name
    log = tmp_path / "scratch" / "child.log"
    assert caught.value.message == "bad op"
    assert caught.value.hint == f"use another; the whole log: {log}"


def test_what_caused_an_error_on_purpose_is_in_the_log(call, tmp_path):
    with pytest.raises(ExportError) as caught:
        call(
            "from edgedistill.exporters._errors import explained\n"
            "    with explained('onnx', 'work'): raise RuntimeError('first line\\nthe last word')"
        )
    log = tmp_path / "scratch" / "child.log"
    assert "the last word" not in caught.value.message
    assert str(log) in caught.value.hint
    assert "the last word" in log.read_text()


def test_a_file_of_the_current_folder_shadows_no_library(call, tmp_path, monkeypatch):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("onnx", "numpy"):
        (hostile / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    monkeypatch.chdir(hostile)
    found = call("import numpy, onnx; return [numpy.__file__, onnx.__file__]")
    assert not [file for file in found if file.startswith(str(hostile))]


def test_a_config_error_too(call):
    with pytest.raises(ConfigError, match="bad"):
        call("from edgedistill.pipeline.errors import ConfigError; raise ConfigError('bad')")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('odd')", "ValueError: odd"),
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", r"was killed by SIGKILL \(out of memory\?\)"),
        ("import os; os.kill(os.getpid(), 11)", r"was killed by SIGSEGV\n"),
        ("print('last words', flush=True); import os; os._exit(1)", "last words"),
        ("return {1, 2}", "not JSON serializable"),
    ],
)
def test_whatever_goes_wrong_is_one_error(call, body, told):
    with pytest.raises(ChildError, match=told) as caught:
        call(body)
    assert "child.log" in caught.value.hint


def test_a_hanging_child_is_ended(call):
    with pytest.raises(ChildError, match=r"did not finish in 1 s") as caught:
        call("import time; time.sleep(600)", timeout=1)
    assert "export.timeout" in caught.value.hint


def test_kill_all_ends_what_waits(call):
    timer = threading.Timer(0.5, child.kill_all)
    timer.start()
    with pytest.raises(ChildError, match="SIGKILL"):
        call("import time; time.sleep(600)")


PARENT = """
import sys
from pathlib import Path
from edgedistill.pipeline.child import run_in_child
run_in_child("job_module:job", {}, Path(sys.argv[1]), 600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="dying with the parent is a service of Linux")
def test_a_child_dies_with_its_parent(tmp_path, monkeypatch):
    (tmp_path / "job_module.py").write_text(
        "import os, pathlib, time\n"
        "def job():\n"
        f"    pathlib.Path({str(tmp_path / 'pid.part')!r}).write_text(str(os.getpid()))\n"
        f"    os.rename({str(tmp_path / 'pid.part')!r}, {str(tmp_path / 'pid')!r})\n"
        "    time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "scratch")])
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    orphan = (tmp_path / "pid").read_text()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while _alive(orphan) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(orphan)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
