"""Small pictures that stand for X-rays in the tests of the gate: one shape, and a texture that each has for itself."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import classifier_folder
import numpy as np
from scipy.ndimage import gaussian_filter

from raymedlt.images.config import ImagesConfig
from raymedlt.seeds import generator

SIZE = 64


@lru_cache(maxsize=8)
def pictures(count: int, key: str, size: int = SIZE) -> np.ndarray:
    """uint8 [count, size, size]; the first of a larger count are those of a smaller one."""
    down, across = np.mgrid[-1 : 1 : 1j * size, -1 : 1 : 1j * size]
    body = 150 * np.exp(-((np.abs(across) - 0.45) ** 2) / 0.05 - down**2 / 0.4)
    found = []
    for number in range(count):
        rng = generator(0, "picture", key, number)
        own = gaussian_filter(rng.normal(0, 1, (size, size)), size / 40) * size / 40 * 90
        found.append(np.clip(60 + body * rng.uniform(0.8, 1.2) + own + rng.normal(0, 3, own.shape), 0, 255))
    return np.rint(np.stack(found)).astype(np.uint8)


def stored_classifier(folder: str) -> str:
    """The folder of a finished classifier with random weights for images of SIZE pixels; returns it."""
    config = dataclasses.replace(classifier_folder.settings_of(), images=ImagesConfig(size=SIZE))
    return classifier_folder.stored(folder, config)
