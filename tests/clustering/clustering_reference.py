"""Slow and plain reference computations in float64, and the data that the clustering tests share."""

from __future__ import annotations

from typing import Any

import hdbscan
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Array = npt.NDArray[np.float64]


def distances(vectors: npt.NDArray[np.floating]) -> Array:
    """All pairs, float64 [N, N], from differences."""
    exact = np.asarray(vectors, np.float32).astype(np.float64)
    result: Array = cdist(exact, exact)
    return result


def mutual_reachability(vectors: npt.NDArray[np.floating], min_samples: int) -> Array:
    """max(core(a), core(b), d(a, b)), core to the min_samples-th other point."""
    d = distances(vectors)
    k = min(min_samples, len(d) - 1)
    core = np.sort(d, axis=1)[:, k]  # column 0 is the point itself
    result: Array = np.maximum(np.maximum(core[:, None], core[None, :]), d)
    return result


def prim_weight(weights: Array) -> float:
    """Weight of the minimum spanning tree of a complete graph; zero weights are edges too (not so in scipy)."""
    outside = np.full(len(weights), True)
    outside[0] = False
    nearest, total = weights[0].copy(), 0.0
    for _ in range(len(weights) - 1):
        point = int(np.argmin(np.where(outside, nearest, np.inf)))
        total += nearest[point]
        outside[point] = False
        nearest = np.minimum(nearest, weights[point])
    return total


def hdbscan_labels(vectors: npt.NDArray[np.floating], min_cluster_size: int = 5, min_samples: int = 5) -> Any:
    """Labels of hdbscan's exhaustive algorithm in float64.

    With the Minkowski distance: what scikit-learn calls "euclidean" has equal rows 1e-8 apart, and now and then (one
    small set in 1,500) makes a tie of two equal core distances fall the other way.
    """
    model = hdbscan.HDBSCAN(
        min_cluster_size=min_cluster_size, min_samples=min_samples, algorithm="generic", metric="minkowski", p=2
    )
    return model.fit(np.asarray(vectors, np.float32).astype(np.float64)).labels_


def by_smallest_member(labels: npt.NDArray[np.integer]) -> list[int]:
    """Clusters renumbered in order of their first point, slowly."""
    seen: dict[int, int] = {}
    return [-1 if label < 0 else seen.setdefault(int(label), len(seen)) for label in labels]


def blobs(n: int, d: int, centres: int, seed: int, spread: float = 0.3) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, d)) * 2
    return (middle[rng.integers(0, centres, n)] + rng.normal(size=(n, d)) * spread).astype(np.float32)


def nested(n: int, d: int, seed: int) -> npt.NDArray[np.float32]:
    """Gaussians of very different widths inside one another: dense cores in sparse halos."""
    rng = np.random.default_rng(seed)
    widths = np.geomspace(0.01, 2.0, 6)
    return (rng.normal(size=(n, d)) * widths[rng.integers(0, 6, n)][:, None]).astype(np.float32)


def digits(n: int) -> npt.NDArray[np.float32]:
    """Handwritten digits with a little noise, so that no two distances tie."""
    from sklearn.datasets import load_digits

    images = load_digits().data[:n]
    return (images + np.random.default_rng(0).normal(scale=0.01, size=images.shape)).astype(np.float32)


def duplicates(n: int, d: int, distinct: int, seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(distinct, d)).astype(np.float32)[rng.integers(0, distinct, n)]


def near_duplicates(n: int, d: int, distinct: int, seed: int) -> npt.NDArray[np.float32]:
    """Unit vectors in heaps narrower than what float32 inner products can tell apart."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(distinct, d))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    return (base[rng.integers(0, distinct, n)] + rng.normal(scale=3e-5, size=(n, d))).astype(np.float32)


DATA = {
    "random": lambda: np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32),
    "blobs": lambda: blobs(600, 16, 12, 2),
    "nested": lambda: nested(600, 24, 3),
    "digits": lambda: digits(700),
    "duplicates": lambda: duplicates(400, 6, 40, 4),
    "near duplicates": lambda: near_duplicates(600, 256, 6, 5),
    "far from the origin": lambda: blobs(300, 8, 5, 6) + np.float32(500),
    "far apart": lambda: np.concatenate([blobs(150, 8, 3, 7 + (side > 0)) + np.float32(side) for side in (-500, 500)]),
    "equal": lambda: np.ones((60, 5), np.float32),
    "two points": lambda: np.array([[0.0, 0.0], [3.0, 4.0]], np.float32),
}


def halos(n: int, d: int, centres: int, seed: int) -> npt.NDArray[np.float32]:
    """Blobs, every point drawn towards the origin or away from it: dense clusters in sparse surroundings."""
    rng = np.random.default_rng(seed)
    pull = np.geomspace(0.3, 3, centres)[rng.integers(0, centres, n)]
    return (blobs(n, d, centres, seed + 1) * pull[:, None]).astype(np.float32)


def noisy(n: int, d: int, centres: int, seed: int) -> npt.NDArray[np.float32]:
    """Blobs of many widths, and three points in ten anywhere."""
    rng = np.random.default_rng(seed)
    middle, width = rng.normal(size=(centres, d)) * 4, np.geomspace(0.05, 1, centres)
    which = rng.integers(0, centres, n)
    points = middle[which] + rng.normal(size=(n, d)) * width[which][:, None]
    anywhere = rng.random(n) < 0.3
    points[anywhere] = rng.normal(size=(int(anywhere.sum()), d)) * 4
    return points.astype(np.float32)
