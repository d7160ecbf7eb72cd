"""DBSCAN and k-means, for comparison."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.screening import Vectors
from raymedlt.config import ClusteringConfig


def plain_labels(vectors: Vectors, config: ClusteringConfig, seed: int) -> npt.NDArray[np.int32]:
    """Labels int32 [N] by `config.method`, "dbscan" or "kmeans"; clusters are numbered by their smallest member."""
    return _renumbered(_dbscan(vectors, config) if config.method == "dbscan" else _kmeans(vectors, config, seed))


def _dbscan(vectors: Vectors, config: ClusteringConfig) -> npt.NDArray[np.int64]:
    from sklearn.cluster import DBSCAN

    if not len(vectors):
        return np.zeros(0, np.int64)
    # scikit-learn counts the point itself among min_samples
    fitted = DBSCAN(eps=config.eps, min_samples=config.min_samples).fit(vectors)
    labels: npt.NDArray[np.int64] = fitted.labels_
    return labels


def _kmeans(vectors: Vectors, config: ClusteringConfig, seed: int) -> npt.NDArray[np.int64]:
    clusters = min(config.clusters, len(vectors))
    if clusters == 0:
        return np.zeros(0, np.int64)
    kmeans = faiss().Kmeans(
        vectors.shape[1],
        clusters,
        niter=25,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=10**9,
    )
    kmeans.train(vectors)
    labels: npt.NDArray[np.int64] = kmeans.index.search(vectors, 1)[1].ravel()
    return labels


def _renumbered(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Clusters numbered by their smallest member; -1 stays."""
    numbers, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.full(len(numbers), -1, np.int32)
    clustered = np.flatnonzero(numbers >= 0)
    rank[clustered[np.argsort(first[clustered])]] = np.arange(len(clustered), dtype=np.int32)
    result: npt.NDArray[np.int32] = rank[inverse]
    return result
