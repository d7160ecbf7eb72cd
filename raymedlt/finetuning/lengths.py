"""Steps of texts of similar length: what is computed together is padded to its longest text.

N studies, B studies per step, T steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.seeds import generator

WINDOW = 16
"""Steps whose studies are sorted by length together: more pad less, and mix the studies less from epoch to epoch."""


class Buckets(NamedTuple):
    """An epoch's steps."""

    order_TB: npt.NDArray[np.int64]
    """Which studies, in [0, N); within a step the shortest text first."""
    real_TB: npt.NDArray[np.bool_]
    """False for a study that only fills a step: it counts nothing. Each study is real exactly once."""


def buckets(lengths_N: npt.ArrayLike, *, seed: int, epoch: int, batch: int, window: int = WINDOW) -> Buckets:
    """All studies of an epoch in steps of `batch`, each of texts of similar length; a function of the arguments alone.

    The studies are shuffled, sorted by length inside windows of `window` steps (so that a step's neighbours change from
    epoch to epoch), cut into steps, and the steps are shuffled. If N is no multiple of B, the shuffled order is filled
    up from its start. O(N log N).

    Args:
        lengths_N: tokens of each study's text.

    Raises:
        InputError: no studies, or no whole number of studies per step.
    """
    lengths = np.asarray(lengths_N, np.int64)
    if lengths.ndim != 1 or not len(lengths) or batch < 1 or window < 1:
        raise InputError(
            f"{lengths.size} lengths in steps of {batch}, sorted in windows of {window} steps",
            "at least one study, one study per step and one step per window",
        )
    steps_T = -(-len(lengths) // batch)
    order = np.resize(generator(seed, "bucket", epoch).permutation(len(lengths)), steps_T * batch)
    real = np.arange(len(order)) < len(lengths)
    of_window = np.arange(len(order)) // (window * batch)
    place = np.lexsort((lengths[order], of_window))  # stable: equal lengths keep the order of the shuffle
    shuffled = generator(seed, "steps", epoch).permutation(steps_T)
    return Buckets(order[place].reshape(steps_T, batch)[shuffled], real[place].reshape(steps_T, batch)[shuffled])


def padding(lengths_N: npt.ArrayLike, buckets: Buckets, micro_batch: int) -> float:
    """Share of the token places of an epoch that are padding or belong to studies that only fill a step."""
    order, real = (part.reshape(-1, micro_batch) for part in buckets)
    tokens = np.asarray(lengths_N, np.int64)[order]
    places = int(tokens.max(axis=1).sum()) * micro_batch
    return 1 - int((tokens * real).sum()) / max(places, 1)
