"""Stage `bundle`: pack the chosen artefacts with all that is needed to use and to prove them."""

from __future__ import annotations

import io
import json
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

from .. import bundle as edge
from ..evaluation.parity import GOLDEN_TOLERANCES
from .data import GOLDEN_SAMPLES, load_inputs, spread
from .evaluate import TEACHER, candidates
from .report import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..contracts import Artifact, Workspace

STABLE_FACTS = ("cpu", "architecture", "isa_features", "cores", "os", "python")
POSTPROCESSING = {"kind": "classification", "output": "logits", "activation": "softmax"}


def run(
    config: Mapping[str, Any],
    keep: str,
    reported: tuple[str, ...],
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Write NAME.edge.zip with the selected artefact, or with all of them."""
    found = sorted(candidates(inputs, reported).keys() - {TEACHER})
    verdict = _verdict(inputs)
    names = found if keep == "all" else [verdict["selected"]]
    packed = edge.pack(collect(config, names, reported, inputs))
    (workspace.out / f"{config['name']}.edge.zip").write_bytes(packed)
    workspace.describe.kind = "bundle"


def collect(
    config: Mapping[str, Any],
    names: list[str],
    reported: tuple[str, ...],
    inputs: Mapping[str, Artifact],
) -> dict[str, bytes]:
    """The files of a bundle with the named artefacts; the selected is its default, or the first."""
    verdict, artifacts = _verdict(inputs), candidates(inputs, reported)
    default = verdict["selected"] if verdict["selected"] in names else names[0]
    entries = [_entry(name, artifacts[name], verdict) for name in names]
    manifest = _manifest(config, verdict, entries, default, inputs)
    files = {
        edge.MANIFEST: json.dumps(manifest, indent=1, sort_keys=True).encode(),
        "predict.py": _template("predict.py").encode(),
        "MODEL_CARD.md": _card(manifest, verdict).encode(),
        **_golden(names, inputs),
    }
    for name in names:
        for file in artifacts[name].model_files:
            files[f"models/{name}/{file}"] = (artifacts[name].root / file).read_bytes()
    return files


def _verdict(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads((inputs["select"].root / "verdict.json").read_text())
    return verdict


def _entry(name: str, artifact: Artifact, verdict: Mapping[str, Any]) -> dict[str, Any]:
    measured = next(entry for entry in verdict["artifacts"] if entry["name"] == name)
    return {
        "name": name,
        "format": artifact.kind,
        "precision": artifact.precision,
        "signature": artifact.signature.to_json() if artifact.signature else None,
        "files": [f"models/{name}/{file}" for file in artifact.model_files],
        "digest": artifact.digest,
        "golden_tolerance": GOLDEN_TOLERANCES[artifact.precision],
        "metrics": {
            key: measured[key]
            for key in ("accuracy", "drop", "agreement", "size_bytes", "measurements", "parity")
        },
        "goals": measured["goals"],
        "meets_goals": measured["meets_goals"],
    }


def _manifest(
    config: Mapping[str, Any],
    verdict: Mapping[str, Any],
    entries: list[dict[str, Any]],
    default: str,
    inputs: Mapping[str, Artifact],
) -> dict[str, Any]:
    about = json.loads((inputs["data"].root / "data.json").read_text())
    where = environment(inputs)
    return {
        "schema": edge.SCHEMA,
        "name": config["name"],
        "task": about["task"],
        "default": default,
        "artifacts": entries,
        "labels": about["labels"],
        "preprocessing": about["preprocessing"],
        "postprocessing": POSTPROCESSING,
        "teacher": {key: verdict["teacher"][key] for key in ("model", "parameters", "accuracy")},
        "passed": all(entry["meets_goals"] for entry in entries if entry["name"] == default),
        "environment": {key: where["cpu"][key] for key in STABLE_FACTS if key in where["cpu"]},
        "libraries": where["libraries"],
        "config": dict(config),
        "digests": {stage: artifact.digest for stage, artifact in sorted(inputs.items())},
    }


def _golden(names: list[str], inputs: Mapping[str, Artifact]) -> dict[str, bytes]:
    """A few raw test samples, their model inputs and labels, and every artefact's own outputs."""
    import numpy as np

    data = inputs["data"].root
    evaluation = next(a for stage, a in inputs.items() if stage.startswith("evaluate-"))
    targets = np.load(data / "test" / "targets.npy")
    golden = spread(len(targets), GOLDEN_SAMPLES)
    arrays = {"golden/targets.npy": targets[golden]}
    for key, value in load_inputs(data, "test", GOLDEN_SAMPLES).items():
        arrays[f"golden/inputs/{key}.npy"] = value
        arrays[f"golden/raw/{key}.npy"] = np.load(data / "raw" / f"{key}.npy")
    for name in names:
        outputs = np.load(evaluation.root / "outputs" / f"{name}.npy")
        arrays[f"golden/expected/{name}/logits.npy"] = outputs[golden]
    return {path: _npy(array) for path, array in arrays.items()}


def _npy(array: Any) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _template(name: str) -> str:
    package = __package__.rpartition(".")[0]
    return (package_files(package) / "templates" / name).read_text(encoding="utf-8")


def _card(manifest: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """MODEL_CARD.md: what it is, how good, where measured, how to use it."""
    sizes, teacher = verdict["data"]["sizes"], manifest["teacher"]
    rows = []
    for entry in manifest["artifacts"]:
        metrics = entry["metrics"]
        low, high = (100 * end for end in metrics["accuracy"]["ci95"])
        timed = metrics["measurements"][0]
        rows.append(
            f"| {entry['name']} | {100 * metrics['accuracy']['value']:.1f} %"
            f" ({low:.1f} to {high:.1f}) | {metrics['drop']['value']:+.1f} |"
            f" {timed['latency_ms']['p50']:.3f} ms, {timed['runtime']} {timed['version']},"
            f" {timed['threads']} thread(s) | {metrics['size_bytes'] / 1e3:.1f} kB |"
            f" {'met' if entry['meets_goals'] else 'MISSED'} |"
        )
    lines = [
        f"# {manifest['name']}",
        "",
        f"Task: {manifest['task']} into {len(manifest['labels'])} classes:"
        f" {', '.join(manifest['labels'][:20])}{', ...' if len(manifest['labels']) > 20 else ''}.",
        f"Student `{verdict['student']['model']}`"
        f" ({verdict['student']['parameters']:,} parameters),"
        f" method `{verdict['student']['method']}`, from teacher `{teacher['model']}`"
        f" ({teacher['parameters']:,} parameters, {100 * teacher['accuracy']['value']:.1f} %).",
        f"Data: `{verdict['data']['source']}`, {sizes['train']} training, {sizes['validation']}"
        f" validation and {sizes['test']} test samples.",
        "",
        "| artefact | test accuracy (95 %) | points below the teacher | median latency | size |"
        " goals |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Measured on: {manifest['environment'].get('cpu', 'unknown CPU')}.",
        "Accuracy of int8 files may differ on CPUs with other features; `verify` tells.",
        "",
        "## Use",
        "",
        "`python predict.py INPUT.npy` needs numpy and the runtime of the artefact alone"
        " (executorch brings torch);",
        "`python predict.py --verify` repeats the golden answers.",
        "",
    ]
    return "\n".join(lines)
