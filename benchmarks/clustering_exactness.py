"""Is the certified spanning tree exact, are the clusters hdbscan's, and does the certificate tell the truth?

Parts `exactness` and `weights` of clustering.py. The reference is `hdbscan.HDBSCAN(algorithm="generic")`, which looks
at every pair in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from clustering_measure import CLUSTERS, CPUS, ONE_BLAS_THREAD, Result, hdbscan_library, measure, ours
from clustering_sets import Vectors, digits, nested_gaussians, openi, padchest

from raymedlt.clustering import Clustering, hdbscan_fit
from raymedlt.clustering.certificate import adjusted_rand_index
from raymedlt.clustering.fit import Settings, Ties, grow
from raymedlt.clustering.local import LocalFleet
from raymedlt.clustering.neighbours import Index, probes_for
from raymedlt.clustering.partition import make_partition

WEIGHT = 1e-6  # relative
AGREEMENT = 0.999
CERTIFIED_AGREEMENT = 0.995
_SHUFFLES = 3
_SMALL_CELLS = 128  # points; the usual 512 would be few cells for sets of this size
_SAMPLE = 1024

SETS: dict[str, Callable[[int], Vectors]] = {
    "openi_findings": lambda scale: openi("findings")[1],
    "openi_impression": lambda scale: openi("impression")[1],
    "padchest": lambda scale: padchest(20_000 // scale),
    "gaussians_24": lambda scale: nested_gaussians(24),
    "gaussians_64": lambda scale: nested_gaussians(64),
    "digits": lambda scale: digits(),
}


def in_cells(vectors: Vectors, probes: int | None = None, ties: Ties = "simultaneous") -> Clustering:
    """Certified mode made to use small cells, as many as the usual recall takes, or a given number.

    Like exact mode with simultaneous ties: the library's order of ties makes a small miss a large difference.
    """
    settings = Settings(mode="certified", ties=ties)
    partition = make_partition(vectors, settings.seed, _SMALL_CELLS)
    index = Index(vectors, partition)
    if probes is None:
        random = np.random.default_rng(0)
        sample = np.sort(random.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
        truth = index.exhaustive().neighbours(sample, settings.listed, settings.listed).ids_BK
        probes = probes_for(partition, vectors, sample, truth, settings.recall)
    index = index.with_probes(probes)
    return grow(index, LocalFleet(index, settings.listed, settings.min_samples, CPUS), settings)


def exactness_of(name: str, vectors: Vectors) -> tuple[dict[str, Any], list[str]]:
    """Figures of one set, and what fell short."""
    hdbscan_fit(vectors[:2000])
    started = time.perf_counter()
    exact = hdbscan_fit(vectors, **CLUSTERS)
    seconds = time.perf_counter() - started
    simultaneous = hdbscan_fit(vectors, **CLUSTERS, ties="simultaneous")
    reference = measure(hdbscan_library, vectors, environment=ONE_BLAS_THREAD, algorithm="generic")
    with_itself = []
    for seed in range(_SHUFFLES):
        order = np.random.default_rng(seed).permutation(len(vectors))
        shuffled = measure(hdbscan_library, vectors[order], environment=ONE_BLAS_THREAD, algorithm="generic")
        with_itself.append(adjusted_rand_index(reference.result[order], shuffled.result))
    own = float(np.median(with_itself))
    difference = abs(exact.certificate.tree_weight / reference.said["tree_weight"] - 1)
    agreement = adjusted_rand_index(reference.result, exact.labels)
    failed = []
    if difference >= WEIGHT:
        failed.append(f"{name}: tree weight differs by {difference}")
    if exact.certificate.certified_edges != exact.certificate.edges:
        failed.append(f"{name}: exact mode left edges uncertified")
    if agreement < AGREEMENT:
        failed.append(f"{name}: agreement with hdbscan {agreement}")

    def certified(kind: str, fit: Clustering, like: Clustering, must_agree: bool = False) -> dict[str, Any]:
        to_exact = adjusted_rand_index(like.labels, fit.labels)
        to_hdbscan = adjusted_rand_index(reference.result, fit.labels)
        if must_agree and to_exact < CERTIFIED_AGREEMENT:
            failed.append(f"{name}: {kind}: agreement with the exact mode {to_exact}")
        if fit.certificate.sound and to_exact < CERTIFIED_AGREEMENT:
            failed.append(f"{name}: {kind}: a sound certificate for an agreement of {to_exact}")
        return {
            "search": fit.certificate.search,
            "sound": fit.certificate.sound,
            "recall": round(fit.certificate.recall, 5),
            "wrong_edges": f"{fit.certificate.wrong_edges} of {fit.certificate.checked_edges} checked",
            "uncertified_edges": fit.certificate.edges - fit.certificate.certified_edges,
            "agreement_with_exact": round(to_exact, 5),
            "agreement_with_hdbscan": round(to_hdbscan, 5),
            "at_least_hdbscan_with_itself": to_hdbscan >= own,
        }

    library_ties = adjusted_rand_index(exact.labels, in_cells(vectors, ties="hdbscan").labels)
    figures = {
        "points": len(vectors),
        "dimensions": vectors.shape[1],
        "clusters": [exact.certificate.clusters, int(reference.result.max() + 1)],
        "noise_share": [round(exact.certificate.noise_share, 4), round(float((reference.result < 0).mean()), 4)],
        "seconds": [round(seconds, 2), round(reference.median, 2)],
        "relative_difference_of_tree_weight": difference,
        "tied_edges": len(vectors) - 1 - len(np.unique(exact.spanning_tree.weight)) if exact.spanning_tree else None,
        "agreement": round(agreement, 5),
        "agreement_with_simultaneous_ties": round(adjusted_rand_index(reference.result, simultaneous.labels), 5),
        "hdbscan_with_itself_shuffled": {"median": round(own, 5), "least": round(min(with_itself), 5)},
        "certified": {
            "as_configured": certified(
                "certified", hdbscan_fit(vectors, **CLUSTERS, mode="certified"), exact, must_agree=True
            ),
            "in_small_cells": certified("small cells", in_cells(vectors), simultaneous)
            | {"agreement_with_exact_ties_of_hdbscan_in_both": round(library_ties, 5)},
            "crippled_to_one_cell": certified("crippled", in_cells(vectors, probes=1), simultaneous),
        },
    }
    return figures, failed


def exactness(scale: int, names: Sequence[str]) -> dict[str, Any]:
    """Exact and certified mode against hdbscan on real and made sets."""
    figures, failed = {}, []
    for name in names or SETS:
        figures[name], shortfalls = exactness_of(name, SETS[name](scale))
        failed += shortfalls
    return {"pairs": "[ours, hdbscan]; agreement is the adjusted Rand index", "sets": figures, "failed": failed}


def moved(one: Result, other: Result) -> int:
    """Rows outside the best match of two partitions' groups, noise being a group: 0 for the same partition."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((int(one.max()) + 2, int(other.max()) + 2), np.int64)
    np.add.at(table, (one + 1, other + 1), 1)
    noise = int(table[0, 0])
    rows, columns = linear_sum_assignment(table[1:, 1:], maximize=True)
    return len(one) - noise - int(table[1:, 1:][rows, columns].sum())


def weights(scale: int) -> dict[str, Any]:
    """OpenI's sentences with their real counts, against hdbscan on every copy.

    The reference measures differences (metric "minkowski", p = 2): from inner products, as its "euclidean" does, equal
    rows come out some 1e-8 apart. Where equal distances part the copies of a point, hdbscan gives them different labels
    and we have one, the first copy's: so the first copies must fall into the same groups, and every row of the points
    that hdbscan does not part.
    """
    section, vectors = openi("findings")
    vectors, counts = vectors[: len(vectors) // scale], section.counts[: len(vectors) // scale].astype(np.int64)
    fit = measure(ours, vectors, repeats=3, weights=counts)
    plain = measure(ours, vectors)
    reference = measure(hdbscan_library, np.repeat(vectors, counts, axis=0), algorithm="generic", metric="minkowski")
    expanded = np.repeat(fit.result, counts)
    first = np.cumsum(counts) - counts
    parted = np.minimum.reduceat(reference.result, first) != np.maximum.reduceat(reference.result, first)
    together = ~np.repeat(parted, counts)
    # A copy hangs on its point by an edge as long as the core distance.
    weight = fit.said["tree_weight"] + float(((counts - 1) * fit.said["core_distances"]).sum())
    figures = {
        "points": len(vectors),
        "expanded_rows": int(counts.sum()),
        "largest_count": int(counts.max()),
        "clusters": [int(fit.result.max() + 1), int(reference.result.max() + 1)],
        "agreement_with_expanded_data": round(adjusted_rand_index(reference.result, expanded), 5),
        "points_whose_copies_hdbscan_parts": int(parted.sum()),
        "rows_in_another_cluster": moved(reference.result, expanded),
        "of_those_not_parted": moved(reference.result[together], expanded[together]),
        "first_copies_in_another_cluster": moved(reference.result[first], fit.result),
        "agreement_without_weights": round(adjusted_rand_index(reference.result, np.repeat(plain.result, counts)), 5),
        "relative_difference_of_tree_weight": abs(weight / reference.said["tree_weight"] - 1),
        "ours": fit.cost(),
        "hdbscan_on_expanded_rows": reference.cost(),
        "times_faster": round(reference.median / fit.median, 1),
    }
    zero = ("of_those_not_parted", "first_copies_in_another_cluster")
    failed = [f"{name}: {figures[name]}" for name in zero if figures[name]]
    if figures["relative_difference_of_tree_weight"] >= WEIGHT:
        failed.append("the expanded tree has another weight")
    return {**figures, "failed": failed}
