"""Images as a caller has them, paths, bytes, arrays or Pillow's, made into the squares that a finished model reads.

B images, S pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from raymedlt.errors import InputError
from raymedlt.images.label_files import locate
from raymedlt.images.readers import UnreadableImage, decode, gray, read_file, to_square

Image = str | os.PathLike[str] | bytes | npt.NDArray[Any] | PillowImage.Image
Squares = npt.NDArray[np.uint8]


def squares_of(
    images: Iterable[Image | None], *, size: int, fit: Literal["pad", "crop"], max_pixels: int
) -> tuple[list[Squares], list[str]]:
    """The images that can be read, uint8 [S, S] each, and for each of all "" or why it can't be.

    Args:
        images: each the path or URI of a PNG, JPEG or DICOM file, its bytes, a Pillow image, or an array [H, W]: uint8,
            or float in [0, 1], black is air.

    Raises:
        InputError: a single image instead of a list.
    """
    if isinstance(images, str | bytes | os.PathLike | PillowImage.Image):
        raise InputError(f"one image ({type(images).__name__})", "a list of images", "give [image]")
    squares, reasons = [], []
    for image in images:
        try:
            squares.append(to_square(_grey(image, max_pixels), size, fit))
        except UnreadableImage as error:
            reasons.append(error.reason)
        else:
            reasons.append("")
    return squares, reasons


def all_squares_of(
    images: Iterable[Image | None], *, size: int, fit: Literal["pad", "crop"], max_pixels: int
) -> Squares:
    """The images, uint8 [B, S, S].

    Raises:
        InputError: images that can't be read; the message gives their positions and reasons. No images.
    """
    squares, reasons = squares_of(images, size=size, fit=fit, max_pixels=max_pixels)
    bad = [f"{number}: {reason}" for number, reason in enumerate(reasons) if reason]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(reasons)} images can't be read ({'; '.join(bad[:5])})",
            "PNG, JPEG or DICOM files, their bytes, or arrays [H, W] of uint8 or of floats in [0, 1]",
            "leave these out",
        )
    if not squares:
        raise InputError("no images", "at least one")
    return np.stack(squares)


def _grey(image: Image | None, max_pixels: int) -> npt.NDArray[np.float32]:
    if image is None:
        raise UnreadableImage("no image")
    if isinstance(image, bytes):
        return decode(image, max_pixels=max_pixels)
    if isinstance(image, PillowImage.Image):
        return gray(image)
    if isinstance(image, np.ndarray):
        return _grey_array(image)
    if not isinstance(image, str | os.PathLike):
        raise UnreadableImage(f"a value of type {type(image).__name__}")
    try:
        storage, name = locate(os.fspath(image))
        data = read_file(storage, name, max_pixels)
    except InputError:
        raise UnreadableImage("file not found") from None
    except OSError as error:
        raise UnreadableImage(f"file can't be read: {type(error).__name__}") from None
    return decode(data, max_pixels=max_pixels)


def _grey_array(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if image.ndim != 2 or not image.size:
        raise UnreadableImage(f"an array of shape {image.shape}")
    if image.dtype == np.uint8:
        return np.asarray(image / np.float32(255), np.float32)
    if not np.issubdtype(image.dtype, np.floating) or not ((image >= 0) & (image <= 1)).all():
        raise UnreadableImage(f"an array of {image.dtype} that isn't uint8, or floats in [0, 1]")
    return image.astype(np.float32)
