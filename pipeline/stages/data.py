"""Stage `data`: load the source once, check it, and store model inputs as plain .npy files.

Later stages and child processes then need NumPy alone, and never the user's code. The digest of
this artefact stands for the data everywhere: the same samples from other code re-run nothing.

    data.json                     names, shapes, labels, pre-processing, sizes
    {train,validation,test}/      <input>.npy `(N, ...)` model inputs; targets.npy `(N,)` int64
    raw/                          <input>.npy: the golden test samples before pre-processing
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..contracts import Artifact, Signature, TensorSpec, Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ..data.dataset import Dataset

SPLITS = ("train", "validation", "test")
GOLDEN_SAMPLES = 16


def run(
    source: str,
    options: Mapping[str, Any],
    root: Path,
    inputs: Mapping[str, Artifact],
    workspace: Workspace,
) -> None:
    """Materialise the splits.

    Raises:
        DataError: the data breaks its contract.
    """
    from ..data.load import load_data

    write(load_data({"source": source, "options": options}, root), source, workspace.out)
    workspace.describe.kind = "data"


def write(dataset: Dataset, source: str, out: Path) -> None:
    """Store a checked dataset below `out`."""
    import numpy as np

    for name in SPLITS:
        split = getattr(dataset, name)
        (out / name).mkdir()
        for key, value in dataset.preprocessing.apply(split.inputs).items():
            np.save(out / name / f"{key}.npy", value)
        np.save(out / name / "targets.npy", split.targets.astype(np.int64))
    (out / "raw").mkdir()
    golden = spread(len(dataset.test.targets), GOLDEN_SAMPLES)
    for key, value in dataset.test.inputs.items():
        np.save(out / "raw" / f"{key}.npy", np.ascontiguousarray(value[golden]))
    about = {
        "source": source,
        "task": "classification",
        "inputs": [asdict(spec) for spec in dataset.preprocessing.tensor_specs()],
        "labels": list(dataset.labels),
        "preprocessing": dataset.preprocessing.to_json(),
        "sizes": {name: len(getattr(dataset, name).targets) for name in SPLITS},
    }
    (out / "data.json").write_text(json.dumps(about, indent=1, sort_keys=True))


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Indices of `count` samples spread evenly over `total`: splits may be sorted by class."""
    import numpy as np

    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def load_inputs(data: Path, split: str, count: int | None = None) -> dict[str, Any]:
    """Model inputs of a split by name, `(N, ...)`; with a count, that many spread over it."""
    import numpy as np

    names = [spec["name"] for spec in json.loads((data / "data.json").read_text())["inputs"]]
    arrays = {name: np.load(data / split / f"{name}.npy", mmap_mode="r") for name in names}
    if count is None:
        return arrays
    index = spread(len(arrays[names[0]]), count)
    return {name: array[index] for name, array in arrays.items()}


def signature(about: Mapping[str, Any]) -> Signature:
    """What a classifier of this data takes and gives, the batch axis free."""
    specs = tuple(TensorSpec.from_json(spec) for spec in about["inputs"])
    logits = TensorSpec("logits", (None, len(about["labels"])), "float32", "NC")
    return Signature(specs, (logits,))
