"""Images in one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..errors import DataError
from .dataset import SPLITS, Dataset, Split
from .images import read_image
from .source import INPUT, Scaling, describe_all, find_missing
from .splitting import stratified_split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..contracts import Array, Missing

_SUFFIXES = {".png", ".jpg", ".jpeg"}
Side = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0)]
Listing = dict[str, list[Path]]


class ImageFolderOptions(BaseModel):
    """Which folder, and how its images become model inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="The folder, relative to the config file.")
    size: Side | tuple[Side, Side] = Field(
        32, description="Side in pixels, or [height, width], that images are resized to."
    )
    grayscale: bool = Field(False, description="One channel instead of three.")
    mean: tuple[float, ...] = Field(
        (0.5,), description="Subtracted from values in 0..1: one value, or one per channel."
    )
    std: tuple[float, ...] = Field(
        (0.5,), description="Divisor after that: one value, or one per channel."
    )
    fractions: tuple[Share, Share, Share] = Field(
        (0.7, 0.1, 0.2),
        description="Shares of train, validation and test, for splits that have no folder.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Decides which images are cut out.")


class ImageFolder:
    """`path/train/CLASS/*.png`, with `validation` and `test` beside `train`.

    A split whose folder is missing is cut out of the training images, class by class; without
    any split folder the class folders lie in `path` itself.
    """

    name: ClassVar[str] = "imagefolder"
    summary: ClassVar[str] = "folders of png or jpg images: path/{train,validation,test}/CLASS"
    Options: ClassVar[type[BaseModel]] = ImageFolderOptions
    libraries: ClassVar[tuple[str, ...]] = ("pillow",)

    def missing(self) -> Missing | None:
        return find_missing("examples", "PIL")

    def load(self, options: ImageFolderOptions, root: Path) -> Dataset:
        listings = _listings(root / options.path)
        labels = tuple(sorted(listings["train"]))
        listings = _complete(listings, labels, options)
        splits = {name: _split(listings[name], labels, options) for name in SPLITS}
        scaling = Scaling(mean=options.mean, std=options.std)
        preprocessing = describe_all(splits["train"].inputs, scaling)
        return Dataset(**splits, labels=labels, preprocessing=preprocessing)

    def files(self, options: ImageFolderOptions, root: Path) -> tuple[Path, ...]:
        listings = _listings(root / options.path)
        return tuple(
            path for listing in listings.values() for paths in listing.values() for path in paths
        )


def _listings(folder: Path) -> dict[str, Listing]:
    """Split -> class -> images; only the splits that have a folder."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}", "Paths are relative to the config file")
    present = [name for name in SPLITS if (folder / name).is_dir()]
    if present and "train" not in present:
        raise DataError(f"{folder} has {' and '.join(present)}, but no folder 'train'")
    if not present:
        return {"train": _classes(folder)}
    listings = {name: _classes(folder / name) for name in present}
    for name, listing in listings.items():
        for label in listing:
            if label not in listings["train"]:
                known = ", ".join(listings["train"])
                raise DataError(f"{folder / name} has class {label!r}; train has: {known}")
    return listings


def _classes(folder: Path) -> Listing:
    listing: Listing = {}
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        images = sorted(p for p in place.iterdir() if p.suffix.lower() in _SUFFIXES)
        if not images:
            kinds = ", ".join(sorted(_SUFFIXES))
            raise DataError(f"Class folder {place} has no images ({kinds})")
        listing[place.name] = images
    if not listing:
        raise DataError(f"{folder} has no class folders", "Put images into one folder per class")
    return listing


def _complete(
    listings: dict[str, Listing], labels: Sequence[str], options: ImageFolderOptions
) -> dict[str, Listing]:
    """Cut the missing splits out of train."""
    wanted = ["train", *(name for name in SPLITS if name not in listings)]
    if len(wanted) == 1:
        return listings
    share = dict(zip(SPLITS, options.fractions, strict=True))
    images = [(path, label) for label in labels for path in listings["train"][label]]
    targets = np.asarray([labels.index(label) for _, label in images])
    parts = stratified_split(targets, [share[name] for name in wanted], options.seed)
    cut: dict[str, Listing] = {name: {} for name in wanted}
    for name, part in zip(wanted, parts, strict=True):
        if not len(part):
            what = f"Split {name!r} would get none of the {len(images)} training images"
            raise DataError(what, "Add images, change `fractions`, or make the folder of the split")
        for index in part:
            path, label = images[index]
            cut[name].setdefault(label, []).append(path)
    return {**listings, **cut}


def _split(listing: Listing, labels: Sequence[str], options: ImageFolderOptions) -> Split:
    images = [_read(path, options) for paths in listing.values() for path in paths]
    counts = [len(paths) for paths in listing.values()]
    targets = np.repeat([labels.index(label) for label in listing], counts)
    # Not class by class, so that the first samples of a split are a fair sample of it.
    order = np.random.RandomState(options.seed).permutation(len(images))
    return Split({INPUT: np.stack(images)[order]}, targets.astype(np.int64)[order])


def _read(path: Path, options: ImageFolderOptions) -> Array:
    size = options.size
    return read_image(path, (size, size) if isinstance(size, int) else size, options.grayscale)
