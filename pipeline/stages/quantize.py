"""Stages `quantize-FORMAT-PRECISION`: the fp32 file in another precision, by the recipe that holds.

A precision with several recipes is searched: they are tried in turn until one keeps the accuracy of
the fp32 student on the validation split; if none does, the most accurate is taken. What was tried
is left in `recipes.json`. The test split has no say.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..child import run_in_child
from ..contracts import Artifact, Precision, Signature
from ..errors import ExportError, ParityError
from .data import load_inputs, spread
from .export import CHECK_TARGET, drafted, finish, from_job, to_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..contracts import Workspace

    Logits = NDArray[Any]

SEARCHED = 2000  # validation samples on which a recipe is tried, at most
TIMED_SECONDS = 0.2  # per file: enough to tell faster from slower


@dataclass(frozen=True, slots=True)
class Search:
    """How a precision is looked for.

    Attributes:
        recipes: names, in the order in which they are tried.
        accuracy_drop: points of validation accuracy that may be lost against fp32.
        calibration: validation samples that calibrate.
    """

    recipes: tuple[str, ...]
    accuracy_drop: float
    calibration: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What a recipe gave, on the validation split, against the fp32 student.

    Attributes:
        recipe: its name.
        accuracy: share of right answers.
        drop: points of accuracy lost.
        agreement: share of the same answers.
        sqnr_db: signal to quantization-noise ratio of the logits.
        size_bytes: of the files.
        latency_ratio: median latency over that of the fp32 file, both timed in turn; indicative,
            since another export may run beside it.
        holds: it keeps the accuracy.
        failed: why there is no file, or nothing.
    """

    recipe: str
    accuracy: float | None = None
    drop: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    size_bytes: int | None = None
    latency_ratio: float | None = None
    holds: bool = False
    failed: str = ""

    @property
    def rank(self) -> tuple[bool, float, float]:
        return self.holds, self.accuracy or 0.0, self.sqnr_db or 0.0


def run(
    kind: str,
    precision: Precision,
    search: Search,
    timeout: float,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Write an fp32 file in another precision.

    Args:
        kind: the format.
        precision: what it becomes.
        search: recipes and goal.
        timeout: seconds for one conversion.
        inputs: artefacts of `data`, `distill` and `export-FORMAT`.
        workspace: where to work.

    Raises:
        ExportError: no recipe gives a file.
        ParityError: the best file does not answer like the model.
    """
    shutil.rmtree(workspace.scratch, ignore_errors=True)
    tried: list[Trial] = []
    written: dict[str, Signature] = {}
    for number, recipe in enumerate(search.recipes):
        workspace.progress(number, len(search.recipes), f"recipe {recipe}")
        folder = workspace.scratch / recipe / "files"
        folder.mkdir(parents=True)
        try:
            written[recipe] = _convert(kind, precision, recipe, search, timeout, inputs, folder)
        except ExportError as error:
            if len(search.recipes) == 1:
                raise
            tried.append(Trial(recipe, failed=error.message))
            continue
        draft = drafted(kind, precision, folder, written[recipe])
        tried.append(_try(recipe, draft, search, inputs))
        if tried[-1].holds:
            break
    _take(kind, precision, tried, written, inputs, workspace)


def _convert(
    kind: str,
    precision: Precision,
    recipe: str,
    search: Search,
    timeout: float,
    inputs: Mapping[str, Artifact],
    folder: Path,
) -> Signature:
    arguments = {
        "kind": kind,
        "precision": precision,
        "recipe": recipe,
        "source": to_job(inputs[f"export-{kind}"]),
        "data": str(inputs["data"].root),
        "calibration": search.calibration,
        "folder": str(folder),
    }
    answer = run_in_child(f"{__name__}:convert_in_child", arguments, folder.parent, timeout)
    return Signature.from_json(answer)


def convert_in_child(
    kind: str,
    precision: Precision,
    recipe: str,
    source: dict[str, Any],
    data: str,
    calibration: int,
    folder: str,
) -> dict[str, Any]:
    """The part that needs a quantizer."""
    samples = load_inputs(Path(data), "validation", calibration)
    exporter = plugins.exporter(kind)
    written = exporter.convert(from_job(source), precision, samples, Path(folder), recipe)
    return written.to_json()


def _try(recipe: str, draft: Artifact, search: Search, inputs: Mapping[str, Artifact]) -> Trial:
    """Run a file over the validation split, and time it beside the fp32 one."""
    import numpy as np

    from ..evaluation.statistics import agreement, sqnr_db

    data, model = inputs["data"].root, inputs["distill"].root
    targets, wanted = np.load(data / "validation" / "targets.npy"), _reference(model)
    rows = spread(len(targets), SEARCHED)
    targets, wanted = targets[rows], wanted[rows]
    target = plugins.target(CHECK_TARGET)
    with target.open(draft, threads=1) as session:
        got = next(iter(session.run(load_inputs(data, "validation", SEARCHED)).values()))
    right, before = (float((a.argmax(1) == targets).mean()) for a in (got, wanted))
    drop = 100 * (before - right)
    return Trial(
        recipe=recipe,
        accuracy=right,
        drop=drop,
        agreement=agreement(wanted, got),
        sqnr_db=float(min(sqnr_db(wanted, got), 999.0)),
        size_bytes=draft.size_bytes,
        latency_ratio=_latency_ratio(draft, inputs[f"export-{draft.kind}"], data),
        holds=drop <= search.accuracy_drop + 1e-9,
    )


def _reference(model: Path) -> Logits:
    import numpy as np

    logits: Logits = np.load(model / "outputs" / "validation.npy")
    return logits


def _latency_ratio(draft: Artifact, plain: Artifact, data: Path) -> float:
    from ..evaluation.latency import LatencySettings, measure, ratio

    one, target = load_inputs(data, "validation", 1), plugins.target(CHECK_TARGET)
    settings = LatencySettings(seconds=TIMED_SECONDS, warmup_seconds=TIMED_SECONDS, samples=20)
    with target.open(draft, threads=1) as ours, target.open(plain, threads=1) as theirs:
        feeds = {"ours": one, "fp32": one}
        results = measure({"ours": ours, "fp32": theirs}, feeds, settings)
    return float(ratio(results["ours"], results["fp32"]).value)


def _take(
    kind: str,
    precision: Precision,
    tried: list[Trial],
    written: Mapping[str, Signature],
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Keep the best file, and the table of all."""
    if not written:
        reasons = "; ".join(f"{trial.recipe}: {trial.failed}" for trial in tried)
        raise ExportError(
            f"{kind}: no recipe gives {precision}: {reasons}",
            f"Take {precision!r} out of export.precisions for this model.",
        )
    best = max((trial for trial in tried if not trial.failed), key=lambda trial: trial.rank)
    shutil.copytree(workspace.scratch / best.recipe / "files", workspace.out, dirs_exist_ok=True)
    note = {"chosen": best.recipe, "tried": [asdict(trial) for trial in tried]}
    (workspace.out / "recipes.json").write_text(json.dumps(note, indent=1, sort_keys=True))
    answer = written[best.recipe].to_json()
    try:
        finish(kind, precision, answer, "distill", inputs, workspace)
    except ParityError as error:
        said = ", ".join(
            f"{trial.recipe} {trial.failed or f'{trial.accuracy:.1%}'}" for trial in tried
        )
        raise ParityError(f"{error.message}; tried: {said}", error.hint) from error
