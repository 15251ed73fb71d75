"""A teacher that is asked once for each view of each sample."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..store import canonical
from .cache import SignalTable, check_room, stale, table_bytes
from .codec import Codec
from .engine import TorchEngine, fastest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from .cache import CacheSettings
    from .engine import Engine
    from .signals import LiveTeacher, Signals
    from .views import Steps, View, Views

FORMAT = 3  # raised when the meaning of the files changes
CHECKED_SHARE, CHECKED_AT_MOST = 0.01, 256
_HALF = 1e-3  # twice the relative error of rounding to fp16
_EPOCHS = 5  # of a short training: the least that a teacher is asked for
_COMPARED = 64  # views on which a faster engine must agree with the teacher
_AT_ONCE = 1024  # views that are held in memory while they are computed


class StoredTeacher:
    """Signals of every view, computed when they are first asked for.

    Args:
        teacher: computes what is not there yet.
        views: of the split that is learned from.
        settings: where and how.
        key: what teacher and data are.
        logits: whether they are asked for.

    Attributes:
        bytes: size of the cache once it is full.

    Raises:
        TrainingError: the cache would outgrow its limit or the disk, or it is stale.
    """

    def __init__(
        self,
        teacher: LiveTeacher,
        views: Views,
        settings: CacheSettings,
        key: str,
        logits: bool = True,
    ) -> None:
        self.views, self._live, self._settings = views, teacher, settings
        self._reference = TorchEngine(teacher)
        signals = self._reference.compute(_example(views, 2))
        taps = teacher.tapped.layers
        self.codec = Codec(tuple(taps), signals.logits.shape[1], settings.top, logits)
        layout = _layout(self.codec, signals)
        rows = (len(views.split), views.count)
        about: dict[str, Any] = {
            "format": FORMAT,
            "of": key,
            "tolerance": settings.tolerance,
            "augment": [views.shift, views.flip, views.replays],
            "layers": [[layer, tap.reduce] for tap, layer in taps.items()],
            "rows": list(rows),
            "layout": {name: [dtype, list(shape)] for name, (dtype, shape) in layout.items()},
        }
        folder = settings.folder / hashlib.sha256(canonical(about)).hexdigest()[:24]
        self.bytes = table_bytes(rows, layout)
        check_room(folder, self.bytes, settings)
        self.table = SignalTable(folder, rows, layout)
        (folder / "about.json").write_text(json.dumps(about, indent=1))
        self._check_fresh()

    @staticmethod
    def check_room(
        teacher: LiveTeacher, views: Views, settings: CacheSettings, logits: bool = True
    ) -> None:
        """See that the signals of every view could be stored, before any is.

        Args:
            teacher: of the right shapes; it need not be trained.
            views: of the whole split.
            settings: where and how.
            logits: whether they are asked for.

        Raises:
            TrainingError: the cache would outgrow its limit or the disk.
        """
        signals = TorchEngine(teacher).compute(_example(views, 2))
        codec = Codec(tuple(teacher.tapped.layers), signals.logits.shape[1], settings.top, logits)
        size = table_bytes((len(views.split), views.count), _layout(codec, signals))
        check_room(settings.folder, size, settings)

    @cached_property
    def engine(self) -> Engine:
        """What fills; it is not even compiled where all is there."""
        seen = min(self.views.count, _EPOCHS) * len(self.views.split)
        example = _example(self.views, _COMPARED)
        return fastest(self._live, example, seen, self._settings.tolerance)

    def expect(self, steps: Steps) -> None:
        """Compute what is missing of some steps, all at once."""
        index = torch.cat([index for index, _ in steps])
        code = torch.cat([code for _, code in steps])
        absent = torch.from_numpy(self.table.missing(index.numpy(), code.numpy()))
        if absent.any():
            self._fill(index[absent], code[absent])

    def signals(self, view: View, inputs: Mapping[str, Tensor]) -> Signals:
        self.expect([(view.index, view.code)])
        stored = self.codec.decode(self.table.read(view.index.numpy(), view.code.numpy()))
        return stored.to(next(iter(inputs.values())).device)

    def flush(self) -> None:
        self.table.flush()

    def fill(self) -> None:
        """Store every view of every sample now."""
        everything = torch.arange(len(self.views.split))
        for code in range(self.views.count):
            self.expect([(everything, torch.full_like(everything, code))])
        self.flush()

    def _fill(self, index: Tensor, code: Tensor) -> None:
        for rows, codes in zip(
            torch.split(index, _AT_ONCE), torch.split(code, _AT_ONCE), strict=True
        ):
            computed = self._computed(self.engine, rows, codes)
            self.table.write(rows.numpy(), codes.numpy(), computed)

    def _computed(self, engine: Engine, index: Tensor, code: Tensor) -> dict[str, NDArray[Any]]:
        return self.codec.encode(engine.compute(self.views.inputs(index, code)))

    def _check_fresh(self) -> None:
        """Compute a hundredth of what is there again, with the teacher itself.

        Raises:
            TrainingError: it is not what this teacher says.
        """
        index, code = np.nonzero(self.table.filled)
        count = min(CHECKED_AT_MOST, math.ceil(CHECKED_SHARE * len(index)))
        if not count:
            return
        chosen = np.random.default_rng().choice(len(index), count, replace=False)
        rows, codes = index[chosen], code[chosen]
        stored = self.table.read(rows, codes)
        views = torch.from_numpy(rows), torch.from_numpy(codes)
        for name, fresh in self._computed(self._reference, *views).items():
            if name != "top-class":  # of two equally likely classes either may be named
                self._compare(fresh.astype(float), stored[name].astype(float))

    def _compare(self, fresh: NDArray[Any], stored: NDArray[Any]) -> None:
        error = float(np.abs(fresh - stored).max())
        scale = float(np.abs(fresh).max())
        allowed = 2 * self._settings.tolerance + _HALF  # other views than engines were compared on
        if not error <= allowed * scale:  # not: NaN is no agreement
            told = f"{len(fresh)} views computed again differ by up to {error:.3g}"
            raise stale(self.table.folder, told)


def _layout(codec: Codec, signals: Signals) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of the files: type and shape of one entry."""
    probe = codec.encode(signals)
    return {name: (str(value.dtype), value.shape[1:]) for name, value in probe.items()}


def _example(views: Views, count: int) -> dict[str, Tensor]:
    """A few views of different samples."""
    number = torch.arange(count)
    return views.inputs(number % len(views.split), number % views.count)
