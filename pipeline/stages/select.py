"""Stage `select`: hold every artefact against the goals, say where accuracy went, choose one.

`verdict.json` is the report without the environment and the learning curves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .evaluate import TEACHER, candidates

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ..contracts import Artifact, Workspace

SCHEMA = 1
STUDENT, BASELINE = "student", "baseline"


@dataclass(frozen=True, slots=True)
class Answers:
    """What every model says on the test split, by name.

    Attributes:
        logits: `(N, C)`.
        correct: `(N,)`, True where the answer is right.
    """

    logits: dict[str, NDArray[np.float32]]
    correct: dict[str, NDArray[np.bool_]]

    def agreement(self, name: str, other: str) -> float:
        from ..evaluation.statistics import agreement

        return agreement(self.logits[name], self.logits[other])


def run(
    name: str,
    goals: Mapping[str, float | None],
    reported: tuple[str, ...],
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Write verdict.json.

    Args:
        name: of the run.
        goals: goal -> wanted value; None is no goal.
        reported: precisions that the config asks for.
        inputs: data, models, exports and evaluations.
        workspace: where to work.
    """
    from ..evaluation import verdict
    from ..evaluation.attribution import attribute

    found = {k: v for k, v in candidates(inputs, reported).items() if k != TEACHER}
    answers = _answers(inputs, list(found))
    entries = [_entry(key, artifact, inputs, answers) for key, artifact in found.items()]
    for entry in entries:
        _judge(entry, entries, answers, goals)
    selected, why = verdict.choose(entries)
    chosen = next((e for e in entries if e["name"] == selected), None)
    correct = answers.correct
    has_baseline = BASELINE in inputs
    result = {
        "schema": SCHEMA,
        "name": name,
        "data": _data(inputs["data"]),
        "teacher": _teacher(inputs, answers),
        "student": _student(inputs["distill"], STUDENT, answers),
        "baseline": _student(inputs[BASELINE], BASELINE, answers) if has_baseline else None,
        "gain": verdict.gain(correct[BASELINE], correct[STUDENT]) if has_baseline else None,
        "artifacts": entries,
        "attribution": attribute(
            correct[TEACHER], correct[STUDENT], {key: correct[key] for key in found}
        ),
        "goals": chosen["goals"] if chosen else [],
        "selected": selected,
        "why": why,
        "passed": bool(chosen and chosen["meets_goals"]),
    }
    (workspace.out / "verdict.json").write_text(json.dumps(result, indent=1, sort_keys=True))
    workspace.describe.kind = "verdict"


def _answers(inputs: Mapping[str, Artifact], names: list[str]) -> Answers:
    import numpy as np

    targets = np.load(inputs["data"].root / "test" / "targets.npy")
    models = {TEACHER: "teacher", STUDENT: "distill", BASELINE: "baseline"}
    logits = {
        key: np.load(inputs[stage].root / "outputs" / "test.npy")
        for key, stage in models.items()
        if stage in inputs
    }
    first = next(_evaluations(inputs))  # every target runs the same files: one speaks for accuracy
    logits |= {name: np.load(first.root / "outputs" / f"{name}.npy") for name in names}
    return Answers(logits, {key: value.argmax(1) == targets for key, value in logits.items()})


def _evaluations(inputs: Mapping[str, Artifact]) -> Any:
    return (a for stage, a in inputs.items() if stage.startswith("evaluate-"))


def _measurements(inputs: Mapping[str, Artifact], name: str) -> list[dict[str, Any]]:
    notes = (json.loads((a.root / "measurements.json").read_text()) for a in _evaluations(inputs))
    return [n["measurements"][name] for n in notes if name in n["measurements"]]


def _data(data: Artifact) -> dict[str, Any]:
    about = json.loads((data.root / "data.json").read_text())
    return {key: about[key] for key in ("source", "sizes", "labels")}


def _model(artifact: Artifact) -> dict[str, Any]:
    note = json.loads((artifact.root / "model.json").read_text())
    return {"model": note["spec"]["model"], "parameters": note["parameters"]}


def _teacher(inputs: Mapping[str, Artifact], answers: Answers) -> dict[str, Any]:
    from ..evaluation import verdict

    measured = _measurements(inputs, TEACHER)
    return {
        **_model(inputs["teacher"]),
        "accuracy": verdict.accuracy(answers.correct[TEACHER]),
        "measurement": measured[0] if measured else None,
        "history": json.loads((inputs["teacher"].root / "history.json").read_text()),
    }


def _student(artifact: Artifact, key: str, answers: Answers) -> dict[str, Any]:
    from ..evaluation import verdict

    note = json.loads((artifact.root / "model.json").read_text())
    history = json.loads((artifact.root / "history.json").read_text())
    also = note.get("with", [])
    best = history[note["best_epoch"] - 1]
    correct = answers.correct
    return {
        **_model(artifact),
        "method": " with ".join((note["method"], *([", ".join(also)] if also else []))),
        "accuracy": verdict.accuracy(correct[key]),
        "agreement": {"teacher": answers.agreement(key, TEACHER)},
        "drop": verdict.drop(correct[TEACHER], correct[key]),
        "epochs": {"best": _epoch(best), "last": _epoch(history[-1])},
        "history": history,
        "figures": _figures(artifact),
    }


def _figures(artifact: Artifact) -> list[dict[str, Any]]:
    """The method's diagnostics, if it has any."""
    file = artifact.root / "figures.json"
    figures: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return figures


def _epoch(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("epoch", "validation_accuracy")}


def _entry(
    name: str, artifact: Artifact, inputs: Mapping[str, Artifact], answers: Answers
) -> dict[str, Any]:
    from ..evaluation import verdict

    correct = answers.correct
    return {
        "name": name,
        "format": artifact.kind,
        "precision": artifact.precision,
        "size_bytes": artifact.size_bytes,
        "parity": json.loads((artifact.root / "parity.json").read_text()),
        "accuracy": verdict.accuracy(correct[name]),
        "drop": verdict.drop(correct[TEACHER], correct[name]),
        "agreement": {key: answers.agreement(name, key) for key in (TEACHER, STUDENT)},
        "measurements": _measurements(inputs, name),
        "recipes": _recipes(artifact),
    }


def _recipes(artifact: Artifact) -> dict[str, Any] | None:
    """What was tried for this precision; None where there was nothing to try."""
    file = artifact.root / "recipes.json"
    tried: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return tried


def _judge(
    entry: dict[str, Any],
    entries: list[dict[str, Any]],
    answers: Answers,
    goals: Mapping[str, float | None],
) -> None:
    """Add to an entry what needs its siblings: the worth of its precision, and the goals."""
    from ..evaluation import verdict

    plain = f"{entry['format']}-fp32"
    fp32 = next((e for e in entries if e["name"] == plain and e is not entry), None)
    entry["worth_it"] = None
    if fp32 is not None:
        lost = verdict.drop(answers.correct[plain], answers.correct[entry["name"]])
        entry["worth_it"] = verdict.worth_it(entry, fp32, lost)
    entry["goals"] = verdict.check_goals(goals, entry)
    entry["meets_goals"] = all(goal["met"] for goal in entry["goals"])
