from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raymedlt.errors import InputError
from raymedlt.images.given import all_squares_of, squares_of

HOW = {"size": 8, "fit": "pad", "max_pixels": 10_000}


def test_the_same_square_however_it_is_given() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    picture, data = Image.fromarray(image), io.BytesIO()
    picture.save(data, "png")
    given = [image, image / 255.0, picture, picture.convert("RGB"), data.getvalue()]
    found = all_squares_of(given, **HOW)
    assert found.dtype == np.uint8
    assert (found == image).all()


def test_what_cannot_be_read_is_named_by_its_place() -> None:
    good = np.zeros((4, 4))
    given = [good, None, 3, np.full((2, 2), 7.0), Image.new("HSV", (4, 4))]
    squares, reasons = squares_of(given, **HOW)
    assert len(squares) == 1
    assert reasons == [
        "", "no image", "a value of type int", "an array of float64 that isn't uint8, or floats in [0, 1]",
        "unsupported pixel mode HSV",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"1 of 2 images can't be read \(1: no image\)"):
        all_squares_of(given[:2], **HOW)
    with pytest.raises(InputError, match=r"one image \(Image\)\. Expected: a list of images\. To fix: give \[image\]"):
        squares_of(given[-1], **HOW)
