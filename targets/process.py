"""The client's side of a worker process: start it, ask it, notice its death, end it."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ..pipeline.errors import TargetError
from .protocol import FEEDS, RESULTS, load_arrays, parse, save_arrays, send

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..pipeline.contracts import Array

MODULE = "edgedistill.targets.worker"
TAIL_LINES = 8
CLOSE_SECONDS = 5.0


class WorkerProcess:
    """One worker with its folder for arrays. Not to be shared between threads.

    Args:
        runtime: the worker's runtime, such as `onnxruntime`.
        timeout: seconds of silence after which a request is given up; None waits for ever.
    """

    def __init__(self, runtime: str, timeout: float | None) -> None:
        self.runtime = runtime
        self._timeout = timeout
        self._folder = Path(tempfile.mkdtemp(prefix="edgedistill-"))
        self._stderr = self._folder / "stderr.txt"
        self._process = _spawn(runtime, self._folder, self._stderr)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        _read_into(self._process, self._lines)
        self._count = 0
        self._end = weakref.finalize(self, _end, self._process, self._folder)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def ask(
        self, command: str, arrays: Sequence[Array] = (), **arguments: object
    ) -> tuple[dict[str, Any], list[Array]]:
        """Send a command and wait for its result.

        Args:
            command: what to do.
            arrays: passed by position.
            arguments: JSON values.

        Returns:
            The result and the arrays that came with it.

        Raises:
            TargetError: the worker refused, died, hung or answered garbage. After a refusal it
                still serves; otherwise it is gone.
        """
        if not self._end.alive:
            raise TargetError(
                f"the {self.runtime} session is closed; it cannot do {command!r}",
                "open the artefact again",
            )
        try:
            reply = self._exchange(command, arrays, arguments)
        except BaseException:  # also Ctrl-C: its reply would answer the next question
            self._process.kill()
            self.close()
            raise
        if "error" in reply:
            raise TargetError(_shorten(reply["error"]["message"]), reply["error"]["hint"])
        result: dict[str, Any] = reply["result"]
        return result, load_arrays(self._folder / RESULTS) if result.get("arrays") else []

    def close(self) -> None:
        """End the worker and remove its folder; closing twice is fine."""
        self._end()

    def _exchange(
        self, command: str, arrays: Sequence[Array], arguments: Mapping[str, object]
    ) -> dict[str, Any]:
        self._count += 1
        if arrays:
            save_arrays(self._folder / FEEDS, arrays)
        try:
            assert self._process.stdin is not None
            send(self._process.stdin, {"id": self._count, "command": command, **arguments})
        except OSError:  # the pipe is broken: the worker is dead
            self._raise_dead(command)
        while (reply := self._receive(command)).get("alive"):
            pass
        return reply

    def _receive(self, command: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise TargetError(
                f"the {self.runtime} worker was silent for {self._timeout:g} seconds "
                f"while doing {command!r}",
                "give it more time (timeout), or try the file with the runtime's own tools",
            ) from None
        if not line:
            self._raise_dead(command)
        return self._check(line, command)

    def _check(self, line: bytes, command: str) -> dict[str, Any]:
        try:
            reply = parse(line)
        except ValueError as error:
            raise TargetError(
                f"the {self.runtime} worker answered {command!r} with garbage: {line[:80]!r}",
                "something in the worker process writes to its private reply channel",
            ) from error
        if reply.get("id") != self._count or not reply.keys() & {"alive", "error", "result"}:
            raise TargetError(
                f"the {self.runtime} worker answered {command!r} out of turn: {line[:80]!r}, "
                f"expected a reply to request {self._count}",
                "open the artefact again",
            )
        return reply

    def _raise_dead(self, command: str) -> NoReturn:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its reply channel and lives on
            self._process.kill()
            code = self._process.wait()
        lines = self._stderr.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        tail = "\n    ".join(["; the end of its stderr:", *lines]) if lines else ""
        raise TargetError(
            f"the {self.runtime} worker {_exit_words(code)} while doing {command!r}{tail}",
            "the runtime cannot handle this file on this machine, or memory ran out",
        )


def _exit_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _shorten(message: str, lines: int = 3, width: int = 400) -> str:
    """The first lines of a message: runtimes append pages of C++ places."""
    kept = [line.strip() for line in message.splitlines() if line.strip()][:lines]
    text = " ".join(kept)
    return text if len(text) <= width else text[: width - 3] + "..."


@cache
def _spawner() -> ThreadPoolExecutor:
    """One thread that starts all workers and lives as long as this process.

    Linux kills a worker when the THREAD that started it ends, so that no other thread will do.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="edgedistill-spawner")


def _spawn(runtime: str, folder: Path, stderr: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", MODULE, runtime, str(folder), str(os.getpid())]
    with stderr.open("wb") as errors:
        start = _spawner().submit(
            subprocess.Popen,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
        )
        return start.result()


def _environment() -> dict[str, str]:
    """The parent's, without telemetry, and with the user site only if the parent has it."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not site.ENABLE_USER_SITE:
        environment["PYTHONNOUSERSITE"] = "1"
    return environment


def _read_into(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Read the replies in a thread, since only that can be waited for with a time-out anywhere."""

    def read(stream: IO[bytes]) -> None:
        for line in stream:
            lines.put(line)
        lines.put(b"")
        stream.close()

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Let the worker end by itself, kill it if it does not."""
    assert process.stdin is not None
    with suppress(OSError):  # a request was still in the pipe of a dead worker
        process.stdin.close()
    try:
        process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also after Ctrl-C while waiting: nothing stays behind
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
