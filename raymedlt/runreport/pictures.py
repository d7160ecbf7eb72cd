"""Images for a page: small, as PNG files in memory."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def png(pixels: Bytes) -> bytes:
    """A PNG without metadata, grey from uint8 [H, W] and coloured from [H, W, 3]."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def shrunk(image_HW: Bytes, pixels: int) -> Bytes:
    """The image with `pixels` on its longer side if it is larger, so that a page stays light; else as it is."""
    from PIL import Image

    if max(image_HW.shape) <= pixels:
        return image_HW
    image = Image.fromarray(image_HW)
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    return np.asarray(image)
