"""The measuring worker: `python -m edgedistill.targets.worker RUNTIME FOLDER PARENT`.

A process of its own with NumPy and ONE runtime (ExecuTorch brings torch along): another library in
the process can take a quarter of the speed, and a crash of the runtime harms nobody else. See
`protocol` for what is spoken.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..pipeline.errors import TargetError
from .feeds import file_batch, join, shape_words, split
from .protocol import FEEDS, RESULTS, load_arrays, parse, save_arrays, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..pipeline.contracts import Array, Arrays, TensorSpec
    from .runtimes.base import Load, Runtime

RUNTIMES = ("onnxruntime", "openvino", "litert", "executorch")
BEAT_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


class Worker:
    """Answers the commands of one session.

    Args:
        load: the runtime's loader.
        folder: where arrays are passed.
        alive: called between the pieces of long work.
    """

    def __init__(self, load: Load, folder: Path, alive: Callable[[], None]) -> None:
        self._load = load
        self._folder = folder
        self._alive = alive
        self._runtime: Runtime | None = None
        self._load_ms = 0.0
        self._first_ms: float | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one command; arrays of the result are left in the folder."""
        match request["command"]:
            case "open":
                return self._open(request)
            case "run":
                return self._run()
            case "time":
                return self._time(request["repeats"])
            case "facts":
                return self._facts()
            case other:
                raise TargetError(f"the worker knows no command {other!r}")

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter_ns()
        runtime = self._load(Path(request["path"]), request["precision"], request["threads"])
        self._load_ms = (time.perf_counter_ns() - start) / 1e6
        self._runtime = runtime
        return {"inputs": _plain(runtime.inputs), "outputs": _plain(runtime.outputs)}

    def _run(self) -> dict[str, Any]:
        runtime = self._ready()
        feeds = self._feeds()
        self._first(feeds)
        pieces = []
        for piece, count in split(feeds, file_batch(runtime.inputs)):
            pieces.append((runtime.run(piece), count))
            self._alive()
        save_arrays(self._folder / RESULTS, join(pieces, runtime.outputs))
        return {"arrays": True}

    def _time(self, repeats: int) -> dict[str, Any]:
        runtime = self._ready()
        feeds = self._feeds()
        _check_batch(feeds, runtime.inputs)
        self._first(feeds)
        save_arrays(self._folder / RESULTS, [time_calls(runtime.prepare(feeds), repeats)])
        return {"arrays": True}

    def _first(self, feeds: Arrays) -> None:
        """Time the very first inference, always on as few samples as the file takes."""
        if self._first_ms is not None:
            return
        runtime = self._ready()
        batch = file_batch(runtime.inputs) or 1
        piece, _ = next(split({name: value[:batch] for name, value in feeds.items()}, batch))
        start = time.perf_counter_ns()
        runtime.run(piece)
        self._first_ms = (time.perf_counter_ns() - start) / 1e6

    def _facts(self) -> dict[str, Any]:
        runtime = self._ready()
        return {
            "version": runtime.version,
            "device": runtime.device,
            "precision": runtime.precision,
            "load_ms": self._load_ms,
            "first_ms": self._first_ms,
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def _ready(self) -> Runtime:
        if self._runtime is None:
            raise TargetError("no model is open in this worker", "send the command open first")
        return self._runtime

    def _feeds(self) -> dict[str, Array]:
        specs = self._ready().inputs
        arrays = load_arrays(self._folder / FEEDS)
        return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}


def time_calls(call: Callable[[], object], repeats: int) -> NDArray[np.float64]:
    """Seconds of each of `repeats` calls, with the garbage collector off."""
    clock = time.perf_counter_ns
    ticks = [0] * repeats
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for index in range(repeats):
            start = clock()
            call()
            ticks[index] = clock() - start
    finally:
        if was_enabled:
            gc.enable()
    return np.array(ticks, dtype=np.float64) / 1e9


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far.

    From /proc where there is one: `ru_maxrss` survives exec, so that a worker would report the
    size of the (much larger) process that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_batch(feeds: Arrays, specs: tuple[TensorSpec, ...]) -> None:
    batch = file_batch(specs)
    for name, array in feeds.items():
        if batch is not None and array.shape[0] != batch:
            raise TargetError(
                f"input {name!r}: got {shape_words(array.shape)} to time, "
                f"but the file's batch is fixed to {batch}",
                f"time it on {batch} samples",
            )


def _plain(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [{"name": s.name, "shape": s.shape, "dtype": s.dtype} for s in specs]


def take_stdout() -> BinaryIO:
    """The real stdout, for replies only; whatever a library prints goes to stderr from now on."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(replies, "wb")


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere stdin ends, see `serve`."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        raise SystemExit(1)


def serve(load: Load, folder: Path, replies: BinaryIO, requests: BinaryIO) -> None:
    """Answer requests until there are no more.

    What a runtime raises becomes an error reply: the session raises it where somebody can act.
    """
    current: dict[str, Any] = {"id": None}
    last = time.monotonic()

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last > BEAT_SECONDS:
            last = time.monotonic()
            send(replies, {"id": current["id"], "alive": True})

    worker = Worker(load, folder, alive)
    for line in requests:
        request = parse(line)
        current["id"] = request["id"]
        try:
            reply: dict[str, Any] = {"result": worker.answer(request)}
        except TargetError as error:
            reply = {"error": {"message": error.message, "hint": error.hint}}
        except Exception as error:  # a runtime may raise anything; it is passed on
            reply = {"error": {"message": f"{type(error).__name__}: {error}", "hint": ""}}
        send(replies, {"id": request["id"], **reply})


def main(arguments: list[str]) -> None:
    """Entry point of the process."""
    if len(arguments) != 3 or arguments[0] not in RUNTIMES:
        raise SystemExit(f"usage: worker {{{','.join(RUNTIMES)}}} FOLDER PARENT; got {arguments}")
    runtime, folder, parent = arguments
    replies = take_stdout()
    die_with(int(parent))
    # Ctrl-C reaches every process of the terminal; the parent closes its workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load: Load = import_module(f".runtimes.{runtime}", __package__).load
    serve(load, Path(folder), replies, sys.stdin.buffer)


if __name__ == "__main__":
    main(sys.argv[1:])
