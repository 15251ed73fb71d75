from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgedistill.pipeline.data.dataset import Dataset, Split, validate
from edgedistill.pipeline.data.preprocessing import InputSpec, Preprocessing
from edgedistill.pipeline.data.splitting import stratified_split
from edgedistill.pipeline.errors import DataError


def split(n: int = 6, shape: tuple[int, ...] = (4,), dtype: str = "float32") -> Split:
    return Split({"input": np.ones((n, *shape), dtype)}, np.arange(n) % 3)


def dataset(**changes) -> Dataset:
    preprocessing = Preprocessing({"input": InputSpec((4,), "float32")})
    parts = {"train": split(), "validation": split(3), "test": split(3)}
    return Dataset(
        **{**parts, "labels": ("a", "b", "c"), "preprocessing": preprocessing, **changes}
    )


def with_targets(targets: object) -> Split:
    return Split({"input": np.ones((3, 4), np.float32)}, np.asarray(targets))


def spoiled(value: float) -> Split:
    values = np.ones((5, 4), np.float32)
    values[3, 2] = values[4, 0] = value
    return Split({"input": values}, np.zeros(5, int))


def part64(value: float) -> Split:
    return Split({"input": np.array([[0.0] * 4] * 3 + [[value] * 4])}, np.zeros(4, int))


def test_sound_data_passes() -> None:
    data = dataset()
    validate(data)
    assert data.num_classes == 3
    assert {name: len(part) for name, part in data.splits().items()} == {
        "train": 6,
        "validation": 3,
        "test": 3,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"validation": spoiled(np.nan)},
            r"'validation': input 'input', sample 3: NaN or infinite values in fp32 \(and 1 more",
            id="nan",
        ),
        pytest.param({"test": spoiled(-np.inf)}, "'test': input 'input', sample 3", id="inf"),
        pytest.param(
            {name: part64(1e300) for name in ("train", "validation", "test")},
            "'train': input 'input', sample 3: NaN or infinite values in fp32",
            id="beyond fp32",
        ),
        pytest.param(
            {"preprocessing": Preprocessing({"../x": InputSpec((4,), "float32")})},
            r"input name '\.\./x' is no identifier",
            id="input name",
        ),
        pytest.param({"train": split(0)}, "split 'train': it is empty", id="empty"),
        pytest.param(
            {"test": replace(split(), targets=np.zeros(5, int))},
            r"'test': input 'input' has shape \(6, 4\) for targets \(5,\)",
            id="lengths",
        ),
        pytest.param(
            {"test": with_targets([0, 3, 7])},
            r"target 3 of sample 1: expected 0 to 2 \(3 classes\) \(and 1 more",
            id="label too large",
        ),
        pytest.param({"test": with_targets([0, 1, -1])}, "target -1 of sample 2", id="negative"),
        pytest.param({"test": with_targets([0.0, 1, 2])}, "float64, expected integers", id="float"),
        pytest.param({"test": with_targets(np.eye(3, dtype=int))}, "one-hot", id="one-hot"),
        pytest.param({"test": with_targets(1)}, r"targets are \(\)", id="scalar"),
        pytest.param(
            {"test": split(shape=(5,))}, r"'test' has inputs .*\(5,\), expected", id="shape"
        ),
        pytest.param(
            {"test": split(dtype="float64")}, "float64 .*, expected .*float32", id="dtype"
        ),
        pytest.param(
            {"test": Split({"other": np.ones((3, 4), np.float32)}, np.arange(3))},
            "'test' has inputs other: .*, expected input:",
            id="names",
        ),
        pytest.param({"test": Split({}, np.arange(3))}, "has inputs none", id="no input"),
        pytest.param({"test": split(dtype="object")}, "object, expected numbers", id="objects"),
        pytest.param({"labels": ("a",)}, r"1 class \['a'\], expected at least 2", id="one class"),
        pytest.param({"labels": ("a", "b", "a")}, r"\['a'\] name more than one", id="duplicates"),
    ],
)
def test_each_fault(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate(dataset(**changes))


def test_all_faults_at_once() -> None:
    with pytest.raises(DataError, match=r"\(3 faults\)") as caught:
        validate(dataset(train=split(0), validation=spoiled(np.nan), test=with_targets([9, 0, 0])))
    assert all(name in caught.value.message for name in ("'train'", "'validation'", "'test'"))


def test_split_is_a_partition() -> None:
    targets = np.random.default_rng(0).integers(0, 4, 1000)
    parts = stratified_split(targets, (0.6, 0.15, 0.25), seed=3)
    assert sorted(np.concatenate(parts)) == list(range(1000))


def test_split_is_stratified_and_shuffled() -> None:
    targets = np.repeat([0, 1, 2], [100, 200, 400])
    parts = stratified_split(targets, (0.5, 0.2, 0.3), seed=3)
    counts = [np.bincount(targets[part]).tolist() for part in parts]
    assert counts == [[50, 100, 200], [20, 40, 80], [30, 60, 120]]
    assert len(np.unique(targets[parts[2]][:20])) == 3


def test_the_seed_decides_the_split() -> None:
    targets = np.arange(100) % 2
    first, again, other = (stratified_split(targets, (1, 1), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert set(first[0]) != set(other[0])


def test_the_split_is_pinned() -> None:
    first, second = stratified_split(np.arange(10) % 2, (3, 2), seed=7)
    assert first.tolist() == [3, 1, 5, 4, 6, 0]
    assert second.tolist() == [8, 7, 9, 2]


def test_train_gets_a_sample_of_every_class() -> None:
    train, *_ = stratified_split(np.array([0] * 50 + [1]), (0.4, 0.3, 0.3), seed=0)
    assert 50 in train


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, -0.1)], ids=str)
def test_shares_must_be_positive(shares: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="Shares"):
        stratified_split(np.arange(10), shares, seed=0)
