"""Views against a slow reference in NumPy that shares no code with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistill.pipeline.errors import DataError
from edgedistill.pipeline.training.tensors import SplitTensors
from edgedistill.pipeline.training.views import Views

SHAPE = (3, 6, 9)  # neither square nor of one channel


def numbered(count: int, shape: tuple[int, ...] = SHAPE) -> SplitTensors:
    """Images that are all different; the target is the number of the sample."""
    size = int(np.prod(shape))
    values = 1 + torch.arange(count * size, dtype=torch.float32).reshape(count, *shape)
    return SplitTensors({"image": values}, torch.arange(count))


def collect(views: Views, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(v.inputs["image"].numpy(), v.targets.numpy()) for v in views.epoch(epoch)]


def moved(image: np.ndarray, down: int, right: int, mirror: bool) -> np.ndarray:
    """One image `(C, H, W)`, mirrored, then moved pixel by pixel; the edge is repeated."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y = min(max(row - down, 0), height - 1)
            x = min(max(column - right, 0), width - 1)
            result[:, row, column] = image[:, y, width - 1 - x if mirror else x]
    return result


def explain(view: np.ndarray, image: np.ndarray, shift: int) -> tuple[int, int, bool]:
    """The one movement that makes `view` of `image`."""
    around = range(-shift, shift + 1)
    found = [
        (down, right, mirror)
        for down in around for right in around for mirror in (False, True)
        if np.array_equal(view, moved(image, down, right, mirror))
    ]  # fmt: skip
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("shift", "flip"), [(2, True), (1, False), (0, True)])
def test_every_view_is_a_shifted_and_mirrored_sample(shift: int, flip: bool) -> None:
    split = numbered(60)
    originals = split.inputs["image"].numpy().copy()
    found = []
    for x, y in collect(Views(split, 16, shift, flip, seed=4), epoch=0):
        assert x.shape == (len(y), *SHAPE)
        found += [explain(v, originals[n], shift) for v, n in zip(x, y, strict=True)]
    downs, rights, mirrors = (set(column) for column in zip(*found, strict=True))
    assert downs == rights == set(range(-shift, shift + 1))
    assert mirrors == ({False, True} if flip else {False})
    assert np.array_equal(split.inputs["image"].numpy(), originals)


def test_shift_and_flip_are_independent_of_each_other() -> None:
    split = numbered(300)
    views = collect(Views(split, 300, 1, True, seed=0), epoch=0)
    originals = split.inputs["image"].numpy()
    found = [explain(v, originals[n], 1) for x, y in views for v, n in zip(x, y, strict=True)]
    assert len(set(found)) == 3 * 3 * 2
    assert 0.4 < np.mean([mirror for _, _, mirror in found]) < 0.6


def test_the_same_seed_and_epoch_give_the_same_views() -> None:
    def made(seed: int, epoch: int) -> np.ndarray:
        views = Views(numbered(32), 8, 2, True, seed)
        list(views.epoch(0))  # what was asked before changes nothing
        torch.manual_seed(seed + epoch + 1)  # nor does the global generator
        return np.concatenate([x for x, _ in collect(views, epoch)])

    first = made(1, 3)
    assert np.array_equal(first, made(1, 3))
    assert not np.array_equal(first, made(1, 4))
    assert not np.array_equal(first, made(2, 3))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("count", [32, 37, 5])
def test_every_sample_comes_once_an_epoch(shift: int, count: int) -> None:
    views = Views(numbered(count), 16, shift, False, seed=0)
    batches = collect(views, 0)
    assert len(batches) == len(views)
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(count))
    assert [y.tolist() for _, y in batches] != [y.tolist() for _, y in collect(views, 1)]


def test_without_augmentation_the_samples_come_as_they_are() -> None:
    split = numbered(20)
    for x, y in collect(Views(split, 8, 0, False, seed=0), 0):
        assert np.array_equal(x, split.inputs["image"].numpy()[y])


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    views = Views(numbered(33), 16, 0, False, seed=0)
    assert [len(y) for _, y in collect(views, 0)] == [16, 16]
    left_out = {frozenset(range(33)) - {*np.concatenate([y for _, y in collect(views, e)])}
                for e in range(5)}  # fmt: skip
    assert len(left_out) > 1  # another one in every epoch


def test_a_split_of_one_sample_is_still_a_batch() -> None:
    assert [len(y) for _, y in collect(Views(numbered(1), 16, 0, False, seed=0), 0)] == [1]


@pytest.mark.parametrize(("shift", "flip"), [(1, False), (0, True)])
def test_only_images_are_augmented(shift: int, flip: bool) -> None:
    split = SplitTensors({"signal": torch.zeros(4, 16)}, torch.zeros(4))
    with pytest.raises(DataError, match=r"'signal' has shape \(4, 16\)") as caught:
        Views(split, 2, shift, flip, seed=0)
    assert "data.augment" in caught.value.hint
    Views(split, 2, 0, False, seed=0)


def test_two_images_of_a_sample_move_together() -> None:
    images = numbered(40).inputs["image"]
    split = SplitTensors({"left": images, "right": images + 0.5}, torch.arange(40))
    for view in Views(split, 8, 2, True, seed=0).epoch(0):
        x = view.inputs
        inside = x["left"] > 0
        assert torch.equal(x["right"][inside], x["left"][inside] + 0.5)


def test_views_are_channels_last() -> None:
    x = next(iter(Views(numbered(16), 8, 1, False, seed=0).epoch(0))).inputs
    assert x["image"].is_contiguous(memory_format=torch.channels_last)
