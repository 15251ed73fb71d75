from __future__ import annotations

import json

import numpy as np
import pytest

from edgedistill.pipeline.contracts import TensorSpec
from edgedistill.pipeline.data.preprocessing import InputSpec, Preprocessing
from edgedistill.pipeline.errors import DataError

RNG = np.random.default_rng(0)
MNIST = InputSpec(
    (28, 28), "uint8", "HW", scale=1 / 255, mean=(0.1307,), std=(0.3081,), layout="NCHW"
)
COLOUR = InputSpec(
    (5, 7, 3), "uint8", "HWC", 1 / 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), layout="NCHW"
)


def by_hand(spec: dict, raw: np.ndarray) -> np.ndarray:
    """What a bundle's predict.py does, from the JSON alone; images only."""
    mean = np.array(spec["mean"], np.float32)
    std = np.array(spec["std"], np.float32)
    if spec["raw_layout"] == "CHW":
        mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    x = raw.astype(np.float32) * np.float32(spec["scale"])
    x = (x - mean) / std
    if spec["raw_layout"] == "HW":
        return x[:, None, :, :]
    return x.transpose(0, 3, 1, 2) if spec["raw_layout"] == "HWC" else x


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(MNIST, id="HW"),
        pytest.param(COLOUR, id="HWC"),
        pytest.param(
            InputSpec((3, 5, 7), "uint8", "CHW", 1 / 255, (0.1, 0.2, 0.3), (1.0,), "NCHW"), id="CHW"
        ),
    ],
)
def test_bit_exact_with_a_plain_formula_from_the_json(spec: InputSpec) -> None:
    raw = RNG.integers(0, 256, (4, *spec.raw_shape)).astype(spec.raw_dtype)
    told = json.loads(json.dumps(Preprocessing({"input": spec}).to_json()))
    got = Preprocessing.from_json(told).apply({"input": raw})["input"]
    assert got.dtype == np.float32
    assert got.shape == (4, *spec.shape)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, by_hand(told["input"], raw))


def test_values_against_float64() -> None:
    raw = RNG.integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    exact = (raw / 255.0 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(COLOUR.apply(raw), np.moveaxis(exact, 3, 1), rtol=1e-5, atol=1e-6)


def test_json_form() -> None:
    assert Preprocessing({"input": MNIST}).to_json() == {
        "input": {
            "raw_shape": [28, 28],
            "raw_dtype": "uint8",
            "raw_layout": "HW",
            "scale": 0.00392156862745098,
            "mean": [0.1307],
            "std": [0.3081],
            "layout": "NCHW",
            "dtype": "float32",
        }
    }


@pytest.mark.parametrize("spec", [MNIST, COLOUR, InputSpec((9,), "float64")], ids=str)
def test_json_round_trip(spec: InputSpec) -> None:
    preprocessing = Preprocessing({"a": spec, "b": MNIST})
    again = Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json())))
    assert again == preprocessing
    assert list(again.inputs) == ["a", "b"]


def test_plain_arrays_are_left_alone() -> None:
    raw = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(InputSpec((4, 5), "float32").apply(raw), raw)


def test_plain_arrays_may_be_scaled_by_feature() -> None:
    spec = InputSpec((2, 3), "float64", mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0))
    raw = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(spec.apply(raw), (raw - [1, 2, 3]) / [1, 1, 2])


def test_tokens_stay_integers() -> None:
    spec = InputSpec((4,), "uint16", dtype="int64")
    got = spec.apply(np.array([[1, 2, 3, 65535]], np.uint16))
    assert (got.dtype, got.tolist()) == (np.int64, [[1, 2, 3, 65535]])


def test_shapes_and_signature() -> None:
    preprocessing = Preprocessing({"image": COLOUR, "extra": InputSpec((4,), "float32")})
    assert preprocessing.shapes() == {"image": (3, 5, 7), "extra": (4,)}
    assert preprocessing.tensor_specs() == (
        TensorSpec("image", (None, 3, 5, 7), "float32", "NCHW"),
        TensorSpec("extra", (None, 4), "float32", ""),
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param({}, r"Inputs are \[\], expected \['input'\]", id="name"),
        pytest.param({"input": np.zeros((1, 27, 28), np.uint8)}, r"\(27, 28\)", id="shape"),
        pytest.param({"input": np.zeros((1, 28, 28))}, "of float64, not .* of uint8", id="dtype"),
    ],
)
def test_raw_values_must_be_of_the_told_make(raw: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing({"input": MNIST}).apply(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"std": [0.0]}, "zero or not finite", id="std 0"),
        pytest.param({"scale": 0.0}, "zero or not finite", id="scale 0"),
        pytest.param({"mean": [float("nan")]}, "zero or not finite", id="mean nan"),
        pytest.param({"mean": [0.1, 0.2]}, "mean has 2 values, expected 1 or 3", id="channels"),
        pytest.param({"std": []}, "std has 0 values", id="no std"),
        pytest.param({"raw_layout": "HW"}, "one letter per axis", id="short layout"),
        pytest.param({"raw_layout": "HHC"}, "must be N and then", id="other letters"),
        pytest.param({"raw_layout": "HHC", "layout": "NCHH"}, "repeats a letter", id="twice"),
        pytest.param({"layout": "HWCN"}, "must be N and then", id="batch axis last"),
        pytest.param({"layout": ""}, "both be given or both be empty", id="one layout"),
        pytest.param({"dtype": "int64"}, "need a float dtype", id="scaled integers"),
        pytest.param({"dtype": "float31"}, "not the name of a NumPy dtype", id="dtype"),
        pytest.param({"raw_dtype": "object"}, "is not a number", id="object"),
        pytest.param({"raw_shape": 5}, "wrong type", id="shape no list"),
        pytest.param({"mean": "0.1"}, "wrong type", id="mean no list"),
        pytest.param({"colour": 1}, r"unknown keys \['colour'\]", id="unknown"),
    ],
)
def test_specs_that_contradict_themselves(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        InputSpec.from_json({**COLOUR.to_json(), **change})


@pytest.mark.parametrize("junk", [None, [], "x", {"input": 3}, {"input": {}}], ids=str)
def test_json_that_is_none(junk: object) -> None:
    with pytest.raises(DataError, match="Preprocessing"):
        Preprocessing.from_json(junk)
