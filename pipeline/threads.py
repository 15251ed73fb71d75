"""How threads of a training wait for each other: said before torch loads, which reads it once."""

from __future__ import annotations

import os

_ROUNDS = "1000"


def wait_gently() -> None:
    """Let OpenMP's threads spin for a moment, then sleep; what the user has set stays.

    Threads that sleep at once make a small net's epoch 1.7 times as long on an idle machine; those
    that spin for long make it three times as long on a busy one. See docs/benchmarks.md.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _ROUNDS)
