"""Clustering of vectors: HDBSCAN with a certified spanning tree, and two plain methods for comparison."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.certificate import Certificate, adjusted_rand_index, index_recall, wrong_edges
from raymedlt.clustering.hierarchy import NO_TREE, flat_clusters, row_linkage
from raymedlt.clustering.local import LocalFleet
from raymedlt.clustering.neighbours import Index, probes_for
from raymedlt.clustering.partition import make_partition
from raymedlt.clustering.plain import plain_labels
from raymedlt.clustering.repair import PASSES, SplitChecks
from raymedlt.clustering.screening import Distances, Vectors
from raymedlt.clustering.spanning_tree import Edges, Fleet, SpanningTree, minimum_spanning_tree
from raymedlt.config import ClusteringConfig
from raymedlt.cpus import cpus
from raymedlt.errors import InputError
from raymedlt.intervals import wilson
from raymedlt.seeds import keyed_seed

Mode = Literal["exact", "certified"]
Ties = Literal["auto", "hdbscan", "simultaneous"]

_LARGEST = 1e12
_RECALL_SAMPLE = 1024
_AGREEMENT_SAMPLE = 20_000
_EXHAUSTIVE_SHARE = 50  # certified mode: at most one point in so many looks everywhere
_FEW = 50_000  # points below which everything is looked at in any mode: that takes seconds
_WORTH_IT = 0.3  # share of the cells above which looking everywhere is as quick (small cells multiply less well)


class SearchFleet(Fleet, Protocol):
    """A fleet that has searched: core distances, and the least mutual reachability to anybody not listed, [N]."""

    core_N: Distances
    floor_N: Distances


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
        InputError: wrong rank, no columns, values that are not finite (the first bad row is named) or above 1e12 (their
            squares would pass for points that don't exist).
    """
    vectors = np.ascontiguousarray(vectors_ND, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise InputError(f"vectors of shape {np.shape(vectors_ND)}", "an array [N, D] with D >= 1", "reshape the array")
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise InputError(
            f"{len(bad)} vectors hold NaN or infinity, the first in row {bad[0]}", "finite values", "drop these rows"
        )
    if vectors.size and (largest := float(np.abs(vectors).max())) > _LARGEST:
        raise InputError(f"vectors hold {largest:.3g}", f"values up to {_LARGEST:.0e}", "scale the vectors")
    return vectors


@dataclass(frozen=True)
class Settings:
    """Everything that decides the clusters of given vectors."""

    min_cluster_size: int = 5
    min_samples: int = 5
    mode: Mode = "exact"
    seed: int = 0
    neighbours: int = 16
    recall: float = 0.995
    ties: Ties = "auto"

    def __post_init__(self) -> None:
        for name, least in (("min_cluster_size", 2), ("min_samples", 1), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}", f"at least {least}", f"change {name}")
        if self.mode not in get_args(Mode):
            raise InputError(f"mode is {self.mode!r}", "'exact' or 'certified'", "change mode")
        if self.ties not in get_args(Ties):
            raise InputError(f"ties is {self.ties!r}", "'auto', 'hdbscan' or 'simultaneous'", "change ties")
        if not 0 < self.recall < 1:
            raise InputError(f"recall is {self.recall}", "a share in (0, 1)", "change recall")

    def like_hdbscan(self, index: Index) -> bool:
        """Whether equal distances come in the library's order."""
        return self.ties == "hdbscan" or (self.ties == "auto" and not index.partial)

    @property
    def listed(self) -> int:
        """Length of the neighbour lists."""
        return max(self.neighbours, self.min_samples)


def hdbscan_fit(
    vectors_ND: npt.NDArray[np.floating],
    min_cluster_size: int = 5,
    min_samples: int = 5,
    weights: npt.NDArray[np.integer] | None = None,
    mode: Mode = "exact",
    seed: int = 0,
    *,
    neighbours: int = 16,
    recall: float = 0.995,
    ties: Ties = "auto",
    threads: int | None = None,
) -> Clustering:
    """HDBSCAN (Campello, Moulavi, Sander 2013), Euclidean, excess of mass, with a certified spanning tree.

    Args:
        vectors_ND: finite values [N, D]; screened in low precision, distances in float64.
        min_cluster_size: fewest points in a cluster, >= 2.
        min_samples: k of the core distance; the point itself does not count (as in hdbscan, unlike scikit-learn).
        weights: positive integers [N]: each point stands for so many coincident ones, and the clusters are those of the
            expanded data. A point that weighs more than min_samples has core distance 0, so lambda = 1 / distance is
            infinite where its copies part, and so is the stability of a cluster that holds them: it is always chosen.
            Use weights when frequent points should make their surroundings dense (counts as evidence); leave them out
            when the variety of points matters and not how often one was repeated, as SemEnrich does with sentences.
        mode: "exact": every pair is looked at, every edge proved. "certified": a point sees the cells near it, as many
            as `recall` takes; proofs count on what they hold, and the certificate measures how far that goes. Where so
            many cells would be needed that looking everywhere is as quick, everything is looked at.
        seed: of the cells and of the certificate's samples.
        neighbours: list length the tree starts from; in exact mode it changes the time, never the result.
        recall: certified mode: share of true neighbours that the cells should hold, measured on a sample.
        ties: "hdbscan": equal distances in the order of the hdbscan library, so that labels equal its labels on the
            same rows. That order follows from the rows' order (and, through NumPy's sorting, from the processor), and
            one edge more or less changes it everywhere. "simultaneous": what happens at one distance happens at once,
            as in the paper; labels do not depend on the order of rows, and a change stays local. "auto": hdbscan's
            where every pair was looked at, simultaneous where only cells were.
        threads: searches that go on side by side; default: one per CPU. The result does not depend on it.

    Returns:
        Labels, probabilities, spanning tree and certificate.

    Time: exact O(N^2 D), certified O(N D (probes x 512 + N / 512)) beside O(N log N). Memory: O(N (D + neighbours))
    beside the vectors: codes in bfloat16, lists, tree; 0.4 GB at 75,000 x 384, 2.8 GB at a million.

    Raises:
        InputError: vectors that are not finite or not two-dimensional, weights that are not positive integers, or a
            parameter out of its range.
    """
    settings = Settings(min_cluster_size, min_samples, mode, seed, neighbours, recall, ties)
    vectors = check_vectors(vectors_ND)
    return _fit(vectors, settings, check_weights(weights, len(vectors)), threads)


def _fit(
    vectors_ND: Vectors, settings: Settings, weights_N: npt.NDArray[np.int64] | None = None, threads: int | None = None
) -> Clustering:
    began = time.perf_counter()
    index = build_index(vectors_ND, settings)
    fleet = LocalFleet(index, settings.listed, settings.min_samples, threads or cpus(), weights_N)
    return grow(index, fleet, settings, weights_N, time.perf_counter() - began)


def check_weights(weights: npt.NDArray[np.integer] | None, points: int) -> npt.NDArray[np.int64] | None:
    """int64 [N] or None. Raises InputError if they are not N positive integers."""
    if weights is None:
        return None
    given = np.asarray(weights)
    if given.shape != (points,) or not np.issubdtype(given.dtype, np.integer) or (points and given.min() < 1):
        raise InputError(
            f"weights of shape {given.shape} and type {given.dtype}" + (f", least {given.min()}" if given.size else ""),
            f"{points} positive integers",
            "give one count per vector, or leave weights out",
        )
    return given.astype(np.int64)


def build_index(vectors_ND: Vectors, settings: Settings) -> Index:
    """The index of a mode: everything, or as many cells as the recall takes."""
    if settings.mode == "exact" or len(vectors_ND) < _FEW:
        return Index(vectors_ND)
    partition = make_partition(vectors_ND, settings.seed)
    index = Index(vectors_ND, partition)
    sample = _sample(len(vectors_ND), _RECALL_SAMPLE, settings.seed, "probes")
    truth = index.exhaustive().neighbours(sample, settings.listed, 1).ids_BK if len(sample) else np.zeros((0, 1), int)
    probes = probes_for(partition, vectors_ND, sample, truth, settings.recall)
    if probes >= _WORTH_IT * len(partition.centres_CD):
        return index.exhaustive()
    return index.with_probes(probes)


def _sample(points: int, size: int, seed: int, purpose: str) -> npt.NDArray[np.int64]:
    random = np.random.default_rng(keyed_seed(seed, "clustering", purpose))
    return np.sort(random.choice(points, min(size, points), replace=False))


def grow(
    index: Index,
    fleet: SearchFleet,
    settings: Settings,
    weights_N: npt.NDArray[np.int64] | None = None,
    seconds_neighbours: float = 0.0,
) -> Clustering:
    """Spanning tree, hierarchy, clusters and certificate, from lists that a fleet holds.

    Args:
        index, fleet: of the same N vectors; the fleet has searched with `settings`.
        weights_N: as given to the fleet.
        seconds_neighbours: what index and lists took, for the certificate.
    """
    n = len(index.vectors_ND)
    began = time.perf_counter()
    tree = minimum_spanning_tree(fleet.floor_N, fleet, partial=index.partial, most_exhaustive=n // _EXHAUSTIVE_SHARE)
    spanned = time.perf_counter()
    ties = tree.ties if settings.like_hdbscan(index) else None
    linkage, repair = None, dict[str, Any]()
    if index.partial:
        tree, linkage, repair = _repaired(tree, fleet, settings, weights_N, ties)
    flat = flat_clusters(tree.edges, fleet.core_N, settings.min_cluster_size, weights_N, ties, linkage)
    condensed = time.perf_counter()
    checks = _checks(index, fleet, settings, weights_N, flat.linkage) if index.partial else {}
    certificate = Certificate(
        method="hdbscan",
        mode=settings.mode,
        search=index.description,
        points=n,
        clusters=len(flat.persistence_C),
        noise_share=float((flat.labels_N < 0).mean()) if n else 0.0,
        persistence=float(np.median(flat.persistence_C)) if len(flat.persistence_C) else 0.0,
        certified_edges=int(tree.certified.sum()),
        edges=max(n - 1, 0),
        tree_weight=float(tree.edges.weight.sum()),
        least_weight=tree.least_weight,
        second_searches=tree.second_searches,
        exhaustive_searches=tree.exhaustive_searches,
        rounds=tree.rounds,
        seconds_neighbours=seconds_neighbours,
        seconds_tree=spanned - began,
        seconds_hierarchy=condensed - spanned - repair.get("seconds_repair", 0.0),
        seconds_checks=time.perf_counter() - condensed,
        margin=flat.margin.relative if flat.margin.clusters else None,
        margin_points=flat.margin.points,
        margin_clusters=flat.margin.clusters,
        **repair,
        **checks,
    )
    return Clustering(
        flat.labels_N,
        flat.probabilities_N,
        flat.persistence_C,
        flat.exemplars_C,
        tree.edges,
        certificate,
        fleet.core_N,
        flat.condensed,
        settings.min_cluster_size,
        settings.min_samples,
    )


def _repaired(
    tree: SpanningTree,
    fleet: SearchFleet,
    settings: Settings,
    weights_N: npt.NDArray[np.int64] | None,
    ties: Edges | None,
) -> tuple[SpanningTree, npt.NDArray[np.float64], dict[str, Any]]:
    """The tree and its linkage after the splits of the largest nodes were mended, and what the certificate says."""
    linkage = row_linkage(tree.edges, fleet.core_N, weights_N, ties)
    began = time.perf_counter()
    point_of = _point_of(len(fleet.core_N), weights_N)
    checks = SplitChecks(fleet, fleet.core_N, point_of, settings.min_cluster_size)
    for _ in range(PASSES):
        mended = checks.mended(tree, linkage)
        if mended is tree:
            break
        tree, linkage = mended, row_linkage(mended.edges, fleet.core_N, weights_N, ties)
    seconds = time.perf_counter() - began
    said = {"checked_splits": checks.splits, "repaired_edges": checks.repaired_edges, "seconds_repair": seconds}
    return tree, linkage, said


def _point_of(points: int, weights_N: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """The point of each row of the hierarchy."""
    return np.repeat(np.arange(points), 1 if weights_N is None else weights_N)


def _checks(
    index: Index,
    fleet: SearchFleet,
    settings: Settings,
    weights_N: npt.NDArray[np.int64] | None,
    linkage: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """The certificate's samples, for a partial index."""
    n = len(index.vectors_ND)
    sample = _sample(n, _RECALL_SAMPLE, settings.seed, "recall")
    recall, recall_lower = index_recall(index, sample, settings.listed)
    wrong, checked = wrong_edges(
        index, linkage, fleet.core_N, _point_of(n, weights_N), keyed_seed(settings.seed, "clustering", "wrong edges")
    )
    part = _sample(n, _AGREEMENT_SAMPLE, settings.seed, "agreement")
    smaller = index.vectors_ND[part]
    own = None if weights_N is None else weights_N[part]
    labels = []
    for other in (index.alike(smaller, settings.seed), Index(smaller, precision=index.precision)):
        small = LocalFleet(other, settings.listed, settings.min_samples, cpus(), own)
        tree = minimum_spanning_tree(small.floor_N, small, other.partial, len(part) // _EXHAUSTIVE_SHARE)
        ties = tree.ties if settings.like_hdbscan(index) else None
        labels.append(flat_clusters(tree.edges, small.core_N, settings.min_cluster_size, own, ties).labels_N)
    return {
        "recall": recall,
        "recall_lower": recall_lower,
        "checked_edges": checked,
        "wrong_edges": wrong,
        "wrong_share_upper": wilson(wrong, checked)[1],
        "sample_points": len(part),
        "sample_agreement": adjusted_rand_index(*labels),
    }


def cluster(vectors_ND: Vectors, config: ClusteringConfig, seed: int = 0) -> Clustering:
    """Cluster by the configured method; points must come in canonical order (rank of their sentence key)."""
    if config.method == "hdbscan":
        return _fit(check_vectors(vectors_ND), settings_of(config, len(vectors_ND), seed))
    vectors = check_vectors(vectors_ND)
    start = time.perf_counter()
    labels = plain_labels(vectors, config, seed)
    clusters = int(labels.max(initial=-1)) + 1
    certificate = Certificate(
        method=config.method,
        points=len(vectors),
        clusters=clusters,
        noise_share=float((labels < 0).mean()) if len(labels) else 0.0,
        certified_edges=0,
        edges=0,
        tree_weight=0.0,
        second_searches=0,
        rounds=0,
        seconds_neighbours=0.0,
        seconds_tree=0.0,
        seconds_hierarchy=time.perf_counter() - start,
    )
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


def settings_of(config: ClusteringConfig, points: int, seed: int) -> Settings:
    """The settings that a configuration means for so many points."""
    mode: Mode = "certified" if points >= config.certified_from else "exact"
    return Settings(
        config.min_cluster_size,
        config.min_samples,
        mode if config.mode == "auto" else config.mode,
        seed,
        config.neighbours,
        config.recall,
        config.ties,
    )
