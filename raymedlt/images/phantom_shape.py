"""Outlines of real lungs, for the phantom's anatomy.

The torchxrayvision package carries 517 lung masks that people drew on chest X-rays (82 are empty). Each is reduced to a
few curves; a patient of the phantom gets a blend of two of them. Without the package the outlines are analytic, so a
phantom is the same on two machines only if both have the package or neither has.

The mediastinal edge of a mask follows the heart. The phantom's own heart covers the lung instead, so that its size is
known: below the hilum the lung goes on behind the heart.
"""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

ROWS, COLUMNS = 33, 17
LEVELS_Y = np.linspace(0.0, 1.0, ROWS)
LEVELS_A = np.linspace(0.0, 1.05, COLUMNS)
_ARCHIVE = "torchxrayvision/data/semantic_masks_v7labs_lungs.zip"
_PIXELS = 192  # longer side of a mask when it is measured


@dataclass(frozen=True, slots=True)
class LungOutline:
    """Both lungs: patient's right first. Distances from the midline are in half widths of the thorax."""

    lateral: NDArray[np.float64]  # [2, ROWS]: the lateral wall at LEVELS_Y
    medial: NDArray[np.float64]  # [2, ROWS]: the mediastinal edge
    diaphragm: NDArray[np.float64]  # [2, COLUMNS]: Y of the lower edge at LEVELS_A
    apex: NDArray[np.float64]  # [2]: Y of the top
    corner: NDArray[np.float64]  # [2]: Y of the costophrenic angle
    aspect: float  # height of the lungs over half the width of the thorax

    def blend(self, other: LungOutline, share: float) -> LungOutline:
        """`share` of the other outline, the rest of this one."""
        mine, theirs = 1.0 - share, share
        return LungOutline(
            mine * self.lateral + theirs * other.lateral,
            mine * self.medial + theirs * other.medial,
            mine * self.diaphragm + theirs * other.diaphragm,
            mine * self.apex + theirs * other.apex,
            mine * self.corner + theirs * other.corner,
            mine * self.aspect + theirs * other.aspect,
        )


def analytic_outline() -> LungOutline:
    """Lungs from formulas, near the mean of the real ones."""
    y, a = LEVELS_Y, LEVELS_A
    lateral = 0.36 + 0.62 * np.sqrt(np.clip(1 - (1 - np.clip(y / 0.8, 0, 1)) ** 2, 0, 1))
    lateral = np.where(y < 0.05, 0.30 + 1.2 * y, lateral)
    medial = np.where(y < 0.12, 0.24 - 0.8 * y, 0.144)
    dome = np.clip(0.80 + 0.6 * np.clip(a - 0.35, 0, 1) ** 2 + 0.25 * np.clip(0.35 - a, 0, 1), 0, 1)
    return LungOutline(
        np.stack([lateral, lateral]),
        np.stack([medial, medial]),
        np.stack([dome, dome + 0.03]),
        np.zeros(2),
        np.ones(2),
        1.62,
    )


@lru_cache(maxsize=1)
def mask_names() -> tuple[str, ...]:
    """The masks of the package in the order of their names; none without the package."""
    archive = _archive()
    return tuple(sorted(name for name in archive.namelist() if not name.endswith("/"))) if archive else ()


@lru_cache(maxsize=1024)
def outline(index: int) -> LungOutline:
    """The outline of mask `index` (modulo their number), or of the next one that shows two whole frontal lungs.

    Each mask is read when it is first needed, and kept: 1 kB each.
    """
    names, archive = mask_names(), _archive()
    for step in range(len(names)):
        measured = measure(_read(archive, names[(index + step) % len(names)])) if archive else None
        if measured is not None:
            return measured
    return analytic_outline()


def measure(mask_HW: NDArray[np.bool_]) -> LungOutline | None:
    """The outline of a frontal lung mask; None where there are not two lungs of sensible shape side by side."""
    labels, count = ndimage.label(mask_HW)
    if count < 2:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    two = np.argsort(-sizes, kind="stable")[:2] + 1
    lungs = sorted((labels == part for part in two), key=lambda lung: float(np.nonzero(lung)[1].mean()))
    areas = [int(lung.sum()) for lung in lungs]
    if min(areas) < 0.04 * mask_HW.size or max(areas) > 2.0 * min(areas):
        return None
    boxes = [(np.nonzero(lung.any(1))[0][[0, -1]], np.nonzero(lung.any(0))[0][[0, -1]]) for lung in lungs]
    if boxes[0][1][1] - boxes[1][1][0] > 0.03 * mask_HW.shape[1]:  # they overlap: not a frontal view
        return None
    top, bottom = min(box[0][0] for box in boxes), max(box[0][1] for box in boxes) + 1
    left, right = boxes[0][1][0], boxes[1][1][1] + 1
    half, height = (right - left) / 2, bottom - top
    middle = (boxes[0][1][1] + boxes[1][1][0]) / 2
    apex = np.array([(box[0][0] - top) / height for box in boxes])
    corner = np.array([(box[0][1] + 1 - top) / height for box in boxes])
    aspect = height / half
    if abs(middle - (left + right) / 2) > 0.16 * half or apex.max() > 0.09 or corner.min() < 0.86:
        return None
    if not 1.35 < aspect < 2.05:
        return None
    curves = [_curves(lung, side, middle, half, top, height) for lung, side in zip(lungs, (-1, 1), strict=True)]
    lateral, medial, diaphragm = (np.stack(parts) for parts in zip(*curves, strict=True))
    dents = np.minimum(np.maximum.accumulate(lateral, 1), np.maximum.accumulate(lateral[:, ::-1], 1)[:, ::-1]) - lateral
    if dents.max() > 0.05 or lateral[:, ROWS // 2 :].min() < 0.72 or diaphragm[:, 6].min() < 0.62:
        return None
    return LungOutline(lateral, medial, diaphragm, apex, corner, float(aspect))


def _curves(
    lung: NDArray[np.bool_], side: int, middle: float, half: float, top: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rows = np.nonzero(lung.any(1))[0]
    columns = np.nonzero(lung.any(0))[0]
    width = lung.shape[1]
    first = np.argmax(lung, axis=1)
    last = width - np.argmax(lung[:, ::-1], axis=1)
    ends = np.stack([side * (first - middle), side * (last - middle)]) / half
    y = (rows + 0.5 - top) / height
    lateral = np.interp(LEVELS_Y, y, ends.max(0)[rows])
    medial = np.interp(LEVELS_Y, y, ends.min(0)[rows])
    plain = float(np.clip(np.median(medial[(LEVELS_Y > 0.15) & (LEVELS_Y < 0.4)]), 0.11, 0.20))
    medial = np.where(LEVELS_Y > 0.12, plain, np.maximum(medial, plain))
    bottom = (lung.shape[0] - np.argmax(lung[::-1], axis=0) - top) / height
    a = side * (columns + 0.5 - middle) / half
    order = np.argsort(a)
    bottoms = bottom[columns][order]
    lowest = len(bottoms) - 1 - int(np.argmax(bottoms[::-1]))
    lowest = lowest if a[order][lowest] > 0.5 else int(np.argmax(np.where(a[order] > 0.5, bottoms, 0)))
    bottoms[lowest:] = bottoms[lowest]  # beyond the angle the lateral wall is the limit
    diaphragm = np.interp(LEVELS_A, a[order], bottoms)
    # Medially a mask's lower edge follows the heart; the dome goes on behind it.
    inner = (LEVELS_A > 0.3) & (LEVELS_A < 0.7)
    peak = float(LEVELS_A[inner][np.argmin(diaphragm[inner])])
    flat = float(diaphragm[inner].min()) + 0.12 * np.clip(peak - LEVELS_A, 0, 1) ** 2
    diaphragm = np.where(peak > LEVELS_A, flat, diaphragm)
    return _smooth(lateral), medial, _smooth(diaphragm)


def _smooth(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(curve, 1, mode="edge")
    return np.asarray((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[np.bool_]:
    with Image.open(io.BytesIO(archive.read(name))) as image:
        image.draft("L", (_PIXELS, _PIXELS))
        grey = image.convert("L")
        scale = _PIXELS / max(grey.size)
        small = grey.resize(
            (max(1, round(grey.width * scale)), max(1, round(grey.height * scale))), Image.Resampling.BOX
        )
    return np.asarray(small) > 127


@lru_cache(maxsize=1)
def _archive() -> zipfile.ZipFile | None:
    try:
        path = Path(str(importlib.metadata.distribution("torchxrayvision").locate_file(_ARCHIVE)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return zipfile.ZipFile(io.BytesIO(path.read_bytes())) if path.is_file() else None
