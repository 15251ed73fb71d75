"""The one reader of image files: training and `predict` must see the same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, MissingDependency

if TYPE_CHECKING:
    from pathlib import Path

    from ..contracts import Array


def read_image(path: Path, size: tuple[int, int], grayscale: bool) -> Array:
    """An image, upright and resized.

    Args:
        path: of a file that pillow reads, with 8 bits per channel.
        size: height and width in pixels.
        grayscale: one channel instead of three.

    Returns:
        Values from 0 to 255, uint8: `(H, W)` if grayscale, else `(H, W, 3)`.

    Raises:
        DataError: the file is no image, or has more than 8 bits per channel.
        MissingDependency: pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        hint = "pip install 'edgedistill[examples]'"
        raise MissingDependency(f"Reading the image {path} needs pillow", hint) from error
    height, width = size
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # converting would clip the values without a word
                hint = "Save it with 8 bits per channel"
                raise DataError(f"Image {path} has more than 8 bits per channel", hint)
            upright = ImageOps.exif_transpose(image).convert("L" if grayscale else "RGB")
            return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise DataError(f"Image {path} cannot be read: {exc}", "Replace or delete it") from exc
