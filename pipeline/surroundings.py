"""Where and when something was measured: goes with every figure that is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from . import plugins
from .stages.report import libraries


def surroundings() -> dict[str, Any]:
    """The date, the machine, and the versions of what runs on it."""
    ours = version(__package__.partition(".")[0])
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": plugins.target("cpu").facts(),
        "versions": {"edgedistill": ours, **libraries()},
    }
