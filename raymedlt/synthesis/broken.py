"""Images that show nothing: flat, black or saturated ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FLAT = 2.0
"""Standard deviation of grey levels below which an image shows nothing."""
BLACK, MOST_BLACK = 2, 0.9
"""Grey level, and the share of pixels at or below it above which an image is black."""
WHITE, MOST_WHITE = 250, 0.5
"""Grey level, and the share of pixels at or above it above which an image is saturated."""


def check_image(image_SS: npt.NDArray[np.uint8]) -> str:
    """What is wrong with an image: "flat image", "black image", "saturated image"; "" if it shows something."""
    if float(image_SS.std()) < FLAT:
        return "black image" if image_SS.mean() <= BLACK else "flat image"
    if float((image_SS <= BLACK).mean()) > MOST_BLACK:
        return "black image"
    if float((image_SS >= WHITE).mean()) > MOST_WHITE:
        return "saturated image"
    return ""
