"""Clustering of vectors: HDBSCAN with a certified spanning tree, and two plain methods for comparison."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.hierarchy import NO_TREE, flat_clusters
from raymedlt.clustering.neighbours import core_distances, exact_neighbours
from raymedlt.clustering.spanning_tree import Edges, joined, list_edges, minimum_spanning_tree
from raymedlt.config import ClusteringConfig
from raymedlt.errors import InputError

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Certificate:
    """How sure a clustering is of itself."""

    method: str
    points: int
    clusters: int
    noise_share: float
    certified_edges: int  # spanning-tree edges proved minimal
    edges: int
    tree_weight: float
    second_searches: int  # points that had to look beyond their list, with repeats
    rounds: int
    seconds_neighbours: float
    seconds_tree: float
    seconds_hierarchy: float


@dataclass(frozen=True)
class Clustering:
    """Labels and how they came about.

    labels: int32 [N], -1 is noise and not a cluster; clusters are numbered by their smallest member.
    probabilities: float32 [N], strength of membership, 0 for noise.
    persistence: float32 [C]. exemplars: per cluster, point ids int64 (empty lists for dbscan and kmeans).
    spanning_tree: None for dbscan and kmeans, and in a loaded model.
    core_distances: float64 [N], to the min_samples-th other point (zeros for dbscan and kmeans).
    condensed: hdbscan's condensed tree (fields parent, child, lambda_val, child_size; lambda = 1 / distance). With
        weights its points are the expanded rows, copy after copy. Empty for dbscan and kmeans.
    """

    labels: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    persistence: npt.NDArray[np.float32]
    exemplars: list[npt.NDArray[np.int64]]
    spanning_tree: Edges | None
    certificate: Certificate
    core_distances: npt.NDArray[np.float64]
    condensed: npt.NDArray[np.void]
    min_cluster_size: int = 5
    min_samples: int = 5


def check_vectors(vectors_ND: npt.NDArray[np.floating]) -> Vectors:
    """Contiguous float32 [N, D].

    Raises:
        InputError: wrong rank, no columns, or values that are not finite (the first bad row is named).
    """
    vectors = np.ascontiguousarray(vectors_ND, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise InputError(f"vectors of shape {np.shape(vectors_ND)}", "an array [N, D] with D >= 1", "reshape the array")
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise InputError(
            f"{len(bad)} vectors hold NaN or infinity, the first in row {bad[0]}", "finite values", "drop these rows"
        )
    return vectors


def hdbscan_fit(
    vectors_ND: npt.NDArray[np.floating],
    min_cluster_size: int = 5,
    min_samples: int = 5,
    mode: Literal["exact"] = "exact",
    neighbours: int = 16,
) -> Clustering:
    """HDBSCAN (Campello, Moulavi, Sander 2013), Euclidean, excess of mass, with every spanning-tree edge certified.

    Args:
        vectors_ND: finite values [N, D]; computed in float32 search, float64 distances.
        min_cluster_size: fewest points in a cluster, >= 2.
        min_samples: k of the core distance; the point itself does not count (as in hdbscan, unlike scikit-learn).
        mode: "exact": exhaustive search, every edge proved.
        neighbours: list length the tree starts from; it changes the time, never the result.

    Returns:
        The same partition as `hdbscan.HDBSCAN(min_cluster_size, min_samples)` up to tied distances.

    Raises:
        InputError: vectors that are not finite or not two-dimensional, or a parameter below its least value.
    """
    for name, value, least in (("min_cluster_size", min_cluster_size, 2), ("min_samples", min_samples, 1)):
        if value < least:
            raise InputError(f"{name} is {value}", f"at least {least}", f"change {name}")
    if mode != "exact":
        raise InputError(f"mode is {mode!r}", "'exact'", "leave mode out")
    vectors = check_vectors(vectors_ND)
    n = len(vectors)
    start = time.perf_counter()
    lists = exact_neighbours(vectors, max(neighbours, min_samples))
    core_N = core_distances(lists, min_samples)
    found = time.perf_counter()
    tree = minimum_spanning_tree(vectors, lists, core_N)
    spanned = time.perf_counter()
    graph = joined(list_edges(lists, core_N), tree.edges)
    flat = flat_clusters(graph, n, min_cluster_size)
    certificate = Certificate(
        method="hdbscan",
        points=n,
        clusters=len(flat.persistence_C),
        noise_share=float((flat.labels_N < 0).mean()) if n else 0.0,
        certified_edges=tree.certified,
        edges=max(n - 1, 0),
        tree_weight=float(tree.edges.weight.sum()),
        second_searches=tree.second_searches,
        rounds=tree.rounds,
        seconds_neighbours=found - start,
        seconds_tree=spanned - found,
        seconds_hierarchy=time.perf_counter() - spanned,
    )
    return Clustering(
        flat.labels_N,
        flat.probabilities_N,
        flat.persistence_C,
        flat.exemplars_C,
        tree.edges,
        certificate,
        core_N,
        flat.condensed,
        min_cluster_size,
        min_samples,
    )


def cluster(vectors_ND: Vectors, config: ClusteringConfig, seed: int = 0) -> Clustering:
    """Cluster by the configured method; points must come in canonical order (rank of their sentence key)."""
    if config.method == "hdbscan":
        return hdbscan_fit(vectors_ND, config.min_cluster_size, config.min_samples, neighbours=config.neighbours)
    vectors = check_vectors(vectors_ND)
    start = time.perf_counter()
    labels = _renumbered(_dbscan(vectors, config) if config.method == "dbscan" else _kmeans(vectors, config, seed))
    clusters = int(labels.max(initial=-1)) + 1
    certificate = Certificate(
        config.method, len(vectors), clusters, float((labels < 0).mean()) if len(labels) else 0.0,
        0, 0, 0.0, 0, 0, 0.0, 0.0, time.perf_counter() - start,
    )  # fmt: skip
    probabilities = (labels >= 0).astype(np.float32)
    return Clustering(
        labels,
        probabilities,
        np.ones(clusters, np.float32),
        [],
        None,
        certificate,
        np.zeros(len(vectors)),
        NO_TREE,
        config.min_cluster_size,
        config.min_samples,
    )


def _dbscan(vectors: Vectors, config: ClusteringConfig) -> npt.NDArray[np.int64]:
    from sklearn.cluster import DBSCAN

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
