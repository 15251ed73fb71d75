"""Checks of what is fed, and the cutting of batches."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill.pipeline.contracts import TensorSpec
from edgedistill.pipeline.errors import TargetError
from edgedistill.targets.feeds import CHUNK, check_feeds, file_batch, join, rename, split

IMAGE = TensorSpec("image", (None, 1, 8, 8), "float32")
TOKENS = TensorSpec("tokens", (None, 3), "int32")


def image(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, [r"input 'image' is missing", r"got \[\], expected \['image'\]"]),
        ({"img": image(1, 1, 8, 8)}, ["'image' is missing", "'img' is no input of this model"]),
        ({"image": image(1, 8, 8, 1)}, [r"got float32 \(1, 8, 8, 1\)", r"float32 \(N, 1, 8, 8\)"]),
        ({"image": image(1, 64)}, [r"got float32 \(1, 64\)"]),
        ({"image": image(0, 1, 8, 8)}, [r"\(0, 1, 8, 8\)", "N >= 1"]),
        ({"image": np.float32(3)}, [r"got float32 \(\)"]),
        ({"image": image(1, 1, 8, 8, dtype=np.float64)}, ["got float64", "expected float32"]),
        ({"image": image(1, 1, 8, 8, dtype=np.int64)}, ["got int64", "expected float32"]),
        ({"image": image(1, 1, 8, 8, dtype=object)}, ["got object"]),
    ],
)
def test_wrong_feeds_are_named(feeds, words):
    for word in words:
        with pytest.raises(TargetError, match=word):
            check_feeds(feeds, [IMAGE])


def test_the_hint_says_how_to_cast():
    with pytest.raises(TargetError) as caught:
        check_feeds({"image": image(1, 1, 8, 8, dtype=np.float64)}, [IMAGE])
    assert "astype('float32')" in caught.value.hint


def test_batches_must_agree():
    feeds = {"image": image(2, 1, 8, 8), "tokens": np.zeros((3, 3), np.int32)}
    with pytest.raises(TargetError, match=r"different batch sizes: \{'image': 2, 'tokens': 3\}"):
        check_feeds(feeds, [IMAGE, TOKENS])


def test_integers_are_narrowed_only_if_they_fit():
    fits = np.array([[1, -2, 2**31 - 1]])
    checked = check_feeds({"tokens": fits}, [TOKENS])["tokens"]
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, fits)
    with pytest.raises(TargetError, match="got int64"):
        check_feeds({"tokens": np.array([[1, 2, 2**31]])}, [TOKENS])


def test_layout_in_memory_does_not_matter():
    fortran = np.asfortranarray(np.arange(128, dtype=np.float32).reshape(2, 1, 8, 8))
    checked = check_feeds({"image": fortran}, [IMAGE])["image"]
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, fortran)


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("total", [1, 4, 7, CHUNK, CHUNK + 1])
def test_split_and_join_are_inverse(batch, total):
    feeds = {"x": np.arange(total * 2, dtype=np.float32).reshape(total, 2)}
    pieces = list(split(feeds, batch))
    sizes = {len(piece["x"]) for piece, _ in pieces}
    assert sizes == {batch} if batch else max(sizes) <= CHUNK
    outputs = [([piece["x"] * 2], count) for piece, count in pieces]
    (joined,) = join(outputs, [TensorSpec("y", (None, 2), "float32")])
    np.testing.assert_array_equal(joined, feeds["x"] * 2)


def test_an_output_without_rows_is_refused():
    outputs = [([np.zeros(1, np.float32)], 4)]
    with pytest.raises(TargetError, match=r"output 'y' has shape \(1\) for 4 samples"):
        join(outputs, [TensorSpec("y", (None,), "float32")])


def test_file_batch():
    fixed = TensorSpec("fixed", (4, 3), "float32")
    assert file_batch([IMAGE]) is None
    assert file_batch([IMAGE, fixed]) == 4
    with pytest.raises(TargetError, match="fixed to different batch sizes"):
        file_batch([fixed, TensorSpec("other", (2,), "float32")])
    with pytest.raises(TargetError, match="'scale' is a scalar"):
        file_batch([TensorSpec("scale", (), "float32")])


def test_rename_by_name_else_by_order():
    def named(*names):
        return [TensorSpec(name, (None,), "float32") for name in names]

    assert rename(named("a", "b"), named("b", "a"), "inputs") == {"a": "a", "b": "b"}
    assert rename(named("a", "b"), named("x", "y"), "inputs") == {"a": "x", "b": "y"}
    with pytest.raises(TargetError, match="the file has 1 inputs"):
        rename(named("a", "b"), named("x"), "inputs")
