"""Stages `recover` and `recover-FORMAT-int8`: quantization-aware distillation, where int8 needs it.

`recover` fine-tunes the student with int8's rounding on, against the teacher, if any format's int8
misses `quantize.accuracy_drop`; `recover-FORMAT-int8` quantizes what came out, for the formats that
missed. The recovered weights lie on the int8 grid: they are no good as fp32 and are never shipped
so. Where everything held, both stages only hand on what there is.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import modelfiles, teachersource
from .export import drafted, finish, from_job, to_job
from .quantize import RECIPES, Search, Trial, exported, in_child, look, take
from .training import loop_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Config
    from ..contracts import Artifact, Precision, Signature, Workspace
    from ..training.loop import LoopSettings

PRECISION: Precision = "int8"
FINE = 0.1  # of the learning rate that the student was trained with


def needed(inputs: Mapping[str, Artifact]) -> bool:
    """Whether the int8 file of some format is missing or lost too much."""
    kinds = [name.removeprefix("export-") for name in inputs if name.startswith("export-")]
    made = (inputs.get(f"quantize-{kind}-{PRECISION}") for kind in kinds)
    return any(artifact is None or not holds(artifact) for artifact in made)


def holds(artifact: Artifact) -> bool:
    """Whether the recipe that was chosen for a file kept the accuracy."""
    note = json.loads((artifact.root / RECIPES).read_text())
    return any(t["holds"] for t in note["tried"] if t["recipe"] == note["chosen"])


def settings_of(config: Config) -> LoopSettings:
    """The student's own training, shorter and at a tenth of its learning rate."""
    own = loop_settings(config.distill, config)
    return replace(own, epochs=config.quantize.epochs, lr=FINE * own.lr, warmup=0.0)


def run(config: Config, root: Path, inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    """Fine-tune the student for int8, or say that nobody needs it.

    Raises:
        ModelError: the student cannot be followed by torch.fx.
        TrainingError: the loss is not finite.
    """
    from ..contracts import Needs

    workspace.describe.kind = "model"
    if not needed(inputs):
        note = {"needed": False, "why": "int8 of every format keeps the accuracy"}
        (workspace.out / "recovered.json").write_text(json.dumps(note))
        return
    from ..quantization.qad import recover
    from ..training.tensors import load_split

    data = inputs["data"]
    student = modelfiles.load(inputs["distill"], data, root, "student")
    network = recover(
        student,
        teachersource.make(config, root, inputs, workspace, student, Needs()),
        load_split(data.root, "train"),
        load_split(data.root, "validation"),
        settings_of(config),
        workspace.scratch,
        workspace.progress,
    )
    spec = json.loads((inputs["distill"].root / "model.json").read_text())["spec"]
    modelfiles.save(workspace, network, spec, data, [], {"method": "qad"})
    (workspace.out / "recovered.json").write_text(json.dumps({"needed": True}))


def requantize(
    kind: str,
    search: Search,
    timeout: float,
    root: Path,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """The int8 file of a format: as it is if it holds, else of the recovered student.

    Args:
        kind: the format.
        search: recipes and goal.
        timeout: seconds for one conversion.
        root: folder of the config, for user code.
        inputs: artefacts of `data`, `distill`, `export-FORMAT`, `recover`; and perhaps
            `quantize-FORMAT-int8`.
        workspace: where to work.

    Raises:
        ExportError: the recovered student cannot be exported, or no recipe gives a file.
        ParityError: the best file does not answer like the recovered student.
    """
    before = inputs.get(f"quantize-{kind}-{PRECISION}")
    if before is not None and holds(before):
        _hand_on(before, workspace)
        return
    shutil.rmtree(workspace.scratch, ignore_errors=True)
    plain = workspace.scratch / "recovered" / "files"
    plain.mkdir(parents=True)
    job = {
        "kind": kind,
        "model": to_job(inputs["recover"]),
        "data": to_job(inputs["data"]),
        "code": str(root),
    }
    written = _in_child(job, plain, timeout)
    source = to_job(drafted(kind, "fp32", plain, written))
    convert = {
        "kind": kind,
        "precision": PRECISION,
        "source": source,
        "data": job["data"],
        "calibration": search.calibration,
    }

    def make(recipe: str, folder: Path) -> Signature:
        return in_child("convert_in_child", {**convert, "recipe": recipe}, folder, timeout)

    tried, made = look(kind, PRECISION, search, make, inputs, workspace)
    if before is not None and _rank(before) >= max(trial.rank for trial in tried):
        _hand_on(before, workspace)
        if before.signature is not None:  # nobody has checked it yet
            finish(kind, PRECISION, before.signature.to_json(), "distill", inputs, workspace)
        return
    take(kind, PRECISION, tried, made, "recover", inputs, workspace)
    _tell_all(before, workspace.out / RECIPES)


def _in_child(job: dict[str, Any], folder: Path, timeout: float) -> Signature:
    from ..child import run_in_child
    from ..contracts import Signature

    function = f"{__name__}:export_in_child"
    arguments = {**job, "folder": str(folder)}
    return Signature.from_json(run_in_child(function, arguments, folder.parent, timeout))


def export_in_child(
    kind: str, model: dict[str, Any], data: dict[str, Any], code: str, folder: str
) -> dict[str, Any]:
    """The fp32 file of the recovered student, for the quantizers alone."""
    recovered = from_job(model)
    network = modelfiles.load_folded(recovered, from_job(data), Path(code))
    return exported(kind, network, recovered, Path(folder)).to_json()


def _hand_on(artifact: Artifact, workspace: Workspace) -> None:
    for name in artifact.files:
        target = workspace.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.root / name, target)
    about = workspace.describe
    about.kind, about.precision = artifact.kind, artifact.precision
    about.signature = artifact.signature


def _tried(artifact: Artifact) -> list[Trial]:
    return [Trial(**t) for t in json.loads((artifact.root / RECIPES).read_text())["tried"]]


def _rank(artifact: Artifact) -> tuple[bool, float, float]:
    return max(trial.rank for trial in _tried(artifact) if not trial.failed)


def _tell_all(before: Artifact | None, file: Path) -> None:
    """Put what was tried before the recovery into the table, too."""
    note = json.loads(file.read_text())
    after = [Trial(**{**t, "recipe": f"qad, {t['recipe']}"}) for t in note["tried"]]
    every = [*(_tried(before) if before is not None else []), *after]
    told = {"chosen": f"qad, {note['chosen']}", "tried": [asdict(trial) for trial in every]}
    file.write_text(json.dumps(told, indent=1, sort_keys=True))
