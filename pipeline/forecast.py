"""What a run would do, and why, without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .run import key_of, recipe
from .store import Damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .contracts import Artifact, Stage
    from .plan import Plan
    from .store import Store


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of one stage: `state` is `cached` or `to do`; `why` says the reason."""

    stage: str
    state: str
    why: str


def forecast(plan: Plan, store: Store, last: Mapping[str, Any]) -> list[Forecast]:
    """Look every stage of a plan up.

    Args:
        plan: the stages.
        store: where artefacts are.
        last: recipes of the run before, to say what changed.
    """
    found: dict[str, Artifact] = {}
    unknown: set[str] = set()
    result = []
    for stage in plan.stages:
        changed = [name for name in (*stage.needs, *stage.optional) if name in unknown]
        if changed:
            line = Forecast(stage.name, "to do", f"{', '.join(changed[:3])} to do first")
        else:
            line = _look_up(stage, store, found, last.get(stage.name))
        if line.state != "cached":
            unknown.add(stage.name)
        result.append(line)
    return result


def _look_up(
    stage: Stage, store: Store, found: dict[str, Artifact], last: Mapping[str, Any] | None
) -> Forecast:
    now = recipe(stage, found)
    try:
        artifact = store.find(stage.name, key_of(now))
    except Damaged as error:
        return Forecast(stage.name, "to do", f"damaged: {error.message}")
    if artifact is not None:
        found[stage.name] = artifact
        return Forecast(stage.name, "cached", "nothing changed")
    if last is None:
        return Forecast(stage.name, "to do", "never made")
    changes = list(_changes(last, now, ""))
    return Forecast(stage.name, "to do", "; ".join(changes[:4]) or "did not finish last time")


def _changes(old: Any, new: Any, path: str) -> Iterator[str]:
    """Readable differences of two recipes."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        if path.startswith("needs."):
            yield f"{path.removeprefix('needs.')} changed"
        else:
            yield f"{path.removeprefix('settings.')} {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
