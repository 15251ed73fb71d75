"""What a verified bundle is asked to do: repeat its golden answers, and answer new inputs."""

from __future__ import annotations

import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plugins
from .contracts import Artifact, Signature
from .errors import BundleError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .bundle import Bundle
    from .contracts import Array, Arrays, Session

TARGET = "cpu"


def verify(bundle: Bundle) -> list[dict[str, Any]]:
    """Run every artefact on the golden inputs and hold its outputs against the stored ones.

    Returns:
        One record per artefact: name, `ran`, the largest difference relative to the largest
        expected value, the tolerance; `why` and `pip`, the line that installs it, when its
        runtime is missing.

    Raises:
        BundleError: an artefact answers differently, or the pre-processing does.
    """
    _check_preprocessing(bundle)
    return [_verify_artifact(bundle, entry) for entry in bundle.manifest["artifacts"]]


def _verify_artifact(bundle: Bundle, entry: Mapping[str, Any]) -> dict[str, Any]:
    name, missing = entry["name"], plugins.target(TARGET).missing(entry["format"])
    if missing is not None:
        why = f"{', '.join(missing.libraries)} not installed"
        return {"name": name, "ran": False, "why": why, "pip": missing.pip_line}
    with session(bundle, entry) as opened:
        outputs = opened.run(bundle.arrays("golden/inputs"))
    worst = _worst(name, bundle.arrays(f"golden/expected/{name}"), outputs)
    if not worst <= entry["golden_tolerance"]:
        raise BundleError(
            f"{name} does not repeat its golden outputs here: relative difference {worst:.3g},"
            f" allowed {entry['golden_tolerance']:g}",
            "compare the CPU features of this machine with the manifest's environment",
        )
    return {"name": name, "ran": True, "difference": worst, "tolerance": entry["golden_tolerance"]}


def _worst(name: str, expected: Arrays, got: Arrays) -> float:
    """Largest difference of any output, relative to its largest expected value; NaN stays NaN."""
    import numpy as np

    if not expected:
        raise BundleError(f"the bundle holds no golden outputs of {name}", "pack it again")
    differences = []
    for output, wanted in expected.items():
        if output not in got or got[output].shape != wanted.shape:
            raise BundleError(f"{name} gives no {output!r} of shape {wanted.shape}")
        scale = max(1.0, float(np.abs(wanted).max()))
        differences.append(float(np.abs(got[output] - wanted).max()) / scale)
    return float(np.max(differences))


def _check_preprocessing(bundle: Bundle) -> None:
    """The pre-processing that the manifest tells turns the raw samples into the golden inputs."""
    import numpy as np

    from .data.preprocessing import Preprocessing

    spec = Preprocessing.from_json(bundle.manifest["preprocessing"])
    wanted = bundle.arrays("golden/inputs")
    for name, value in spec.apply(bundle.arrays("golden/raw")).items():
        if name not in wanted or not np.array_equal(value, wanted[name]):
            raise BundleError(
                f"pre-processing of {name!r} does not give the golden input", "pack it again"
            )


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
        DataError: a file is no array, its shape does not fit, or a sample has no finite answer.
    """
    from .data.preprocessing import Preprocessing

    entry = bundle.artifact(name)
    preprocessing = Preprocessing.from_json(bundle.manifest["preprocessing"])
    answers: list[dict[str, Any]] = []
    with session(bundle, entry) as opened:
        for path in paths:
            raw = _read(path, bundle)
            logits = next(iter(opened.run(preprocessing.apply(raw)).values()))
            _check_finite(path, logits)
            answers += [_answer(path, row, bundle.manifest["labels"]) for row in logits]
    return answers


def _check_finite(path: Path, logits: Array) -> None:
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise DataError(
            f"{path}: sample {bad[0]} has no answer, its logits are {logits[bad[0]].tolist()[:3]}",
            "look for NaN or extreme values in the input",
        )


def _read(path: Path, bundle: Bundle) -> dict[str, Array]:
    """Raw inputs of a file as batches `(N, ...)`."""
    import numpy as np

    specs = bundle.manifest["preprocessing"]
    if not path.is_file():
        raise DataError(f"there is no file {path}", "give .npy, .npz or image files")
    try:
        if path.suffix in (".npy", ".npz"):
            loaded = np.load(path, allow_pickle=False)
            single = isinstance(loaded, np.ndarray)
            arrays = {next(iter(specs)): loaded} if single else dict(loaded)
        else:
            arrays = {next(iter(specs)): _image(path, next(iter(specs.values())))}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}", "give .npy, .npz or images") from error
    return {name: _batched(path, name, arrays.get(name), spec) for name, spec in specs.items()}


def _batched(path: Path, name: str, array: Array | None, spec: Mapping[str, Any]) -> Array:
    wanted = tuple(spec["raw_shape"])
    if array is not None and array.shape == wanted:
        return array[None]
    if array is not None and array.ndim > len(wanted) and array.shape[1:] == wanted:
        return array
    got = "nothing" if array is None else f"shape {array.shape}"
    raise DataError(f"{path}: input {name!r} has {got}, expected {wanted} or (N, *{wanted})")


def _image(path: Path, spec: Mapping[str, Any]) -> Array:
    """Decoded as the image folders of the training data are."""
    from .data.images import read_image

    shape = tuple(spec["raw_shape"])
    if spec["raw_layout"] not in ("HW", "HWC") or spec["raw_dtype"] != "uint8":
        got = f"{spec['raw_dtype']} {spec['raw_layout'] or 'values'}"
        raise DataError(f"{path}: the model takes {got}, no uint8 images", "give .npy or .npz")
    grayscale = len(shape) == 2 or shape[-1] == 1
    return read_image(path, (shape[0], shape[1]), grayscale).reshape(shape)


def _answer(path: Path, logits: Array, labels: list[str]) -> dict[str, Any]:
    import numpy as np

    shifted = np.exp(logits - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:3]
    likeliest = {labels[i]: float(probabilities[i]) for i in order}
    best = int(order[0])
    return {
        "file": str(path),
        "label": labels[best],
        "probability": float(probabilities[best]),
        "likeliest": likeliest,
    }
