"""What can go wrong between a session and its worker: nothing may hang or stay behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgedistill.pipeline.contracts import TensorSpec
from edgedistill.pipeline.errors import TargetError
from edgedistill.targets import worker
from edgedistill.targets.local import LocalCpu
from edgedistill.targets.process import WorkerProcess

LINUX = sys.platform.startswith("linux")


def wait_until(condition, seconds=20.0):
    """Wait for something that must come; a test fails, it never hangs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_killed_between_requests(cpu, conv):
    session = cpu.open(conv.artifacts["onnx"], threads=1)
    os.kill(session.pid, signal.SIGKILL)
    with pytest.raises(TargetError, match="onnxruntime worker was killed by SIGKILL while doing"):
        session.run(conv.feeds(1))
    with pytest.raises(TargetError, match="session is closed"):
        session.run(conv.feeds(1))
    session.close()


def test_killed_in_the_middle_of_a_request(cpu, conv):
    session = cpu.open(conv.artifacts["onnx"], threads=1)
    timer = threading.Timer(0.3, os.kill, (session.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(TargetError, match="was killed by SIGKILL while doing 'time'"):
        session.time(conv.feeds(1), 100_000_000)
    timer.join()


def test_stderr_of_a_dead_worker_is_shown(tmp_path, monkeypatch):
    """A runtime that cannot be imported ends its worker with a traceback."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libgone.so.1: not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = WorkerProcess("onnxruntime", timeout=60)
    with pytest.raises(TargetError, match=r"ended with exit code 1 .*") as caught:
        process.ask("facts")
    assert "libgone.so.1: not found" in caught.value.message


def test_silence_is_given_up(conv, alive):
    session = LocalCpu(timeout=0.5).open(conv.artifacts["tflite"], threads=1)
    pid = session.pid
    with pytest.raises(TargetError, match=r"silent for 0\.5 seconds while doing 'time'"):
        session.time(conv.feeds(1), 100_000_000)
    assert not alive(pid)


def test_close_ends_the_worker_and_its_folder(cpu, conv, alive):
    with cpu.open(conv.artifacts["onnx"], threads=1) as session:
        pid = session.pid
        folder = session._worker._folder
        assert alive(pid)
        assert folder.is_dir()
    assert not alive(pid)
    assert not folder.exists()
    session.close()


def test_a_forgotten_session_ends_its_worker(cpu, conv, alive):
    session = cpu.open(conv.artifacts["onnx"], threads=1)
    pid = session.pid
    del session
    gc.collect()
    assert wait_until(lambda: not alive(pid))


def test_a_refusal_leaves_the_session_usable(cpu, conv):
    with cpu.open(conv.artifacts["onnx"], threads=1) as session:
        with pytest.raises(TargetError, match="cannot time 0 inferences"):
            session.time(conv.feeds(1), 0)
        with pytest.raises(TargetError, match="knows no command 'dance'"):
            session._worker.ask("dance")
        assert session.run(conv.feeds(2))["logits"].shape == (2, 4)


def test_a_session_outlives_the_thread_that_opened_it(cpu, conv):
    """Linux's parent-death signal is sent when a THREAD ends; a session must survive that."""
    opened = []
    thread = threading.Thread(
        target=lambda: opened.append(cpu.open(conv.artifacts["onnx"], threads=1))
    )
    thread.start()
    thread.join()
    with opened[0] as session:
        assert session.run(conv.feeds(1))["logits"].shape == (1, 4)


PARENT = """
import sys, time
from pathlib import Path
import numpy as np
from edgedistill.pipeline.contracts import Artifact
from edgedistill.targets.local import LocalCpu
artifact = Artifact("onnx", "fp32", Path(sys.argv[1]), {"model.onnx": ""}, None, "", "")
session = LocalCpu().open(artifact, 1)
print(session.pid, flush=True)
session.time({"image": np.zeros((1, 1, 8, 8), np.float32)}, 100_000_000)
"""


@pytest.mark.skipif(not LINUX, reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_worker_dies_with_its_parent(conv, alive, number, tmp_path):
    """The worker is in the middle of long work, so that it cannot notice by itself."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(conv.artifacts["onnx"].root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(number)
    parent.communicate(timeout=30)
    assert wait_until(lambda: not alive(pid))


@pytest.mark.skipif(not LINUX, reason="process groups are POSIX's")
def test_ctrl_c_of_the_terminal_ends_all(conv, alive, tmp_path):
    """A terminal sends SIGINT to the whole group, worker included."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(conv.artifacts["onnx"].root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    pid = int(parent.stdout.readline())
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert wait_until(lambda: not alive(pid))


def test_what_a_library_prints_to_stdout_breaks_nothing(cpu, conv, monkeypatch):
    """OneDNN inside OpenVINO prints a line to stdout for every primitive when asked to."""
    monkeypatch.setenv("ONEDNN_VERBOSE", "2")
    feeds = conv.feeds(3)
    with cpu.open(conv.artifacts["openvino"], threads=1) as session:
        outputs = session.run(feeds)
        session.time(conv.feeds(1), 500)  # enough lines to fill the buffer of C's stdout
        stderr = session._worker._stderr.read_text()
    assert "onednn_verbose" in stderr
    np.testing.assert_allclose(outputs["logits"], conv.expected(feeds)["logits"], atol=1e-5)


def test_modules_in_the_working_directory_are_not_imported(cpu, conv, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    with cpu.open(conv.artifacts["onnx"], threads=1) as session:
        assert session.run(conv.feeds(1))["logits"].shape == (1, 4)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_onnxruntime_telemetry_is_off(cpu, conv):
    with cpu.open(conv.artifacts["onnx"], threads=1) as session:
        environment = Path(f"/proc/{session.pid}/environ").read_bytes().split(b"\0")
    assert b"ORT_DISABLE_TELEMETRY=1" in environment


@pytest.mark.parametrize(
    "line", [b"hello\n", b"[1]\n", b'{"id": 99, "result": {}}\n', b'{"id": 1}\n']
)
def test_garbage_on_the_reply_channel(line):
    process = WorkerProcess("onnxruntime", timeout=60)
    process._lines.put(line)
    with pytest.raises(TargetError, match=r"answered 'facts' (with garbage|out of turn)"):
        process.ask("facts")
    with pytest.raises(TargetError, match="session is closed"):
        process.ask("facts")


def test_usage():
    command = [sys.executable, "-m", "edgedistill.targets.worker", "tensorrt", "x", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "usage: worker {onnxruntime,openvino,litert,executorch} FOLDER" in done.stderr


class Text:
    """A runtime of our own whose output is text, as some label-giving ONNX files have."""

    inputs = (TensorSpec("x", (None, 1), "float32"),)
    outputs = (TensorSpec("label", (None,), "object"),)
    device = precision = version = "none"

    def __init__(self, *_):
        self.calls = 0

    def run(self, feeds):
        return [np.array(["cat"] * len(feeds["x"]), dtype=object)]

    def prepare(self, feeds):
        return self.call

    def call(self):
        self.calls += 1
        assert not gc.isenabled()


def test_text_outputs_are_refused(tmp_path):
    answering = worker.Worker(Text, tmp_path, lambda: None)
    with pytest.raises(TargetError, match="no model is open"):
        answering.answer({"command": "facts"})
    answering.answer({"command": "open", "path": "x", "precision": "fp32", "threads": 1})
    np.savez(tmp_path / "feeds.npz", np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="Python objects"):
        answering.answer({"command": "run"})


def test_time_calls_counts_and_restores_the_collector():
    runtime = Text()
    seconds = worker.time_calls(runtime.call, 7)
    assert (runtime.calls, seconds.shape, gc.isenabled()) == (7, (7,), True)
    assert (seconds >= 0).all()
