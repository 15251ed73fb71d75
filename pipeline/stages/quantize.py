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
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import nn

    from ..contracts import Workspace

    Logits = NDArray[Any]

EQUALISED = "equalised"  # a recipe of every format
RECIPES = "recipes.json"
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
    root: Path,
    final: bool,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Write an fp32 file in another precision.

    Args:
        kind: the format.
        precision: what it becomes.
        search: recipes and goal.
        timeout: seconds for one conversion.
        root: folder of the config, for user code.
        final: nothing recovers what loses too much: it must answer like the model all the same.
        inputs: artefacts of `data`, `distill` and `export-FORMAT`.
        workspace: where to work.

    Raises:
        ExportError: no recipe gives a file.
        ParityError: the best file does not answer like the model.
    """
    job = {
        "kind": kind,
        "precision": precision,
        "data": to_job(inputs["data"]),
        "calibration": search.calibration,
    }

    def make(recipe: str, folder: Path) -> Signature:
        if recipe == EQUALISED:
            source = {"model": to_job(inputs["distill"]), "code": str(root)}
            return in_child("equalised_in_child", {**job, **source}, folder, timeout)
        source = {"source": to_job(inputs[f"export-{kind}"]), "recipe": recipe}
        return in_child("convert_in_child", {**job, **source}, folder, timeout)

    shutil.rmtree(workspace.scratch, ignore_errors=True)
    tried, written = look(kind, precision, search, make, inputs, workspace)
    if final or any(trial.holds for trial in tried):
        take(kind, precision, tried, written, "distill", inputs, workspace)
    else:
        keep(kind, precision, tried, written, workspace)


def look(
    kind: str,
    precision: Precision,
    search: Search,
    make: Callable[[str, Path], Signature],
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> tuple[list[Trial], dict[str, Signature]]:
    """Try recipes in turn until one holds.

    Args:
        kind: the format.
        precision: what it becomes.
        search: recipes and goal.
        make: writes the file of a recipe into a folder.
        inputs: artefacts of `data`, `distill` and `export-FORMAT`.
        workspace: where to work; the files of a recipe lie in `scratch/RECIPE/files`.

    Returns:
        What was tried, and the signatures of what was written, by recipe.

    Raises:
        ExportError: the only recipe gives no file.
    """
    tried: list[Trial] = []
    written: dict[str, Signature] = {}
    for number, recipe in enumerate(search.recipes):
        workspace.progress(number, len(search.recipes), f"recipe {recipe}")
        folder = _files(workspace, recipe)
        folder.mkdir(parents=True)
        try:
            written[recipe] = make(recipe, folder)
        except ExportError as error:
            if len(search.recipes) == 1:
                raise
            tried.append(Trial(recipe, failed=error.message))
            continue
        draft = drafted(kind, precision, folder, written[recipe])
        tried.append(_try(recipe, draft, search, inputs))
        if tried[-1].holds:
            break
    return tried, written


def _files(workspace: Workspace, recipe: str) -> Path:
    return workspace.scratch / recipe / "files"


def in_child(function: str, job: dict[str, Any], folder: Path, timeout: float) -> Signature:
    """Call a function of this page in a child process that writes into a folder."""
    arguments = {**job, "folder": str(folder)}
    answer = run_in_child(f"{__name__}:{function}", arguments, folder.parent, timeout)
    return Signature.from_json(answer)


def convert_in_child(
    kind: str,
    precision: Precision,
    recipe: str,
    source: dict[str, Any],
    data: dict[str, Any],
    calibration: int,
    folder: str,
) -> dict[str, Any]:
    """The part that needs a quantizer."""
    samples = load_inputs(from_job(data).root, "validation", calibration)
    exporter = plugins.exporter(kind)
    written = exporter.convert(from_job(source), precision, samples, Path(folder), recipe)
    return written.to_json()


def equalised_in_child(
    kind: str,
    precision: Precision,
    model: dict[str, Any],
    code: str,
    data: dict[str, Any],
    calibration: int,
    folder: str,
) -> dict[str, Any]:
    """The format's first recipe, on a student whose layers share their ranges.

    Raises:
        ExportError: the student has no two layers that could.
    """
    from ..quantization.equalisation import equalise
    from . import modelfiles

    source = from_job(model)
    equalised = equalise(modelfiles.load(source, from_job(data), Path(code), "student"))
    if not equalised.pairs:
        raise ExportError(
            f"{kind}: no two layers of the student have nothing but ReLU between them",
            "Take 'equalised' out of quantize.recipes.",
        )
    plain = Path(folder).parent / "fp32"
    plain.mkdir()
    draft = drafted(kind, "fp32", plain, exported(kind, equalised.model, source, plain))
    recipe = plugins.exporter(kind).recipes[precision][0]
    return convert_in_child(kind, precision, recipe, to_job(draft), data, calibration, folder)


def exported(kind: str, network: nn.Module, source: Artifact, folder: Path) -> Signature:
    """Write the fp32 file of a network that stands for the model of an artefact."""
    from ..models.build import positional

    if source.signature is None:
        raise TypeError("an artefact of kind `model` has a signature")
    module = positional(network, [spec.name for spec in source.signature.inputs]).eval()
    return plugins.exporter(kind).export(module, source.signature, folder)


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


def keep(
    kind: str,
    precision: Precision,
    tried: list[Trial],
    written: Mapping[str, Signature],
    workspace: Workspace,
) -> Signature:
    """Keep the best file and the table of all; without a `parity.json` it is no result yet.

    Raises:
        ExportError: there is none.
    """
    if not written:
        reasons = "; ".join(f"{trial.recipe}: {trial.failed}" for trial in tried)
        raise ExportError(
            f"{kind}: no recipe gives {precision}: {reasons}",
            f"Take {precision!r} out of export.precisions for this model.",
        )
    best = max((trial for trial in tried if not trial.failed), key=lambda trial: trial.rank)
    shutil.copytree(_files(workspace, best.recipe), workspace.out, dirs_exist_ok=True)
    note = {"chosen": best.recipe, "tried": [asdict(trial) for trial in tried]}
    (workspace.out / RECIPES).write_text(json.dumps(note, indent=1, sort_keys=True))
    about, signature = workspace.describe, written[best.recipe]
    about.kind, about.precision, about.signature = kind, precision, signature
    return signature


def take(
    kind: str,
    precision: Precision,
    tried: list[Trial],
    written: Mapping[str, Signature],
    source: str,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Keep the best file, and the table of all.

    Args:
        kind: the format.
        precision: of the files.
        tried: by recipe.
        written: signatures of the files that were made, by recipe.
        source: the stage whose model they must answer like.
        inputs: artefacts of `data` and the source.
        workspace: where the files are, and where the best goes.

    Raises:
        ExportError: there is none.
        ParityError: the best does not answer like the model.
    """
    signature = keep(kind, precision, tried, written, workspace)
    try:
        finish(kind, precision, signature.to_json(), source, inputs, workspace)
    except ParityError as error:
        said = ", ".join(
            f"{trial.recipe} {trial.failed or f'{trial.accuracy:.1%}'}" for trial in tried
        )
        hint = "quantize: {recover: qad} fine-tunes the student for int8"
        raise ParityError(f"{error.message}; tried: {said}", hint) from error
