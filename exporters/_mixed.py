"""Mixed precision: which layers to leave in float, found by the output of the whole network.

The error of a layer's own output says little about that of the network's, so each layer is put back
to float in turn and the output is measured; the best one stays, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..pipeline.contracts import Array

    Source = TypeVar("Source")

ENOUGH_DB = 30.0  # signal over noise of the output at which answers hardly differ any more
SHARE = 0.25  # of the layers that may stay in float
WORTH_DB = 0.5  # a layer that brings less is not put back


def greedy(
    layers: Sequence[str],
    quantize: Callable[[Sequence[str]], Source],
    answers: Callable[[Source], Sequence[Array]],
    plain: Source,
) -> list[str]:
    """Layers to leave in float, in the order in which they were found.

    Args:
        layers: names of all that could be quantized.
        quantize: writes a file with these layers left in float.
        answers: of a file to the calibration samples, batch by batch.
        plain: the file in fp32.
    """
    wanted = answers(plain)

    def score(kept: Sequence[str]) -> float:
        return output_sqnr_db(wanted, answers(quantize(kept)))

    kept: list[str] = []
    best = score(kept)
    while best < ENOUGH_DB and len(kept) < max(1, round(SHARE * len(layers))):
        scores = {name: score([*kept, name]) for name in layers if name not in kept}
        name = max(scores, key=lambda layer: scores[layer], default="")
        if not name or scores[name] < best + WORTH_DB:
            break
        kept.append(name)
        best = scores[name]
    return kept


def output_sqnr_db(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    """Signal to quantization-noise ratio of all outputs together, in decibel."""
    import numpy as np

    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted)
    pairs = zip(wanted, got, strict=True)
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    return float(10 * np.log10(signal / noise)) if noise and signal else float("inf")
