"""TensorFlow, imported where it is needed: that takes seconds and hundreds of megabytes."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_tensorflow() -> Any:
    """TensorFlow on the CPU, with as many threads as torch uses, and told to be quiet."""
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        import tensorflow as tf

        with suppress(RuntimeError):  # it is at work already: its devices and threads are settled
            tf.config.set_visible_devices([], "GPU")
            tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    return tf


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Its libraries greet from C++ before any setting of theirs is read; exceptions still rise."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
