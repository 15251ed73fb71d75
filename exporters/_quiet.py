"""Libraries that print, log, warn and phone home, kept still while they work."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Progress bars off, telemetry off: `CI` is the switch that openvino-telemetry offers.
_ENVIRONMENT = {
    "CI": "true",
    "LITERT_TORCH_SHOW_PROGRESS": "n",
    "NNCF_CI": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TQDM_DISABLE": "1",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Send prints to stderr, drop Python warnings and log lines below errors, forbid telemetry.

    Import the libraries inside, for some read the environment when they are imported.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    level = logging.root.manager.disable
    os.environ.update(_ENVIRONMENT)
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        _restore(before)


def _restore(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
