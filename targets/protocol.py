"""How a session and its worker process talk.

Requests and replies are JSON, one a line; arrays travel beside them in `.npz` files of a folder
that both sides know, by position and never pickled. A request is `{"id", "command", ...}`, its
reply `{"id", "result"}` or `{"id", "error": {"message", "hint"}}`; `{"id", "alive": true}` may come
in between and only says that the work goes on.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..pipeline.contracts import Array

FEEDS = "feeds.npz"
RESULTS = "results.npz"


def send(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one message as one line and flush it."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def parse(line: bytes) -> dict[str, Any]:
    """Read one line.

    Raises:
        ValueError: the line is not a JSON object.
    """
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"expected a JSON object, got {type(message).__name__}")
    return message


def save_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Write arrays by position.

    Raises:
        ValueError: an array holds Python objects, which only pickle could write.
    """
    for array in arrays:
        if array.dtype.hasobject:
            raise ValueError("an array of Python objects (text?) cannot be passed on")
    np.savez(path, *arrays)


def load_arrays(path: Path) -> list[Array]:
    """Read what `save_arrays` wrote, in the same order."""
    with np.load(path, allow_pickle=False) as data:
        return [data[f"arr_{index}"] for index in range(len(data.files))]
