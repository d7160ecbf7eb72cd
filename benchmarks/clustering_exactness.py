"""Is the certified spanning tree exact, and are the clusters hdbscan's?

    python benchmarks/clustering_exactness.py

For each set: weight of our spanning tree against hdbscan's, adjusted Rand index to `hdbscan.HDBSCAN` with the same
parameters on the same rows, hdbscan's own agreement with itself when its rows are shuffled (tied distances), and both
times. The OpenI sets are the job's own distinct sentences.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from common import openi_reports, remembering, report

from raymedlt.clustering import hdbscan_fit
from raymedlt.config import EnrichConfig
from raymedlt.enrichment.corpus import SECTIONS, distinct, sentences_of, study_ids, training_rows


def sets() -> dict[str, npt.NDArray[np.float32]]:
    """The sets by name, float32 [N, D]."""
    from sklearn.datasets import load_digits

    embed = remembering(EnrichConfig())
    table = openi_reports()
    rows = training_rows(table, sentences_of(table))
    studies = study_ids(rows)
    found = {f"OpenI {name}": embed(distinct(rows, name, studies).keys) for name in SECTIONS}
    random = np.random.default_rng(0)
    for width in (24, 64):
        centres = random.normal(0, 3, (6, width))
        scales = (0.2, 0.3, 0.5, 0.7, 1.0, 1.4)
        found[f"nested Gaussians, {width} dimensions"] = np.concatenate(
            [random.normal(centre, scale, (400, width)) for centre, scale in zip(centres, scales, strict=True)]
        ).astype(np.float32)
    digits = load_digits().data
    found["digits, ties broken"] = (digits + random.normal(0, 1e-3, digits.shape)).astype(np.float32)
    return found


def compare(vectors: npt.NDArray[np.float32]) -> dict[str, object]:
    """Ours beside hdbscan's."""
    import hdbscan
    from sklearn.metrics import adjusted_rand_score

    started = time.perf_counter()
    ours = hdbscan_fit(vectors, min_cluster_size=5, min_samples=5)
    seconds = time.perf_counter() - started

    def theirs(rows: npt.NDArray[np.float32]) -> hdbscan.HDBSCAN:
        # Below 60 dimensions hdbscan's default is an approximate Borůvka; its generic algorithm is exact.
        algorithm = "best" if rows.shape[1] >= 60 else "generic"
        fit = hdbscan.HDBSCAN(min_cluster_size=5, min_samples=5, algorithm=algorithm, gen_min_span_tree=True)
        return fit.fit(rows.astype(np.float64))

    started = time.perf_counter()
    reference = theirs(vectors)
    their_seconds = time.perf_counter() - started
    weight = reference.minimum_spanning_tree_.to_numpy()[:, 2].sum()
    order = np.random.default_rng(1).permutation(len(vectors))
    shuffled = np.empty(len(vectors), int)
    shuffled[order] = theirs(vectors[order]).labels_
    distinct_weights = len(np.unique(ours.spanning_tree.weight))
    return {
        "points": len(vectors),
        "clusters": [ours.certificate.clusters, int(reference.labels_.max() + 1)],
        "noise_share": [round(ours.certificate.noise_share, 4), round(float((reference.labels_ < 0).mean()), 4)],
        "relative_difference_of_tree_weight": float(abs(ours.certificate.tree_weight / weight - 1)),
        "certified_edges": f"{ours.certificate.certified_edges} of {ours.certificate.edges}",
        "tied_edges": int(len(vectors) - 1 - distinct_weights),
        "adjusted_rand_index": round(float(adjusted_rand_score(reference.labels_, ours.labels)), 5),
        "hdbscan_with_itself_shuffled": round(float(adjusted_rand_score(reference.labels_, shuffled)), 5),
        "second_searches_per_point": round(ours.certificate.second_searches / len(vectors), 3),
        "seconds": [round(seconds, 2), round(their_seconds, 2)],
        "times_faster": round(their_seconds / seconds, 1),
    }


def main() -> None:
    warm_up = np.random.default_rng(2).normal(size=(200, 8)).astype(np.float32)
    hdbscan_fit(warm_up)
    results = {name: compare(vectors) for name, vectors in sets().items()}
    for name, figures in results.items():
        assert figures["relative_difference_of_tree_weight"] < 1e-6, name
        assert figures["adjusted_rand_index"] >= min(0.99, figures["hdbscan_with_itself_shuffled"]), name
    report("clustering_exactness", {"pairs": "[ours, hdbscan]", "sets": results})


if __name__ == "__main__":
    main()
