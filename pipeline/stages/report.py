"""Stage `report`: report.json, report.html with its pictures inside, and summary.md."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..contracts import Artifact, Missing, Workspace

LIBRARIES = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "tensorflow",
    "executorch",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
)


def missing() -> Missing | None:
    """What is not installed to draw a report."""
    from ..reporting.html import missing

    return missing()


def run(inputs: Mapping[str, Artifact], workspace: Workspace) -> None:
    """Write the report of a run."""
    from .. import __name__ as package
    from ..reporting.html import render_html
    from ..reporting.summary import render_summary

    verdict = json.loads((inputs["select"].root / "verdict.json").read_text())
    report = {
        **verdict,
        "edgedistill": version(package.split(".")[0]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(inputs),
        "failures": [{"stage": k, "message": v} for k, v in sorted(workspace.failures.items())],
    }
    out = workspace.out
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True))
    (out / "report.html").write_text(render_html(report, _latencies(inputs)), encoding="utf-8")
    (out / "summary.md").write_text(render_summary(report), encoding="utf-8")
    workspace.describe.kind = "report"


def environment(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """The machine on which it was measured, and the versions of the libraries."""
    note = json.loads((next(_evaluations(inputs)).root / "measurements.json").read_text())
    return {"cpu": note["machine"], "libraries": libraries()}


def libraries() -> dict[str, str]:
    """Versions of what makes and runs the artefacts, where installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _evaluations(inputs: Mapping[str, Artifact]) -> Iterator[Artifact]:
    return (a for stage, a in inputs.items() if stage.startswith("evaluate-"))


def _latencies(inputs: Mapping[str, Artifact]) -> dict[str, list[float]]:
    import numpy as np

    folder = next(_evaluations(inputs)).root / "latency"
    return {path.stem: np.load(path).tolist() for path in sorted(folder.glob("*.npy"))}
