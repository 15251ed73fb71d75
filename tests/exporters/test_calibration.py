"""Calibration feeds and the census of weights, without any converter."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.exporters._files import calibration_feeds, check_weights
from edgedistill.pipeline.contracts import Signature, TensorSpec
from edgedistill.pipeline.errors import ExportError


def takes(*specs):
    return Signature(tuple(TensorSpec(*spec) for spec in specs), ())


def test_free_batch_is_cut_and_the_rest_filled_with_the_last_sample():
    samples = {"x": np.arange(7, dtype=np.float32)[:, None]}
    feeds = list(calibration_feeds("onnx", samples, takes(("x", (None, 1), "float32")), 3))
    assert [feed["x"][:, 0].tolist() for feed in feeds] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]


def test_a_fixed_batch_wins_and_types_follow_the_file():
    samples = {"x": np.arange(4, dtype=np.int64)[:, None]}
    feeds = list(calibration_feeds("tflite", samples, takes(("x", (2, 1), "int32")), 32))
    assert [feed["x"].shape for feed in feeds] == [(2, 1), (2, 1)]
    assert {feed["x"].dtype for feed in feeds} == {np.dtype(np.int32)}


def test_fewer_samples_than_the_batch():
    samples = {"x": np.zeros((2, 1), np.float32)}
    (feed,) = calibration_feeds("onnx", samples, takes(("x", (None, 1), "float32")), 32)
    assert feed["x"].shape == (2, 1)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "lacks input a, b; got nothing"),
        ({"a": np.zeros((3, 2))}, "lacks input b; got a"),
        ({"a": np.zeros((3, 5)), "b": np.zeros((3, 2))}, r"'a' have the shape \(3, 5\)"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}, "a: 3, b: 4"),
        ({"a": np.zeros((0, 2)), "b": np.zeros((0, 2))}, "a: 0, b: 0"),
    ],
)
def test_samples_that_do_not_fit(samples, message):
    signature = takes(("a", (None, 2), "float32"), ("b", (None, 2), "float32"))
    with pytest.raises(ExportError, match=message):
        list(calibration_feeds("onnx", samples, signature, 8))


@pytest.mark.parametrize(
    ("precision", "elements"),
    [
        ("int8", {"float32": 100}),
        ("int8", {"float32": 100, "int8": 99}),
        ("int8", {}),
        ("fp16", {"float32": 100, "int8": 500}),
        ("int8-dynamic", {"float32": 10, "float16": 500}),
    ],
)
def test_a_name_that_promises_too_much(precision, elements):
    with pytest.raises(ExportError, match=precision):
        check_weights("onnx", precision, elements)


@pytest.mark.parametrize(
    ("precision", "elements"),
    [
        ("int8", {"float32": 100, "int8": 60, "uint8": 41}),
        ("fp16", {"float32": 1, "float16": 2}),
        ("int8-dynamic", {"int8": 1}),
    ],
)
def test_a_name_that_is_kept(precision, elements):
    check_weights("onnx", precision, elements)
