from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.pipeline.data.load import data_files, load_data
from edgedistill.pipeline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.pipeline.data.dataset import Dataset

Image = pytest.importorskip("PIL.Image")
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def draw(folder: Path, count: int = 10, **classes: int) -> None:
    for name, colour in COLOURS.items():
        place = folder / name
        place.mkdir(parents=True)
        for i in range(classes.get(name, count)):
            pixels = np.full((12, 10, 3), colour, np.uint8)
            pixels[0, 0] = i  # so that no two images are the same
            Image.fromarray(pixels).save(place / f"{i:03}.{'png' if i % 2 else 'PNG'}")


def load(root: Path, **options) -> Dataset:
    return load_data({"source": "imagefolder", "options": {"path": "images", **options}}, root)


def sizes(data: Dataset) -> list[int]:
    return [len(part) for part in data.splits().values()]


def test_given_splits(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("validation", 2), ("test", 3)):
        draw(tmp_path / "images" / name, count)
    data = load(tmp_path, size=[12, 10])
    assert sizes(data) == [15, 6, 9]
    assert data.labels == ("blue", "green", "red")
    for part in data.splits().values():
        for image, target in zip(part.inputs["input"], part.targets, strict=True):
            assert tuple(image[5, 5]) == COLOURS[data.labels[target]]
    assert (np.diff(data.train.targets) < 0).any()  # not class by class


def test_model_inputs(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    data = load(tmp_path, size=8, mean=[0.5, 0.25, 0.0], std=[0.5])
    inputs = data.preprocessing.apply(data.test.inputs)["input"]
    assert inputs.shape == (len(data.test), 3, 8, 8)
    red = inputs[data.test.targets == 2][0, :, 4, 4]
    np.testing.assert_allclose(red, [1.0, -0.5, 0.0], atol=1e-6)


def test_grayscale(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    assert load(tmp_path, grayscale=True, size=6).preprocessing.shapes() == {"input": (1, 6, 6)}


@pytest.mark.parametrize("folder", ["images", "images/train"])
def test_splits_are_cut_out_by_class(tmp_path: Path, folder: str) -> None:
    draw(tmp_path / folder, 20)
    data = load(tmp_path, fractions=[0.5, 0.2, 0.3], size=[12, 10])
    assert sizes(data) == [30, 12, 18]
    for part, count in zip(data.splits().values(), (10, 4, 6), strict=True):
        assert np.bincount(part.targets).tolist() == [count] * 3
    images = [x.tobytes() for part in data.splits().values() for x in part.inputs["input"]]
    assert len(set(images)) == len(images) == 60


def test_only_the_missing_split_is_cut_out(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "train", 8)
    draw(tmp_path / "images" / "test", 5)
    assert sizes(load(tmp_path, fractions=[0.6, 0.2, 0.2])) == [18, 6, 15]


def test_the_seed_decides_what_is_cut_out(tmp_path: Path) -> None:
    draw(tmp_path / "images", 20)
    first, again, other = (load(tmp_path, seed=s, size=[12, 10]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.test.inputs["input"], again.test.inputs["input"])
    same = {x.tobytes() for x in first.test.inputs["input"]}
    assert same != {x.tobytes() for x in other.test.inputs["input"]}


def test_every_image_decides_the_data(tmp_path: Path) -> None:
    draw(tmp_path / "images", 3)
    files = data_files({"source": "imagefolder", "options": {"path": "images"}}, tmp_path)
    assert set(files) == {p for p in tmp_path.rglob("*") if p.is_file()}


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, :4] = 255  # left half white: on top once it is upright
    for path in sorted((tmp_path / "images" / "red").iterdir()):
        path.unlink()
        Image.fromarray(pixels).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    data = load(tmp_path, size=[8, 4], grayscale=True)
    image = data.train.inputs["input"][data.train.targets == 2][0]
    assert image[:4].min() > 200
    assert image[4:].max() < 50


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    broken = tmp_path / "images" / "red" / "001.png"
    broken.write_bytes(b"junk")
    with pytest.raises(DataError, match=f"Image {broken} cannot be read"):
        load(tmp_path)


def test_truncated_image_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    broken = tmp_path / "images" / "red" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=f"Image {broken} cannot be read"):
        load(tmp_path)


def test_deep_images_are_not_clipped(tmp_path: Path) -> None:
    draw(tmp_path / "images")
    deep = tmp_path / "images" / "red" / "001.png"
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(deep)
    with pytest.raises(DataError, match="more than 8 bits"):
        load(tmp_path)


def test_class_that_train_lacks(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "train", 2)
    draw(tmp_path / "images" / "validation", 2)
    (tmp_path / "images" / "validation" / "red").rename(tmp_path / "images/validation/rot")
    with pytest.raises(DataError, match="has class 'rot'; train has: blue, green, red"):
        load(tmp_path)


def test_class_without_images(tmp_path: Path) -> None:
    draw(tmp_path / "images", 2, green=0)
    with pytest.raises(DataError, match="green has no images"):
        load(tmp_path)


def test_no_folder_and_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        load(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path)


def test_test_without_train(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "test", 1)
    with pytest.raises(DataError, match="no folder 'train'"):
        load(tmp_path)


def test_too_few_images_for_a_split(tmp_path: Path) -> None:
    draw(tmp_path / "images", 1)
    with pytest.raises(DataError, match="'validation' would get none of the 3"):
        load(tmp_path)
