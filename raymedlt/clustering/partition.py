"""Cells of nearby points (k-means), so that a search need not look everywhere.

A cell holds about `POINTS_PER_CELL` points whatever N is, so the number of cells grows with N and the work of a point
that visits a fixed number of cells does not; by the usual rule, sqrt(N) cells, all points would cost N^1.5. What still
grows is finding the cells: N / POINTS_PER_CELL products a point.

Shape suffixes: N points, C cells, P probes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.screening import ROWS, Ids, Vectors, shared_tensor

POINTS_PER_CELL = 512
_TRAINED_ON = 48  # points per cell that k-means learns from
_ITERATIONS = 6


class Partition(NamedTuple):
    """order_N: the points, cell after cell, ascending inside. starts: [C + 1] first place of each cell. centres_CD."""

    order_N: Ids
    starts: Ids
    centres_CD: Vectors

    def cell_of(self, places: Ids) -> Ids:
        """The cell that holds each place."""
        return np.searchsorted(self.starts, places, side="right") - 1


def make_partition(vectors_ND: Vectors, seed: int, points_per_cell: int = POINTS_PER_CELL) -> Partition:
    """Cells by FAISS k-means on a sample; every point goes to the nearest centre.

    O(C^2 D) to train, O(N C D) to assign.
    """
    n = len(vectors_ND)
    cells = max(1, n // points_per_cell)
    if cells == 1:
        centres = vectors_ND.mean(0, keepdims=True) if n else np.zeros((1, vectors_ND.shape[1]), np.float32)
        return Partition(np.arange(n), np.array([0, n]), centres)
    kmeans = faiss().Kmeans(
        vectors_ND.shape[1],
        cells,
        niter=_ITERATIONS,
        seed=seed % 2**31,
        max_points_per_centroid=_TRAINED_ON,
        min_points_per_centroid=1,
    )
    kmeans.train(vectors_ND)
    centres = np.ascontiguousarray(kmeans.centroids, np.float32)
    cell_N = np.concatenate(
        [nearest_cells(vectors_ND[start : start + ROWS], centres, 1)[:, 0] for start in range(0, n, ROWS)]
    )
    order_N = np.argsort(cell_N, kind="stable")
    return Partition(order_N, np.searchsorted(cell_N[order_N], np.arange(cells + 1)), centres)


def nearest_cells(vectors_BD: Vectors, centres_CD: Vectors, probes: int) -> npt.NDArray[np.int64]:
    """The nearest centres of each vector, nearest first, int64 [B, P]."""
    centres = shared_tensor(centres_CD)
    closeness = shared_tensor(vectors_BD) @ centres.T - (centres * centres).sum(1) / 2
    nearest: npt.NDArray[np.int64] = closeness.topk(min(probes, len(centres)), dim=1).indices.numpy()
    return nearest
