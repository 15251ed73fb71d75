"""`edgedistill benchmark`: files and bundles, timed against one another on a target."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plugins, proof
from .bundle import open_bundle
from .contracts import Artifact
from .errors import ConfigError, TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .contracts import Arrays, Session, Target

SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".tflite": "tflite", ".pte": "executorch"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to measure.

    Attributes:
        name: unique in the table.
        artifact: the model.
        feeds: golden inputs of a bundle, `(N, ...)`; None for a bare file.
        targets: golden labels `(N,)`; None for a bare file.
    """

    name: str
    artifact: Artifact
    feeds: Arrays | None = None
    targets: Any = None


def benchmark(
    paths: Sequence[Path],
    targets: Sequence[str],
    threads: int,
    seconds: float,
    progress: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:
    """Measure models; all candidates of a target are timed in interleaved rounds.

    Args:
        paths: .onnx, .xml, .tflite, .pte files and .edge.zip bundles.
        targets: names of target plugins.
        threads: worker threads of each runtime.
        seconds: measuring time per candidate.
        progress: called as `progress(done, total, note)`.

    Returns:
        One record per candidate and target, in the shape of the report's measurements, with
        `name`, and for a bundle `golden_accuracy` over its `golden_samples`.

    Raises:
        ConfigError: a file is of no known kind.
        TargetError: a runtime refused a file.
    """
    records = []
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        found = _unique(c for path in paths for c in _candidates(path, Path(folder)))
        for name in targets:
            records += _measure(plugins.target(name), found, threads, seconds, progress)
    return records


def _candidates(path: Path, folder: Path) -> Iterator[Candidate]:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", hint="give model files or .edge.zip bundles")
    if path.suffix == ".zip":
        bundle = open_bundle(path)
        feeds, golden = bundle.arrays("golden/inputs"), bundle.arrays("golden")
        for entry in bundle.manifest["artifacts"]:
            place = folder / str(len(list(folder.iterdir())))
            artifact = proof.extract(bundle, entry, place)
            yield Candidate(
                f"{bundle.manifest['name']}/{entry['name']}", artifact, feeds, golden["targets"]
            )
    elif path.suffix in SUFFIXES:
        files = {path.name: ""}
        kind = SUFFIXES[path.suffix]
        # A bare file has no label of its precision: the runtime says what it can read.
        yield Candidate(path.name, Artifact(kind, "", path.parent, files, None, "", ""))
    else:
        known = ", ".join(SUFFIXES)
        raise ConfigError(f"{path} is of no known kind", hint=f"known: {known} and .edge.zip")


def _unique(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        name, number = candidate.name, 2
        while name in found:
            name, number = f"{candidate.name} ({number})", number + 1
        found[name] = candidate
    return found


def _measure(
    target: Target,
    found: dict[str, Candidate],
    threads: int,
    seconds: float,
    progress: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:
    from .evaluation.latency import LatencySettings, measure

    for name, candidate in found.items():
        if not target.accepts(candidate.artifact.kind):
            raise TargetError(f"{target.name} cannot run {name}: {candidate.artifact.kind}")
    with ExitStack() as stack:
        sessions: dict[str, Session] = {
            name: stack.enter_context(target.open(candidate.artifact, threads))
            for name, candidate in found.items()
        }
        feeds = {name: _feeds(session, found[name]) for name, session in sessions.items()}
        results = measure(sessions, feeds, LatencySettings(seconds=seconds), progress)
        return [
            {
                "name": name,
                "target": target.name,
                "evidence": target.evidence,
                **asdict(session.facts()),
                "latency_ms": results[name].to_json(),
                **_accuracy(session, found[name]),
            }
            for name, session in sessions.items()
        ]


def _feeds(session: Session, candidate: Candidate) -> Arrays:
    """One sample: a golden one, or seeded noise in the shape that the file says."""
    import numpy as np

    if candidate.feeds is not None:
        return {name: value[:1] for name, value in candidate.feeds.items()}
    generator = np.random.default_rng(0)
    feeds = {}
    for spec in session.signature.inputs:
        shape = [size or 1 for size in spec.shape]
        noise = generator.standard_normal(shape)
        feeds[spec.name] = (
            noise.astype(spec.dtype) if "float" in spec.dtype else np.zeros(shape, spec.dtype)
        )
    return feeds


def _accuracy(session: Session, candidate: Candidate) -> dict[str, Any]:
    if candidate.feeds is None:
        return {"golden_accuracy": None, "golden_samples": 0}
    logits = next(iter(session.run(candidate.feeds).values()))
    right = logits.argmax(1) == candidate.targets
    return {"golden_accuracy": float(right.mean()), "golden_samples": len(right)}
