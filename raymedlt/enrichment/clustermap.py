"""A map of the clusters in two dimensions: medoids by t-SNE, each cluster's sentences in a small cloud around them.

Shape suffixes: N sentences of a section, C clusters, D dimensions, P points drawn, M medoids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.runreport.figures import label, points, shortened
from raymedlt.runreport.page import Figure

MOST_POINTS = 4000
MOST_TSNE = 1000  # more clusters are placed by principal components: t-SNE would take minutes
NAMED = 16  # clusters with their medoid written beside them, where there is room
COLOURS = {
    "normal": "var(--normal)",
    "neutral": "var(--neutral)",
    "abnormal": "var(--abnormal)",
    "mixed": "var(--mixed)",
}

Floats = npt.NDArray[np.floating[Any]]


def place_medoids(vectors_MD: Floats) -> npt.NDArray[np.float64]:
    """Places of the medoids, float64 [M, 2], the same for the same vectors; t-SNE up to MOST_TSNE, else PCA."""
    medoids = len(vectors_MD)
    centred_MD = (
        np.asarray(vectors_MD, np.float64) - np.mean(vectors_MD, 0, dtype=np.float64) if medoids else vectors_MD
    )
    if 5 <= medoids <= MOST_TSNE:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        tsne = TSNE(perplexity=min(15.0, (medoids - 1) / 3), init="pca", random_state=0, n_jobs=1)
        # One thread: on a busy machine OpenMP's threads wait for each other, and 1 s became 35 s.
        with threadpool_limits(1):
            placed: npt.NDArray[np.float64] = tsne.fit_transform(centred_MD.astype(np.float32)).astype(np.float64)
        return placed
    return principal(centred_MD)


def principal(centred_ND: Floats) -> npt.NDArray[np.float64]:
    """Coordinates on the first two principal components, float64 [N, 2]; signs fixed by the largest loading."""
    result = np.zeros((len(centred_ND), 2))
    if len(centred_ND) < 2:
        return result
    _, _, axes = np.linalg.svd(np.asarray(centred_ND, np.float64), full_matrices=False)
    for number, axis in enumerate(axes[:2]):
        result[:, number] = centred_ND @ (axis * np.sign(axis[np.argmax(np.abs(axis))]))
    return result


def spread(
    vectors_PD: Floats, cluster_P: npt.NDArray[np.int64], centre_CD: Floats, place_C2: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Places of sentences around their cluster's medoid, float64 [P, 2].

    Directions are the cluster's own two principal components; a cloud reaches less than half way to the next medoid.
    """
    result = np.zeros((len(vectors_PD), 2))
    clusters = len(place_C2)
    apart_CC = np.sqrt(((place_C2[:, None] - place_C2[None]) ** 2).sum(-1)) + np.diag(np.full(clusters, np.inf))
    nearest_C = apart_CC.min(1) if clusters > 1 else np.ones(clusters)
    usual = float(np.median(nearest_C))
    for c in np.unique(cluster_P):
        members = np.flatnonzero(cluster_P == c)
        local = principal(np.asarray(vectors_PD[members], np.float64) - centre_CD[c])
        reach = np.abs(local).max()
        radius = min(0.45 * nearest_C[c], 0.75 * usual)
        result[members] = place_C2[c] + (local * radius / reach if reach > 0 else local)
    return result


def cluster_map(section: str, sentences: pa.Table, clusters: pa.Table, vectors_ND: Floats) -> Figure | None:
    """The map of one section; None without clusters. O(C^2 + P D) beside t-SNE; memory O(P D).

    Args:
        sentences, clusters: rows of this section alone (schema.SENTENCES, schema.CLUSTERS).
        vectors_ND: the sentences' vectors, in the table's order.
    """
    if clusters.num_rows == 0:
        return None
    cluster_N = sentences["cluster_id"].to_numpy().astype(np.int64)
    count_N = sentences["count"].to_numpy().astype(np.int64)
    texts, signs = sentences["text"].to_pylist(), np.array(sentences["sign"].to_pylist(), object)
    ids = clusters["cluster_id"].to_pylist()
    row_of = {c: row for row, c in enumerate(ids)}
    inside = np.flatnonzero(cluster_N >= 0)
    rank = np.lexsort((inside, -count_N[inside]))
    medoid_C = _medoid_rows(clusters, texts, cluster_N)
    centre_CD = vectors_ND[medoid_C]
    place_C2 = place_medoids(centre_CD)
    drawn = np.sort(inside[rank[:MOST_POINTS]])
    row_P = np.array([row_of[c] for c in cluster_N[drawn].tolist()], np.int64)
    place_P2 = spread(vectors_ND[drawn], row_P, centre_CD, place_C2)
    groups: list[dict[str, Any]] = []
    for sign, colour in COLOURS.items():
        chosen = np.flatnonzero(signs[drawn] == sign)
        if len(chosen) == 0:
            continue
        hover = [
            f"{label(texts[n], width=56, longest=220)}<br>{sign} · {count_N[n]:,}× · cluster {cluster_N[n]}"
            for n in drawn[chosen].tolist()
        ]
        groups.append(
            {
                "name": sign,
                "x": np.round(place_P2[chosen, 0], 2),
                "y": np.round(place_P2[chosen, 1], 2),
                "hover": hover,
                "colour": colour,
                "size": np.round(4.5 + 1.2 * np.log2(count_N[drawn[chosen]]), 1),
                "opacity": 0.6,
            }
        )
    left_out = len(inside) - len(drawn)
    caption = (
        f"Clusters of {section} sentences. Every dot is a distinct sentence, larger when it is written more often;"
        " point at one to read it. Distances between clusters are only a hint: near ones tend to mean similar things."
        " Sentences that belong to no cluster (noise) are left out."
    )
    if left_out:
        caption += f" The {len(drawn):,} commonest sentences are drawn, {left_out:,} more are in the table."
    figure = points(groups, caption=caption)
    names = _names(clusters, place_C2)
    return Figure(
        data=figure.data,
        layout={**figure.layout, "annotations": names},
        caption=caption,
        height=figure.height,
        least_width=560,
    )


def _medoid_rows(clusters: pa.Table, texts: Sequence[str], cluster_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sentence that is each cluster's medoid; a text stands for one sentence of a section."""
    number = {(int(c), text): row for row, (c, text) in enumerate(zip(cluster_N, texts, strict=True)) if c >= 0}
    pairs = zip(clusters["cluster_id"].to_pylist(), clusters["medoid"].to_pylist(), strict=True)
    return np.array([number[pair] for pair in pairs], np.int64)


def _names(clusters: pa.Table, place_C2: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Medoids written over the largest clusters, leaving out a name that would run into another."""
    size_C = clusters["occurrences"].to_numpy()
    medoids = clusters["medoid"].to_pylist()
    extent = np.maximum(np.ptp(place_C2, axis=0), 1e-9)
    taken: list[npt.NDArray[np.float64]] = []
    names: list[dict[str, Any]] = []
    for c in np.lexsort((np.arange(len(size_C)), -size_C)).tolist():
        at = place_C2[c] / extent
        if any(abs(at[0] - other[0]) < 0.24 and abs(at[1] - other[1]) < 0.05 for other in taken):
            continue
        taken.append(at)
        names.append(
            {
                "x": round(float(place_C2[c, 0]), 2),
                "y": round(float(place_C2[c, 1]), 2),
                "text": label(shortened(medoids[c], 32)),
                "showarrow": False,
                "yshift": 15,
                "font": {"size": 11.5, "color": "var(--ink)"},
                "bgcolor": "var(--paper-veil)",
                "borderpad": 1,
                "captureevents": False,
            }
        )
        if len(names) == NAMED:
            break
    return names
