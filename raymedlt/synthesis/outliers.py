"""Out of distribution: is an image further from the real training images than real images are?

The distance is that to the k-th nearest training image between features of unit length (Sun et al., Out-of-distribution
detection with deep nearest neighbors, ICML 2022, section 3); the limit is a split-conformal quantile of held-out real
images, as in copies.py.

R reference images, B images in question, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.faiss_import import faiss
from raymedlt.errors import InputError
from raymedlt.seeds import generator

Floats = npt.NDArray[np.float32]

MOST_REFERENCES = 4_000
"""Training images that distances are taken to, at most (20 MB at 1,280 features); a keyed choice of them."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """Real features and how far from them real images lie. Make it with `fit_outliers`."""

    references_RD: Floats
    """Unit length."""
    neighbours: int
    limit: float
    """Distances above it are out of distribution."""

    def distances(self, features_BD: Floats) -> npt.NDArray[np.float64]:
        """To the k-th nearest reference, float64 [B]; NaN for features that are no numbers. O(B R D)."""
        index = faiss().IndexFlatL2(self.references_RD.shape[1])
        index.add(self.references_RD)
        unit = _unit(features_BD)
        # One at a time: FAISS adds in another order for a batch, and a result may not depend on its neighbours.
        squares = [index.search(unit[row : row + 1], self.neighbours)[0][0, -1] for row in range(len(unit))]
        found = np.sqrt(np.maximum(np.array(squares, np.float64).reshape(-1), 0))
        return np.where(np.isfinite(unit).all(axis=1), found, np.nan)

    def are_outliers(self, distances_B: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which images are refused; what can't be compared is one of them."""
        return ~(distances_B <= self.limit)


def reference_rows(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of `count` training images distances are taken to."""
    return np.sort(generator(seed, "outliers", "references").permutation(count)[:MOST_REFERENCES])


def fit_outliers(references_RD: Floats, held_out_MD: Floats, *, false_refusals: float, neighbours: int) -> Outliers:
    """The limit that `false_refusals` of held-out real images exceed.

    Raises:
        InputError: too few images.
    """
    needed = math.ceil(1 / false_refusals) - 1
    if len(held_out_MD) < needed or len(references_RD) < neighbours:
        raise InputError(
            f"{len(references_RD)} training and {len(held_out_MD)} held-out images",
            f"at least {neighbours} and {needed}",
            "hold back more validation patients, or allow more false refusals",
        )
    fitted = Outliers(_unit(references_RD), neighbours, math.inf)
    distances = np.sort(fitted.distances(held_out_MD))
    rank = math.floor(false_refusals * (len(distances) + 1))
    return Outliers(fitted.references_RD, neighbours, float(distances[len(distances) - rank]))


def _unit(features_ND: Floats) -> Floats:
    length = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return np.ascontiguousarray(features_ND / np.maximum(length, 1e-12), np.float32)
