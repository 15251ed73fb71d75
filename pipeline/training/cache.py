"""The teacher's signals of every view, stored once: fp16, memory-mapped, shared by all runs.

    <folder>/<key>/about.json     what is stored, of which shape
    <folder>/<key>/filled.bits    which views of which samples are there
    <folder>/<key>/NAME.float16   (samples, views, ...), one file per signal; see `codec`

It fills as views are asked for, so it never costs more than a live teacher. Values are written
before they are said to be there, which is told once per epoch: a kill leaves an older truth.
Several processes may share a folder; they write equal values.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import TrainingError
from ..store import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Layout: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where and how signals are stored.

    Attributes:
        folder: of all caches.
        limit: bytes that one cache may grow to.
        top: logits that are kept of each view, the largest; 0 keeps all of them.
        tolerance: how far signals may be from torch in fp32, as a share of the largest value.
        tell: called with a sentence that says how large a cache will get, before it is made.
    """

    folder: Path
    limit: float
    top: int = 0
    tolerance: float = 1e-3
    tell: Callable[[str], None] = lambda note: None


class SignalTable:
    """The files of one cache.

    Args:
        folder: of this cache; made if it is not there.
        rows: samples and views per sample.
        layout: name -> (NumPy dtype, shape of one entry).

    Raises:
        TrainingError: the files have another layout.
    """

    def __init__(self, folder: Path, rows: tuple[int, int], layout: Layout) -> None:
        self.folder, self.rows = folder, rows
        folder.mkdir(parents=True, exist_ok=True)
        self.arrays = {
            name: _map(folder / f"{name}.{dtype}", dtype, (*rows, *shape))
            for name, (dtype, shape) in layout.items()
        }
        self.filled = self._read_filled()

    def missing(self, index: NDArray[Any], code: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of these views are not there `(N,)`."""
        absent: NDArray[np.bool_] = ~self.filled[index, code]
        return absent

    def write(self, index: NDArray[Any], code: NDArray[Any], values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.arrays[name][index, code] = value
        self.filled[index, code] = True

    def read(self, index: NDArray[Any], code: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {name: array[index, code] for name, array in self.arrays.items()}

    def flush(self) -> None:
        """Values first; then what is there, together with what other processes wrote."""
        for array in self.arrays.values():
            array.flush()
        self.filled |= self._read_filled()
        write_atomic(self.folder / "filled.bits", np.packbits(self.filled).tobytes())

    def _read_filled(self) -> NDArray[np.bool_]:
        path, total = self.folder / "filled.bits", math.prod(self.rows)
        if not path.exists():
            return np.zeros(self.rows, dtype=bool)
        bits = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if len(bits) != (total + 7) // 8:
            raise stale(self.folder, f"filled.bits is for {8 * len(bits)} views, not {total}")
        return np.unpackbits(bits, count=total).astype(bool).reshape(self.rows)


def _map(path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    """A sparse file of zeros that takes no room until it is written to."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if path.exists() and path.stat().st_size != size:
        raise stale(path.parent, f"{path.name} has {path.stat().st_size} bytes, not {size}")
    return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)


def table_bytes(rows: tuple[int, int], layout: Layout) -> int:
    """Size of a cache once it is full."""
    entry = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in layout.values())
    return math.prod(rows) * entry + math.prod(rows) // 8


def check_room(folder: Path, size: int, settings: CacheSettings) -> None:
    """See that a cache may grow to its size, and say how large that is.

    Raises:
        TrainingError: it is over the limit, or more than the disk has left.
    """
    settings.tell(f"teacher signals of every view: up to {megabytes(size)}")
    ways = "set train.cache: off (the teacher is asked for every batch) or train.cache: replay"
    if size > settings.limit:
        raise TrainingError(
            f"the teacher's signals of every view would take {megabytes(size)};"
            f" train.cache_limit is {megabytes(settings.limit)}",
            f"raise the limit, or {ways}",
        )
    settings.folder.mkdir(parents=True, exist_ok=True)
    there = sum(f.stat().st_blocks * 512 for f in folder.iterdir()) if folder.exists() else 0
    free = shutil.disk_usage(settings.folder).free
    if size - there > free:
        raise TrainingError(
            f"the teacher's signals of every view would take {megabytes(size)};"
            f" the disk of {settings.folder} has {megabytes(free)} left",
            f"free some space, or {ways}",
        )


def megabytes(size: float) -> str:
    """In words, with the unit that fits."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB"


def stale(folder: Path, why: str) -> TrainingError:
    """The error of a cache that is not what it claims."""
    return TrainingError(
        f"the stored teacher signals in {folder} are stale: {why}",
        "remove that folder; it is filled again",
    )
