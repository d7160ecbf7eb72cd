"""Planted copies: training images changed a little, as a generator that memorised them, or a person, would change them.

They are what the search for copies is tuned and tested on (see fingerprint.py and copies.py).
"""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import affine_transform

Bytes = npt.NDArray[np.uint8]
Kind = Literal["shift", "rotate", "exposure", "jpeg", "noise", "all", "extreme", "mirror"]
KINDS: tuple[Kind, ...] = ("shift", "rotate", "exposure", "jpeg", "noise", "all", "extreme", "mirror")
"""Single changes; all of them together; all together with the largest shift and rotation; all together, mirrored."""
COMBINED: tuple[Kind, ...] = ("all", "extreme", "mirror")

SHIFT = 0.04
"""Largest shift either way, share of the width."""
ROTATE = 5.0
"""Largest rotation either way, degrees."""
EXPOSURE = 0.1
"""Largest change of brightness and of contrast."""
QUALITY = 50
"""Of the JPEG."""
NOISE = 0.02
"""Standard deviation of the noise; pixels are 0 to 1."""


def plant(image_SS: Bytes, kind: Kind, rng: np.random.Generator) -> Bytes:
    """A changed copy, uint8 [S, S]. What comes in at the border is black.

    Order: mirror, move (bilinear), contrast about mid grey and brightness, noise, 8 bits, JPEG.
    """
    combined = kind in COMBINED
    image_SS = image_SS[:, ::-1] if kind == "mirror" else image_SS
    shares = rng.choice([-1.0, 1.0], 3) if kind == "extreme" else rng.uniform(-1, 1, 3)
    shift = SHIFT * len(image_SS) if combined or kind == "shift" else 0.0
    turn = ROTATE if combined or kind == "rotate" else 0.0
    return degraded(
        moved(image_SS, shift * shares[0], shift * shares[1], turn * shares[2]), rng,
        exposure=combined or kind == "exposure", noise=combined or kind == "noise", jpeg=combined or kind == "jpeg",
    )  # fmt: skip


def moved(image_SS: Bytes, down: float, across: float, turn: float) -> Bytes:
    """Turned about its centre by `turn` degrees, then moved by pixels; bilinear, black outside."""
    if not (down or across or turn):
        return image_SS
    angle, centre = np.deg2rad(turn), np.full(2, (len(image_SS) - 1) / 2)
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = centre - back @ (centre + np.array([down, across]))
    return _grey_levels(affine_transform(image_SS.astype(np.float32), back, offset, order=1))


def degraded(image_SS: Bytes, rng: np.random.Generator, *, exposure: bool, noise: bool, jpeg: bool) -> Bytes:
    """Another exposure, noise and a JPEG file, each if asked for."""
    x_SS = image_SS.astype(np.float64)
    if exposure:
        contrast, brightness = 1 + rng.uniform(-EXPOSURE, EXPOSURE, 2)
        x_SS = ((x_SS - 127.5) * contrast + 127.5) * brightness
    if noise:
        x_SS = x_SS + 255 * rng.normal(0, NOISE, x_SS.shape)
    pixels = _grey_levels(x_SS)
    if not jpeg:
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return np.array(Image.open(buffer), np.uint8)


def _grey_levels(x_SS: npt.NDArray[Any]) -> Bytes:
    return np.asarray(np.rint(np.clip(x_SS, 0, 255)), np.uint8)
