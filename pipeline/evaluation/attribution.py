"""Where accuracy went: teacher -> student -> format -> precision, hop by hop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .verdict import drop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .verdict import Correct


def attribute(
    teacher: Correct, student: Correct, artifacts: Mapping[str, Correct]
) -> list[dict[str, Any]]:
    """One row per hop and artefact.

    Args:
        teacher: which test samples the teacher answers right, `(N,)`.
        student: the same for the float student.
        artifacts: the same for every artefact, by name such as `onnx-int8`.

    Returns:
        Rows with the artefact, the hop, the accuracy after it, the points it cost (negative: won)
        and their paired 95 % interval. The drops of an artefact's hops add up to its whole drop.
    """
    rows = []
    for name in artifacts:
        for hop, before, after in _hops(name, teacher, student, artifacts):
            lost = drop(before, after)
            rows.append(
                {
                    "artifact": name,
                    "hop": hop,
                    "accuracy": float(after.mean()),
                    "drop": lost["value"],
                    "ci95": lost["ci95"],
                }
            )
    return rows


def _hops(
    name: str, teacher: Correct, student: Correct, artifacts: Mapping[str, Correct]
) -> Iterator[tuple[str, Correct, Correct]]:
    yield "teacher -> student", teacher, student
    plain = f"{name.split('-')[0]}-fp32"
    if name == plain or plain not in artifacts:
        yield f"student -> {name}", student, artifacts[name]
        return
    yield f"student -> {plain}", student, artifacts[plain]
    yield f"{plain} -> {name}", artifacts[plain], artifacts[name]
