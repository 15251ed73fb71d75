"""Runs one function in a child process with only what it needs imported.

A converter that crashes, leaks memory or prints to stdout harms nobody: what it prints goes to a
log, and a crash, a time-out or a kill becomes one clear error. An EdgeDistillError raised in the
child is raised again here, as the same class.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from . import errors
from .errors import ChildError, EdgeDistillError

_PR_SET_PDEATHSIG = 1
_running: set[subprocess.Popen[bytes]] = set()


def kill_all() -> None:
    """Kill every child that still runs; whoever waits for one gets a ChildError."""
    for process in tuple(_running):
        process.kill()


def run_in_child(function: str, arguments: dict[str, Any], scratch: Path, timeout: float) -> Any:
    """Call `function` in a fresh interpreter.

    Args:
        function: `package.module:name`; takes `arguments` as keywords.
        arguments: JSON data.
        scratch: folder for the job's files; its `child.log` keeps what was printed.
        timeout: seconds.

    Returns:
        What the function returned, as JSON data.

    Raises:
        ChildError: it crashed, was killed, ran out of time, or raised something unforeseen.
        EdgeDistillError: what the function raised on purpose.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    job, answer, log = (scratch / n for n in ("job.json", "answer.json", "child.log"))
    content = {"function": function, "arguments": arguments, "parent": os.getpid()}
    job.write_text(json.dumps(content))
    answer.unlink(missing_ok=True)
    # -P: a file of the current folder, such as an onnx.py, must not shadow a library.
    command = [sys.executable, "-P", "-m", __name__, str(job), str(answer)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment()
        )
        _running.add(process)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            hint = f"raise export.timeout, or read {log}"
            raise ChildError(f"{function} did not finish in {timeout:.0f} s", hint) from error
        finally:
            process.kill()
            process.wait()
            _running.discard(process)
    if not answer.exists():
        raise ChildError(f"{function} {_how_it_ended(code)}{_tail(log)}", _with_log("", log))
    return _unpack(json.loads(answer.read_text()), log)


def _environment() -> dict[str, str]:
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONHASHSEED": "0"}


def _how_it_ended(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"ended with exit code {code}"


def _tail(log: Path, lines: int = 5) -> str:
    text = log.read_text(errors="replace").strip().splitlines()[-lines:]
    return "".join(f"\n    | {line}" for line in text)


def _unpack(answer: dict[str, Any], log: Path) -> Any:
    if "result" in answer:
        return answer["result"]
    kind = getattr(errors, answer["error"], None)
    if isinstance(kind, type) and issubclass(kind, EdgeDistillError):
        raise kind(answer["message"], hint=_with_log(answer["hint"], log))
    raise ChildError(f"{answer['error']}: {answer['message']}", _with_log("", log))


def _with_log(hint: str, log: Path) -> str:
    where = f"the whole log: {log}"
    return f"{hint.rstrip('.')}; {where}" if hint else where


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; no-op elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _main(job_file: str, answer_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    _die_with_parent(job["parent"])
    module, _, name = job["function"].partition(":")
    answer: dict[str, Any]
    try:
        answer = {"result": getattr(import_module(module), name)(**job["arguments"])}
    except EdgeDistillError as error:
        traceback.print_exc()  # the converter's own words are in the chain of causes
        answer = _packed(error, error.message, error.hint)
    except Exception as error:
        traceback.print_exc()
        answer = _packed(error, str(error), "")
    part = Path(f"{answer_file}.part")
    part.write_text(json.dumps(answer))
    part.replace(answer_file)


def _packed(error: Exception, message: str, hint: str) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": message, "hint": hint}


if __name__ == "__main__":
    _main(*sys.argv[1:])
