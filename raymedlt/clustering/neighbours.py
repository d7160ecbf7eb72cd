"""Neighbour lists: what a point knows of the others, and a bound on what it doesn't know.

FAISS finds candidates in float32; every distance that counts is computed again in float64, in one way for the whole
package (`pair_distances`), so that equal pairs have equal distances whoever computes them. `bound` makes up for the
rounding of the float32 search: no point outside a list is nearer than it.

Shape suffixes: N points, D dimensions, K list length, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.faiss_import import faiss

Vectors = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

_PAIRS_AT_A_TIME = 200_000  # float64 rows of pair_distances: 0.6 GB at 384 dimensions
_CELLS_AT_A_TIME = 8_000_000  # float64 cells of the distance block of a second search: 64 MB


class Neighbours(NamedTuple):
    """Exact nearest neighbours of every point, the point itself left out.

    ids_NK: int64, by (distance, id). distances_NK: float64, Euclidean. bound_N: float64; a point that is not in p's
    list is at least bound_N[p] away from p.
    """

    ids_NK: Ids
    distances_NK: Distances
    bound_N: Distances


def pair_distances(vectors_ND: Vectors, left_P: Ids, right_P: Ids) -> Distances:
    """Euclidean distances of pairs, float64 [P], from differences (no cancellation), in bounded memory."""
    result = np.empty(len(left_P))
    for start in range(0, len(left_P), _PAIRS_AT_A_TIME):
        part = slice(start, start + _PAIRS_AT_A_TIME)
        difference_PD = vectors_ND[left_P[part]].astype(np.float64) - vectors_ND[right_P[part]]
        result[part] = np.sqrt(np.einsum("pd,pd->p", difference_PD, difference_PD))
    return result


def rounding_of_squares(vectors_ND: Vectors) -> float:
    """How far a squared distance from a float32 inner product may be off: 4 sqrt(D) eps (largest squared norm).

    The worst case grows with D, the observed error with its square root; 4 covers it with a wide margin (tested).
    """
    largest = float(np.einsum("nd,nd->n", vectors_ND, vectors_ND).max(initial=0.0))
    return float(4 * np.sqrt(vectors_ND.shape[1]) * np.finfo(np.float32).eps * 2 * largest)


def exact_neighbours(vectors_ND: Vectors, k: int) -> Neighbours:
    """The k nearest other points of every point, by exhaustive search.

    A point whose k-th neighbour float32 can't tell from the next (near duplicates, data far from the origin) is
    searched again in float64. O(N^2 D) time, O(N k) memory. k is cut to N - 1. Faiss threads are whatever the process
    allows.
    """
    n = len(vectors_ND)
    k = min(k, n - 1)
    if k <= 0:
        return Neighbours(np.zeros((n, 0), np.int64), np.zeros((n, 0)), np.full(n, np.inf))
    wide = min(k + 2, n)  # the point itself, and one more that gives the bound
    squares, ids = faiss().knn(vectors_ND, vectors_ND, wide)
    ids = ids.astype(np.int64)
    # The point itself is left out by id. Where duplicates crowd it out of its own list, the last entry goes instead.
    own = ids == np.arange(n)[:, None]
    own[~own.any(1), -1] = True
    ids_NK = ids[~own].reshape(n, wide - 1)
    squares_NK = squares[~own].reshape(n, wide - 1)
    # What is not in the list is at least as far as the list's last entry, up to rounding.
    unseen = squares_NK[:, -1].astype(np.float64) - rounding_of_squares(vectors_ND)
    bound_N = np.full(n, np.inf) if wide == n else np.sqrt(np.maximum(unseen, 0.0))
    rows = np.repeat(np.arange(n), wide - 1)
    distances_NK = pair_distances(vectors_ND, rows, ids_NK.ravel()).reshape(n, wide - 1)
    doubtful = np.flatnonzero(distances_NK[:, k - 1] > bound_N)
    if len(doubtful):
        ids_NK[doubtful], distances_NK[doubtful] = _searched_again(vectors_ND, doubtful, wide - 1)
    order = np.lexsort((ids_NK, distances_NK), axis=1)
    return Neighbours(np.take_along_axis(ids_NK, order, 1), np.take_along_axis(distances_NK, order, 1), bound_N)


def _searched_again(vectors_ND: Vectors, points: Ids, k: int) -> tuple[Ids, Distances]:
    """Ids and distances [P, k] of the k nearest other points of some points, all in float64; O(P N D)."""
    ids_PK = np.empty((len(points), k), np.int64)
    exact_ND = vectors_ND.astype(np.float64)
    exact_ND -= exact_ND.mean(0)
    squares_N = np.einsum("nd,nd->n", exact_ND, exact_ND)
    rows = max(1, _CELLS_AT_A_TIME // len(vectors_ND))
    for start in range(0, len(points), rows):
        block = points[start : start + rows]
        squares_PN = squares_N - 2.0 * (exact_ND[block] @ exact_ND.T)  # each row up to a constant
        squares_PN[np.arange(len(block)), block] = np.inf
        ids_PK[start : start + rows] = np.argpartition(squares_PN, k - 1, axis=1)[:, :k]
    distances = pair_distances(vectors_ND, np.repeat(points, k), ids_PK.ravel())
    return ids_PK, distances.reshape(ids_PK.shape)


def core_distances(neighbours: Neighbours, min_samples: int) -> Distances:
    """core_k(x): distance to the k-th nearest *other* point, float64 [N] (hdbscan's convention).

    With fewer than k other points the farthest one counts; a single point has core distance 0.
    """
    k = min(min_samples, neighbours.distances_NK.shape[1])
    if k == 0:
        return np.zeros(len(neighbours.bound_N))
    core_N: Distances = neighbours.distances_NK[:, k - 1].copy()
    return core_N
