from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.pipeline.data.load import data_files, load_data
from edgedistill.pipeline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.pipeline.data.dataset import Dataset

RNG = np.random.default_rng(0)
SPLITS = ("train", "validation", "test")


def arrays(shape: tuple[int, ...] = (6,), dtype: str = "float32") -> dict[str, np.ndarray]:
    content = {}
    for name in SPLITS:
        content[f"x_{name}"] = RNG.integers(0, 256, (4, *shape)).astype(dtype)
        content[f"y_{name}"] = np.array([0, 1, 2, 1])
    return content


def load(folder: Path, content: dict[str, np.ndarray], **options) -> Dataset:
    np.savez(folder / "x.npz", **content)
    return load_data({"source": "arrays", "options": {"path": "x.npz", **options}}, folder)


def test_floats_reach_the_model_as_they_are(tmp_path: Path) -> None:
    content = arrays()
    data = load(tmp_path, content)
    np.testing.assert_array_equal(data.test.inputs["input"], content["x_test"])
    np.testing.assert_array_equal(
        data.preprocessing.apply(data.test.inputs)["input"], content["x_test"]
    )
    assert data.labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("shape", "dtype", "expected", "scale"),
    [
        pytest.param((8, 9), "uint8", (1, 8, 9), 1 / 255, id="grey images"),
        pytest.param((8, 9, 3), "uint8", (3, 8, 9), 1 / 255, id="colour images"),
        pytest.param((3, 8, 9), "float32", (3, 8, 9), 1.0, id="float images"),
        pytest.param((8, 9), "float32", (8, 9), 1.0, id="sequences"),
        pytest.param((8,), "uint8", (8,), 1.0, id="bytes"),
    ],
)
def test_what_is_guessed(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, expected: tuple[int, ...], scale: float
) -> None:
    spec = load(tmp_path, arrays(shape, dtype)).preprocessing.inputs["input"]
    assert (spec.shape, spec.scale) == (expected, scale)


def test_what_is_told_wins(tmp_path: Path) -> None:
    told = {"layout": "CHW", "scale": 0.5, "mean": [1.0, 2.0], "std": [2.0]}
    content = arrays((2, 4, 3), "uint8")
    data = load(tmp_path, content, **told)
    expected = (content["x_test"] * 0.5 - np.array([1, 2]).reshape(2, 1, 1)) / 2
    np.testing.assert_allclose(data.preprocessing.apply(data.test.inputs)["input"], expected)
    assert load(tmp_path, content, layout="none").preprocessing.shapes() == {"input": (2, 4, 3)}


def test_several_inputs_with_own_settings_and_labels(tmp_path: Path) -> None:
    content = {"labels": np.array(["cat", "dog", "owl"])}
    for name in SPLITS:
        content[f"x_{name}.image"] = np.full((3, 4, 4), 255, np.uint8)
        content[f"x_{name}.tokens"] = np.arange(6, dtype=np.int32).reshape(3, 2)
        content[f"y_{name}"] = np.arange(3)
    data = load(tmp_path, content, mean=[0.5], inputs={"tokens": {"dtype": "int64"}})
    got = data.preprocessing.apply(data.train.inputs)
    assert data.labels == ("cat", "dog", "owl")
    assert (got["image"].shape, set(got["image"].ravel())) == ((3, 1, 4, 4), {0.5})
    assert (got["tokens"].dtype, got["tokens"].tolist()) == (np.int64, [[0, 1], [2, 3], [4, 5]])


def test_the_file_decides_the_data(tmp_path: Path) -> None:
    spec = {"source": "arrays", "options": {"path": "x.npz"}}
    with pytest.raises(DataError, match=r"no data file .*x\.npz"):
        data_files(spec, tmp_path)
    (tmp_path / "x.npz").touch()
    assert data_files(spec, tmp_path) == (tmp_path / "x.npz",)


def test_the_contract_is_checked(tmp_path: Path) -> None:
    content = arrays()
    content["x_validation"][2, 1] = np.nan
    with pytest.raises(DataError, match="'validation': input 'input', sample 2"):
        load(tmp_path, content)


def test_missing_keys_list_what_is_there(tmp_path: Path) -> None:
    content = arrays()
    del content["y_test"], content["x_test"]
    with pytest.raises(DataError, match=r"x\.npz lacks x_test and y_test") as caught:
        load(tmp_path, content)
    assert "There is: x_train, y_train" in caught.value.hint


def test_settings_of_an_input_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no input 'inputt'") as caught:
        load(tmp_path, arrays(), inputs={"inputt": {}})
    assert "'input'" in caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file .*none\.npz"):
        load_data({"source": "arrays", "options": {"path": "none.npz"}}, tmp_path)


@pytest.mark.parametrize(
    "junk", [b"", b"junk" * 50, b"PK\x03\x04junk"], ids=["empty", "junk", "zip"]
)
def test_junk_file(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(junk)
    with pytest.raises(DataError, match=r"x\.npz is not a readable \.npz file"):
        load_data({"source": "arrays", "options": {"path": "x.npz"}}, tmp_path)


def test_damaged_member(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays((50, 50)))
    damaged = bytearray((tmp_path / "x.npz").read_bytes())
    damaged[5000] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(damaged)
    with pytest.raises(DataError, match="'x_train' is damaged"):
        load_data({"source": "arrays", "options": {"path": "x.npz"}}, tmp_path)


def test_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array") as caught:
        load_data({"source": "arrays", "options": {"path": "x.npy"}}, tmp_path)
    assert "savez" in caught.value.hint


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'x_train' holds Python objects"):
        load(tmp_path, {**arrays(), "x_train": np.array([{}, []], dtype=object)})


def test_targets_that_are_no_integers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float64"):
        load(tmp_path, {**arrays(), "y_train": np.array([0.0, 1, 2, 1])})


def test_labels_must_be_a_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a list of names"):
        load(tmp_path, {**arrays(), "labels": np.array("cat")})


def test_mean_of_a_wrong_length(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mean has 2 values, expected 1 or 6"):
        load(tmp_path, arrays(), mean=[0.1, 0.2])
