"""edgedistill: from a big teacher to a small, proven model on a device, with one command.

Nothing heavy is imported here; names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_config": "edgedistill.pipeline.configfile",
    "make_plan": "edgedistill.pipeline.plan",
    "run_plan": "edgedistill.pipeline.run",
    "open_bundle": "edgedistill.pipeline.bundle",
    "EdgeDistillError": "edgedistill.pipeline.errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
