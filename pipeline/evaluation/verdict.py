"""Figures -> words: accuracy with intervals, drops, the worth of a precision, goals, the choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .statistics import paired_difference, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Correct = NDArray[np.bool_]

SAME_SPEED = 1.05  # medians this close count as equally fast when an artefact is chosen
SLOWER = 1.02  # an interval wholly above this latency ratio says that a precision is slower
SMALLER = 0.9  # a size ratio below this counts as smaller
LOST = 1.0  # points; an interval wholly above this says that a precision loses accuracy


def accuracy(correct: Correct) -> dict[str, Any]:
    """Share of right answers with its Wilson 95 % interval."""
    low, high = wilson(int(correct.sum()), len(correct))
    return {"value": float(correct.mean()), "ci95": [low, high]}


def drop(reference: Correct, candidate: Correct) -> dict[str, Any]:
    """Points that `candidate` loses against `reference`, paired over the same samples."""
    _, low, high = paired_difference(reference, candidate)
    value = float(reference.mean() - candidate.mean())
    return {"value": 100 * value, "ci95": [100 * low, 100 * high]}


def gain(baseline: Correct, student: Correct) -> dict[str, Any]:
    """Points that distillation brought over labels alone, and whether that can be told apart."""
    lost = drop(student, baseline)
    low, high = lost["ci95"]
    verdict = "not distinguishable from the baseline"
    if low > 0:
        verdict = "above the baseline"
    elif high < 0:
        verdict = "below the baseline"
    return {**lost, "verdict": verdict}


def worth_it(
    entry: Mapping[str, Any], fp32: Mapping[str, Any], lost: dict[str, Any]
) -> dict[str, Any]:
    """Is a reduced precision worth it here, against the fp32 file of the same format?

    Args:
        entry: the report entry of the artefact.
        fp32: the entry of its fp32 sibling.
        lost: points lost against the sibling, from `drop`.

    Returns:
        verdict `no` (surely slower, or surely a point worse), `yes` (surely not a point worse,
        and surely faster, or smaller and surely as fast) or `unclear`, with the reasons.
    """
    ratios = [m["latency_ratio"] for m in entry["measurements"] if m.get("latency_ratio")]
    slowest = max(ratios, key=lambda r: float(r["value"])) if ratios else None
    size = entry["size_bytes"] / fp32["size_bytes"]
    verdict = "unclear"
    if lost["ci95"][0] > LOST or (slowest and slowest["ci95"][0] > SLOWER):
        verdict = "no"
    elif slowest and lost["ci95"][1] <= LOST:
        smaller = size < SMALLER and slowest["ci95"][1] <= SAME_SPEED
        verdict = "yes" if smaller or slowest["ci95"][1] < 1 else "unclear"
    noise = " (noisy)" if is_noisy(entry) or is_noisy(fp32) else ""
    speed = f"{slowest['value']:.2f}x the latency of {fp32['name']}{noise}, " if slowest else ""
    change = f"{abs(lost['value']):.1f} points {'worse' if lost['value'] > 0 else 'better'}"
    why = f"{speed}{size:.2f}x its size, {change if round(lost['value'], 1) else 'as accurate'}"
    return {
        "verdict": verdict,
        "why": why,
        "latency_ratio": slowest,
        "size_ratio": size,
        "accuracy_drop": lost,
    }


def is_noisy(entry: Mapping[str, Any]) -> bool:
    """Whether any latency of an artefact is too noisy to be compared by its median."""
    return any(m["latency_ms"]["verdict"] != "stable" for m in entry["measurements"])


def check_goals(
    goals: Mapping[str, float | None], entry: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Hold an artefact against every goal; what was not measured is not met."""
    return [_check(name, wanted, entry) for name, wanted in goals.items() if wanted is not None]


def _check(name: str, wanted: float, entry: Mapping[str, Any]) -> dict[str, Any]:
    asked, got, met = _GOALS[name](wanted, entry)
    return {"name": name, "wanted": asked, "got": got, "met": bool(met)}


_Judgement = tuple[str, str, bool]


def _accuracy_drop(wanted: float, entry: Mapping[str, Any]) -> _Judgement:
    value, (low, high) = entry["drop"]["value"], entry["drop"]["ci95"]
    got = f"{value:.1f} points ({low:.1f} to {high:.1f})"
    return f"at most {wanted:g} points", got, value <= wanted + 1e-9


def _accuracy(wanted: float, entry: Mapping[str, Any]) -> _Judgement:
    value = 100 * entry["accuracy"]["value"]
    return f"at least {wanted:g} %", f"{value:.1f} %", value >= wanted - 1e-9


def _agreement(wanted: float, entry: Mapping[str, Any]) -> _Judgement:
    value = 100 * entry["agreement"]["teacher"]
    return f"at least {wanted:g} %", f"{value:.1f} %", value >= wanted - 1e-9


def _speedup(wanted: float, entry: Mapping[str, Any]) -> _Judgement:
    found = [m["speedup"] for m in entry["measurements"] if m["speedup"]]
    if not found:
        return f"at least {wanted:g} x", "not measured", False
    worst = min(found, key=lambda s: float(s["value"]))
    low, high = worst["ci95"]
    noise = ", noisy" if is_noisy(entry) else ""
    got = f"{worst['value']:.1f} x ({low:.1f} to {high:.1f}{noise})"
    return f"at least {wanted:g} x", got, worst["value"] >= wanted


def _latency(wanted: float, entry: Mapping[str, Any]) -> _Judgement:
    worst = slowest_median(entry)
    if worst is None:
        return f"at most {wanted:g} ms", "not measured", False
    return f"at most {wanted:g} ms", f"{worst:.3g} ms", worst <= wanted


def _size(wanted: float, entry: Mapping[str, Any]) -> _Judgement:
    size = entry["size_bytes"]
    return f"at most {wanted / 1e3:g} kB", f"{size / 1e3:.1f} kB", size <= wanted


_GOALS = {
    "accuracy_drop": _accuracy_drop,
    "accuracy": _accuracy,
    "agreement": _agreement,
    "speedup": _speedup,
    "latency": _latency,
    "size": _size,
}


def slowest_median(entry: Mapping[str, Any]) -> float | None:
    """Median milliseconds on the slowest target; None if it was not measured."""
    return max((m["latency_ms"]["p50"] for m in entry["measurements"]), default=None)


def choose(entries: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """The artefact to ship, and why.

    Among those that meet every goal: the fastest; of those within 5 % of it, or whose interval
    overlaps its interval, the smallest. If none does: the one that misses the fewest goals, then
    the most accurate.
    """
    if not entries:
        return None, "nothing was exported"
    passing = [e for e in entries if e["meets_goals"]]
    if not passing:
        best = min(entries, key=lambda e: (_missed(e), e["drop"]["value"], e["name"]))
        why = f"no artefact meets every goal; it misses {_missed(best)}"
        return best["name"], why + _reservation(best)
    fastest = min(passing, key=_median)
    close = [e for e in passing if _as_fast(e, fastest)]
    best = min(close, key=lambda e: (e["size_bytes"], e["name"]))
    why = "the fastest that meets every goal"
    if len(close) > 1:
        why = "the smallest of the fastest that meet every goal"
    noise = "; the latencies are noisy" if any(is_noisy(e) for e in close) else ""
    return best["name"], why + noise + _reservation(best)


def _as_fast(entry: Mapping[str, Any], fastest: Mapping[str, Any]) -> bool:
    """Whether a difference to the fastest is small, or cannot be told apart from noise."""
    if _median(entry) <= SAME_SPEED * _median(fastest):
        return True
    pairs = zip(entry["measurements"], fastest["measurements"], strict=False)
    overlaps = [a["latency_ms"]["ci95"][0] <= b["latency_ms"]["ci95"][1] for a, b in pairs]
    return bool(overlaps) and all(overlaps)


def _reservation(entry: Mapping[str, Any]) -> str:
    """What speaks against a reduced precision that was chosen: slower, or worse, than fp32."""
    worth = entry["worth_it"]
    if worth is None:
        return ""
    ratio = worth["latency_ratio"]
    slower = ratio is not None and round(ratio["value"], 2) > 1
    return f"; but {worth['why']}" if slower or worth["verdict"] == "no" else ""


def _missed(entry: Mapping[str, Any]) -> int:
    return sum(not goal["met"] for goal in entry["goals"])


def _median(entry: Mapping[str, Any]) -> float:
    median = slowest_median(entry)
    return float("inf") if median is None else median
