"""Stage `evaluate-TARGET`: every artefact on the target's own runtimes, over the whole test split.

measurements.json     by artefact (and `teacher`): runtime, threads, precision, latency, memory
outputs/NAME.npy      its logits `(N, C)` on the test split
latency/NAME.npy      milliseconds of its single inferences, thinned for pictures
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..errors import TargetError
from .data import load_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..contracts import Artifact, Session, Target, Workspace
    from ..evaluation.latency import LatencyResult

KEPT_SAMPLES = 2000
_DEPLOYABLE = ("export-", "quantize-", "recover-")
TEACHER = "teacher"


def candidates(inputs: Mapping[str, Artifact], reported: tuple[str, ...]) -> dict[str, Artifact]:
    """Deployable artefacts by name, such as `onnx-int8`; the exported teacher as `teacher`."""
    found = {}
    for stage, artifact in inputs.items():
        if stage == "export-teacher":
            found[TEACHER] = artifact
        elif (
            stage.startswith(_DEPLOYABLE) and _checked(artifact) and artifact.precision in reported
        ):
            # What was recovered comes later and takes the place of what was not.
            found[f"{artifact.kind}-{artifact.precision}"] = artifact
    return found


def _checked(artifact: Artifact) -> bool:
    """Whether it was held against its source; `recover` replaces what was not."""
    return (artifact.root / "parity.json").exists()


def run(
    target_name: str,
    threads: int,
    seconds: float,
    reported: tuple[str, ...],
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Measure accuracy and latency; all artefacts are timed in interleaved rounds.

    Args:
        target_name: the target plugin.
        threads: worker threads of each runtime.
        seconds: measuring time per artefact.
        reported: precisions that the config asks for.
        inputs: `data` and every export that succeeded.
        workspace: where to work.

    Raises:
        TargetError: nothing can run there, or a runtime failed.
    """
    target, data = plugins.target(target_name), inputs["data"]
    found = candidates(inputs, reported)
    if not set(found) - {TEACHER}:
        raise TargetError("no exported artefact is left to measure", "mend the failed exports")
    _save_outputs(target, found, threads, load_inputs(data.root, "test"), workspace)
    with ExitStack() as stack:  # fresh workers: peak memory and first inference of batch 1 alone
        sessions = {
            name: stack.enter_context(target.open(artifact, threads))
            for name, artifact in found.items()
        }
        results = _time(sessions, data.root, seconds, workspace)
        measurements = {
            name: {
                "target": target_name,
                "evidence": target.evidence,
                **_measurement(session, name, found[name], results),
            }
            for name, session in sessions.items()
        }
    note = {"machine": target.facts(), "measurements": measurements}
    (workspace.out / "measurements.json").write_text(json.dumps(note, indent=1, sort_keys=True))
    _save_latencies(results, workspace.out / "latency")
    workspace.describe.kind = "measurements"


def _save_outputs(
    target: Target,
    found: Mapping[str, Artifact],
    threads: int,
    inputs: dict[str, Any],
    workspace: Workspace,
) -> None:
    import numpy as np

    folder = workspace.out / "outputs"
    folder.mkdir()
    for number, (name, artifact) in enumerate(found.items()):
        workspace.progress(number, 2 * len(found), f"accuracy of {name}")
        with target.open(artifact, threads) as session:
            outputs = session.run(inputs)
        np.save(folder / f"{name}.npy", next(iter(outputs.values())))


def _time(
    sessions: Mapping[str, Session], data: Path, seconds: float, workspace: Workspace
) -> dict[str, LatencyResult]:
    from ..evaluation.latency import LatencySettings, measure

    one = load_inputs(data, "test", 1)
    count = len(sessions)

    def progress(done: int, total: int, note: str) -> None:
        workspace.progress(count + round(count * done / total), 2 * count, note)

    settings = LatencySettings(seconds=seconds, warmup_seconds=seconds)
    return measure(sessions, dict.fromkeys(sessions, one), settings, progress)


def _measurement(
    session: Session, name: str, artifact: Artifact, results: Mapping[str, LatencyResult]
) -> dict[str, Any]:
    plain = f"{artifact.kind}-fp32"
    reduced = artifact.precision != "fp32"
    return {
        **asdict(session.facts()),
        "latency_ms": results[name].to_json(),
        "speedup": _ratio(results, TEACHER, name) if name != TEACHER else None,
        "latency_ratio": _ratio(results, name, plain) if reduced else None,
    }


def _ratio(results: Mapping[str, LatencyResult], a: str, b: str) -> dict[str, Any] | None:
    """Median of `a` over median of `b` with its interval; None unless both were measured."""
    from ..evaluation.latency import ratio

    if a not in results or b not in results:
        return None
    return ratio(results[a], results[b]).to_json()


def _save_latencies(results: Mapping[str, LatencyResult], folder: Path) -> None:
    import numpy as np

    folder.mkdir()
    for name, result in results.items():
        samples = result.samples * 1e3
        thin = samples[:: max(1, len(samples) // KEPT_SAMPLES)]
        np.save(folder / f"{name}.npy", thin.astype(np.float32))
