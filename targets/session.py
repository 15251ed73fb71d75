"""An artefact that is open in a measuring worker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from ..pipeline.contracts import SessionFacts, Signature, TensorSpec
from ..pipeline.errors import TargetError
from .feeds import CHUNK, check_feeds, rename
from .process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from ..pipeline.contracts import Array, Arrays

PART_BYTES = 16 * 2**20


class WorkerSession:
    """A `Session` on a worker process of its own.

    Args:
        runtime: the worker's runtime.
        path: the model file.
        precision: the artefact's.
        threads: threads that the runtime may use.
        signature: the artefact's: its names are used; None uses the file's own.
        timeout: seconds of silence after which the worker is given up; None waits for ever.

    Raises:
        TargetError: the runtime refused the file, or its worker died.
    """

    def __init__(
        self,
        runtime: str,
        path: Path,
        precision: str,
        threads: int,
        signature: Signature | None = None,
        timeout: float | None = None,
    ) -> None:
        self._threads = threads
        self._worker = WorkerProcess(runtime, timeout)
        try:
            self._open(path, precision, signature)
        except BaseException:
            self._worker.close()
            raise

    def _open(self, path: Path, precision: str, signature: Signature | None) -> None:
        try:
            found, _ = self._worker.ask(
                "open", path=str(path), precision=precision, threads=self._threads
            )
        except TargetError as error:
            message = f"{self._worker.runtime} cannot open {path}: {error.message}"
            raise TargetError(message, error.hint or "make the artefact again") from error
        file = Signature.from_json(found)
        given = signature or file
        inputs = rename(given.inputs, file.inputs, "inputs")
        outputs = rename(given.outputs, file.outputs, "outputs")
        self.signature = Signature(
            _renamed(given.inputs, file.inputs, inputs),
            _renamed(given.outputs, file.outputs, outputs),
        )
        self._order = [spec.name for spec in file.inputs]
        self._inputs = {theirs: ours for ours, theirs in inputs.items()}
        self._outputs = {theirs: ours for ours, theirs in outputs.items()}
        self._results = [spec.name for spec in file.outputs]

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._worker.pid

    def run(self, feeds: Arrays) -> dict[str, Array]:
        parts = [self._worker.ask("run", part)[1] for part in _parts(self._ordered(feeds))]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        named = dict(zip(self._results, joined, strict=True))
        theirs = {ours: name for name, ours in self._outputs.items()}
        return {spec.name: named[theirs[spec.name]] for spec in self.signature.outputs}

    def time(self, feeds: Arrays, repeats: int) -> NDArray[np.float64]:
        if repeats < 1:
            raise TargetError(f"cannot time {repeats} inferences; expected 1 or more")
        _, (seconds,) = self._worker.ask("time", self._ordered(feeds), repeats=repeats)
        return seconds

    def facts(self) -> SessionFacts:
        found, _ = self._worker.ask("facts")
        return SessionFacts(runtime=self._worker.runtime, threads=self._threads, **found)

    def close(self) -> None:
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ordered(self, feeds: Arrays) -> list[Array]:
        """Checked arrays in the order of the file's inputs."""
        checked = check_feeds(feeds, self.signature.inputs)
        return [checked[self._inputs[name]] for name in self._order]


def _parts(arrays: list[Array]) -> Iterator[list[Array]]:
    """Rows in portions of some megabytes, so that a whole data set never sits in the worker."""
    rows = arrays[0].shape[0]
    row_bytes = sum(array.nbytes for array in arrays) // rows
    size = max(CHUNK, PART_BYTES // max(row_bytes, 1) // CHUNK * CHUNK)
    for start in range(0, rows, size):
        yield [array[start : start + size] for array in arrays]


def _renamed(
    given: tuple[TensorSpec, ...], file: tuple[TensorSpec, ...], names: dict[str, str]
) -> tuple[TensorSpec, ...]:
    """Shapes and dtypes of the file, names, layouts and order of the signature."""
    found = {spec.name: spec for spec in file}
    return tuple(
        replace(found[names[spec.name]], name=spec.name, layout=spec.layout) for spec in given
    )
