"""What a verified bundle is asked to do: repeat its golden answers, and answer new inputs."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plugins
from .contracts import Artifact, Signature
from .errors import BundleError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .bundle import Bundle
    from .contracts import Array, Session

TARGET = "cpu"


def verify(bundle: Bundle) -> list[dict[str, Any]]:
    """Run every artefact on the golden inputs and hold its outputs against the stored ones.

    Returns:
        One record per artefact: name, `ran`, the largest difference relative to the largest
        expected value, the tolerance; `why` when its runtime is not installed.

    Raises:
        BundleError: an artefact answers differently.
    """
    return [_verify_artifact(bundle, entry) for entry in bundle.manifest["artifacts"]]


def _verify_artifact(bundle: Bundle, entry: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np

    name, missing = entry["name"], plugins.target(TARGET).missing(entry["format"])
    if missing is not None:
        why = f"{', '.join(missing.libraries)} not installed: {missing.pip_line}"
        return {"name": name, "ran": False, "why": why}
    with session(bundle, entry) as opened:
        outputs = opened.run(bundle.arrays("golden/inputs"))
    worst = 0.0
    for output, expected in bundle.arrays(f"golden/expected/{name}").items():
        scale = max(1.0, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(outputs[output] - expected).max()) / scale)
    if not worst <= entry["golden_tolerance"]:
        raise BundleError(
            f"{name} does not repeat its golden outputs here: relative difference {worst:.3g},"
            f" allowed {entry['golden_tolerance']:g}",
            "compare the CPU features of this machine with the manifest's environment",
        )
    return {
        "name": name, "ran": True, "difference": worst, "tolerance": entry["golden_tolerance"]
    }


@contextmanager
def session(bundle: Bundle, entry: Mapping[str, Any], threads: int = 1) -> Iterator[Session]:
    """An artefact of a bundle, unpacked into a temporary folder and opened on this host."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        artifact = extract(bundle, entry, Path(folder))
        with plugins.target(TARGET).open(artifact, threads) as opened:
            yield opened


def extract(bundle: Bundle, entry: Mapping[str, Any], folder: Path) -> Artifact:
    """Write an artefact's files below `folder`."""
    prefix = f"models/{entry['name']}/"
    files = {name.removeprefix(prefix): "" for name in bundle.files if name.startswith(prefix)}
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle.files[prefix + name])
    signature = Signature.from_json(entry["signature"])
    return Artifact(entry["format"], entry["precision"], folder, files, signature, "", "")


def predict(bundle: Bundle, paths: list[Path], name: str | None = None) -> list[dict[str, Any]]:
    """Answer raw inputs: .npy arrays (one sample or a batch), .npz (several inputs), or images.

    Returns:
        One record per sample: file, label, probability, and the three likeliest labels.

    Raises:
        DataError: a file is no array, or its shape does not fit.
    """
    from .data.preprocessing import Preprocessing

    entry = bundle.artifact(name)
    preprocessing = Preprocessing.from_json(bundle.manifest["preprocessing"])
    answers: list[dict[str, Any]] = []
    with session(bundle, entry) as opened:
        for path in paths:
            raw = _read(path, bundle)
            logits = next(iter(opened.run(preprocessing.apply(raw)).values()))
            answers += [_answer(path, row, bundle.manifest["labels"]) for row in logits]
    return answers


def _read(path: Path, bundle: Bundle) -> dict[str, Array]:
    """Raw inputs of a file as batches `(N, ...)`."""
    import numpy as np

    specs = bundle.manifest["preprocessing"]
    if not path.is_file():
        raise DataError(f"there is no file {path}", "give .npy, .npz or image files")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        elif path.suffix == ".npy":
            arrays = {next(iter(specs)): np.load(path, allow_pickle=False)}
        else:
            arrays = {next(iter(specs)): _image(path, next(iter(specs.values())))}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", "give .npy, .npz or images") from error
    return {name: _batched(path, name, arrays.get(name), spec) for name, spec in specs.items()}


def _batched(path: Path, name: str, array: Array | None, spec: Mapping[str, Any]) -> Array:
    wanted = tuple(spec["raw_shape"])
    if array is not None and array.shape == wanted:
        return array[None]
    if array is not None and array.shape[1:] == wanted:
        return array
    got = "nothing" if array is None else f"shape {array.shape}"
    raise DataError(f"{path}: input {name!r} has {got}, expected {wanted} or (N, *{wanted})")


def _image(path: Path, spec: Mapping[str, Any]) -> Array:
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"reading the image {path} needs pillow", "pip install pillow") from error
    shape = spec["raw_shape"]
    with Image.open(path) as image:
        ready = image.convert("L" if len(shape) == 2 or shape[-1] == 1 else "RGB")
        array = np.asarray(ready.resize((shape[1], shape[0])), dtype=spec["raw_dtype"])
    return array.reshape(shape)


def _answer(path: Path, logits: Array, labels: list[str]) -> dict[str, Any]:
    import numpy as np

    shifted = np.exp(logits - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:3]
    likeliest = {labels[i]: float(probabilities[i]) for i in order}
    best = int(order[0])
    return {
        "file": str(path), "label": labels[best], "probability": float(probabilities[best]),
        "likeliest": likeliest,
    }
