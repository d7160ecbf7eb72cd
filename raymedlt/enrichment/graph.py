"""Co-occurrence of clusters in studies, and the arcs that vouch for an addition (spec: SemEnrich, co-occurrence graph).

A[u, c] = training studies that hold both clusters; diagonal zero; noise is no cluster. Ahat[u, c] = A[u, c] / sum_k
A[u, k] only thresholds. An arc u -> c exists iff Ahat[u, c] > min_share and A[u, c] > min_support and c may be added.

Shape suffixes: C clusters, S studies, E arcs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raymedlt.intervals import wilson_lower


class Arcs(NamedTuple):
    """Arcs with their evidence, sorted by (source, target); all [E].

    support: A[u, c]. confidence: A[u, c] / n_u, the share of u's studies that hold c. lift: confidence / (n_c / n).
    lift_lower: Wilson's lower 95 % bound of the confidence / (n_c / n). opposite: studies with u that assert what c
    denies.
    """

    source: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    support: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    lift: npt.NDArray[np.float32]
    lift_lower: npt.NDArray[np.float32]
    opposite: npt.NDArray[np.int32]


def membership(pairs_P2: npt.NDArray[np.int64], studies: int, clusters: int) -> sparse.csr_array:
    """0/1 matrix [S, C] from pairs (study, cluster) without noise; a study is a *set* of clusters."""
    distinct = np.unique(pairs_P2, axis=0) if len(pairs_P2) else np.zeros((0, 2), np.int64)
    ones = np.ones(len(distinct), np.int32)
    return sparse.csr_array((ones, (distinct[:, 0], distinct[:, 1])), shape=(studies, clusters))


def cooccurrence(member_SC: sparse.csr_array) -> sparse.csr_array:
    """A [C, C], int32, symmetric, zero diagonal."""
    a_CC = sparse.csr_array(member_SC.T @ member_SC)
    a_CC.setdiag(0)
    a_CC.eliminate_zeros()
    return a_CC


def build_arcs(
    member_SC: sparse.csr_array,
    addable_C: npt.NDArray[np.bool_],
    min_share: float,
    min_support: int,
    opposite_CC: npt.NDArray[np.int32] | None = None,
) -> Arcs:
    """Every arc u -> c with its evidence.

    Args:
        member_SC: which study holds which cluster.
        addable_C: clusters that may be added.
        opposite_CC: studies with u that assert what c denies; None counts no opposites.
    """
    studies = member_SC.shape[0]
    a_CC = cooccurrence(member_SC)
    total_C = np.asarray(a_CC.sum(1)).ravel()
    held_C = np.asarray(member_SC.sum(0)).ravel().astype(np.float64)
    arcs = a_CC.tocoo()
    keep = (arcs.data > min_share * total_C[arcs.row]) & (arcs.data > min_support) & addable_C[arcs.col]
    source, target, support = arcs.row[keep], arcs.col[keep], arcs.data[keep]
    order = np.lexsort((target, source))
    source, target, support = source[order], target[order], support[order]
    base = held_C[target] / max(studies, 1)
    confidence = support / held_C[source]
    opposite = np.zeros(len(source), np.int32) if opposite_CC is None else opposite_CC[source, target]
    return Arcs(
        source.astype(np.int32),
        target.astype(np.int32),
        support.astype(np.int32),
        confidence.astype(np.float32),
        (confidence / base).astype(np.float32),
        (wilson_lower(support.astype(np.float64), held_C[source]) / base).astype(np.float32),
        opposite,
    )
