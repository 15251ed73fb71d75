"""Does an exported model answer like the model it was made from? Names, shapes, dtypes, values.

The tolerances of every precision stand in ONE table. For int8 they only catch a broken export:
whether its accuracy is good enough is for the goals to say.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParityError
from .statistics import sqnr_db

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..contracts import Signature


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a precision must reach.

    Attributes:
        sqnr_db: signal to noise of the logits, decibels, at least.
        agreement: share of samples with the same top class, at least; samples whose two best
            reference logits lie closer than the noise do not count.
        max_abs: largest difference relative to the largest reference logit, at most.
    """

    sqnr_db: float
    agreement: float
    max_abs: float


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(sqnr_db=80.0, agreement=1.0, max_abs=1e-4),
    "fp16": Tolerance(sqnr_db=30.0, agreement=0.995, max_abs=0.1),  # bf16 arithmetic included
    "int8": Tolerance(sqnr_db=10.0, agreement=0.90, max_abs=1.0),
    "int8-dynamic": Tolerance(sqnr_db=10.0, agreement=0.90, max_abs=1.0),
}

GOLDEN_TOLERANCES: dict[str, float] = {
    "fp32": 1e-3,
    "fp16": 5e-2,  # bf16 arithmetic on one machine, fp32 on another
    "int8": 0.2,  # CPUs without VNNI saturate
    "int8-dynamic": 0.2,
}
"""Largest difference, relative to the largest logit, with which another machine may repeat a
bundle's golden outputs."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How close an artefact is to its source.

    Attributes:
        max_abs: largest absolute difference of an output value.
        sqnr_db: signal to quantization-noise ratio, decibels; infinite when equal is given as 999.
        agreement: share of samples with the same top class.
        samples: how many were compared.
        tolerance: what was asked.
    """

    max_abs: float
    sqnr_db: float
    agreement: float
    samples: int
    tolerance: Tolerance

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


NARROWED = ("int64", "int32")  # TFLite stores 64-bit integer inputs as 32-bit ones


def check_signature(wanted: Signature, got: Signature, name: str) -> None:
    """Names, dtypes and shapes of inputs and outputs.

    A free axis may have become a fixed one, and a 64-bit integer a 32-bit one.

    Raises:
        ParityError: names the tensor and what differs.
    """
    for kind in ("inputs", "outputs"):
        left, right = getattr(wanted, kind), getattr(got, kind)
        if [s.name for s in left] != [s.name for s in right]:
            raise ParityError(
                f"{name}: {kind} are {[s.name for s in right]}, expected {[s.name for s in left]}"
            )
        for a, b in zip(left, right, strict=True):
            shapes_fit = len(a.shape) == len(b.shape) and all(
                x is None or x == y for x, y in zip(a.shape, b.shape, strict=True)
            )
            if not shapes_fit or (a.dtype, b.dtype) not in ((a.dtype, a.dtype), NARROWED):
                raise ParityError(
                    f"{name}: {kind[:-1]} {a.name!r} is {b.dtype}{list(b.shape)}, expected"
                    f" {a.dtype}{list(a.shape)}"
                )


def compare(
    name: str,
    precision: str,
    reference: Mapping[str, NDArray[np.float32]],
    outputs: Mapping[str, NDArray[np.float32]],
) -> Parity:
    """Compare an artefact's outputs `(N, ...)` with its source's on the same samples.

    Raises:
        ParityError: says which output of which sample is furthest off, with both values.
    """
    worst: Parity | None = None
    for output, wanted in reference.items():
        if output not in outputs:
            raise ParityError(f"{name}: no output {output!r}, it gives {sorted(outputs)}")
        parity = _compare_output(name, precision, output, wanted, outputs[output])
        if worst is None or parity.sqnr_db < worst.sqnr_db:
            worst = parity
    if worst is None:
        raise ParityError(f"{name}: no output to compare")
    return worst


def _compare_output(
    name: str,
    precision: str,
    output: str,
    wanted: NDArray[np.float32],
    got: NDArray[np.float32],
) -> Parity:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        raise ParityError(
            f"{name}: output {output!r} is {got.dtype}{list(got.shape)}, expected"
            f" {wanted.dtype}{list(wanted.shape)}"
        )
    tolerance, difference = TOLERANCES[precision], np.abs(wanted - got)
    ratio = float(min(sqnr_db(wanted, got), 999.0))
    parity = Parity(float(difference.max()), ratio, _agreement(wanted, got), len(wanted), tolerance)
    clear = _agreement(wanted, got, margin=2 * float(difference.mean()))
    limit = tolerance.max_abs * max(1.0, float(np.abs(wanted).max()))
    finite = bool(np.isfinite(got).all())
    within = ratio >= tolerance.sqnr_db and parity.max_abs <= limit
    if not (finite and within and clear >= tolerance.agreement):
        raise ParityError(
            _explain(name, output, wanted, got, parity),
            "look at the operators of the model, or leave this format out of export.formats",
        )
    return parity


def _agreement(wanted: NDArray[np.float32], got: NDArray[np.float32], margin: float = 0.0) -> float:
    if wanted.ndim != 2 or wanted.shape[1] < 2:
        return 1.0
    best = np.sort(wanted, axis=1)
    clear = best[:, -1] - best[:, -2] >= margin
    same = wanted.argmax(1) == got.argmax(1)
    return float(same[clear].mean()) if clear.any() else 1.0


def _explain(
    name: str,
    output: str,
    wanted: NDArray[np.float32],
    got: NDArray[np.float32],
    parity: Parity,
) -> str:
    difference = np.where(np.isfinite(got), np.abs(wanted - got), np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), wanted.shape))
    tolerance = parity.tolerance
    return (
        f"{name} does not answer like its source: output {output!r}, sample {index[0]}, element"
        f" {list(index[1:])} is {got[index]:.6g}, expected {wanted[index]:.6g}; over"
        f" {parity.samples} samples: {parity.sqnr_db:.1f} dB (at least {tolerance.sqnr_db:g}),"
        f" agreement {parity.agreement:.1%} (at least {tolerance.agreement:.1%})"
    )
