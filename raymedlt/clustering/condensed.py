"""hdbscan's condensed tree as flat arrays: which branch a point belongs to, which branches are the clusters.

Branches are numbered from the root (0) on, a parent before its children. A point leaves its branch at lambda = 1 /
distance; a branch ends where its last points leave it or where it splits into two. Shape suffixes: N points,
K branches, C clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.screening import Ids
from raymedlt.errors import InputError

LARGEST_LAMBDA = 1e150
"""Stands for 1 / 0 (points at the same place), so that lambdas can be subtracted and divided."""

Lambdas = npt.NDArray[np.float64]


class Branches(NamedTuple):
    """A condensed tree with its selected clusters; all lambdas are at most LARGEST_LAMBDA.

    branch_N: the branch that a point leaves; leaves_N: the lambda at which it does.
    parent_K: the root is its own. birth_K: lambda of the split a branch comes from, 0 for the root. size_K: points in
    it at birth. end_K: largest lambda at which points or branches leave it.
    selected_C: the branch that is cluster c. label_K: the cluster of which a branch is (a part of), -1 above clusters.
    """

    branch_N: Ids
    leaves_N: Lambdas
    parent_K: Ids
    birth_K: Lambdas
    size_K: Ids
    end_K: Lambdas
    selected_C: Ids
    label_K: npt.NDArray[np.int32]


def tree_points(condensed: npt.NDArray[np.void]) -> int:
    """Number of points in a condensed tree; with weights these are the expanded rows. 0 for an empty tree."""
    return int(condensed["parent"].min()) if len(condensed) else 0


def check_tree(condensed: npt.NDArray[np.void], labels_N: npt.NDArray[np.int32], purpose: str) -> None:
    """See to it that `condensed` is a tree of the labelled points.

    Args:
        purpose: what asks for the tree, for the message.

    Raises:
        InputError: there is no tree (DBSCAN, k-means, too few points), or it was fitted with weights.
    """
    if len(condensed) == 0:
        raise InputError(
            f"{purpose} of a clustering without a condensed tree",
            "a model fitted by hdbscan on at least min_cluster_size points",
            "use `assign`, or fit with the method hdbscan",
        )
    if tree_points(condensed) != len(labels_N):
        raise InputError(
            f"{purpose} of a clustering whose tree holds {tree_points(condensed):,} points for {len(labels_N):,} rows",
            "an unweighted fit: the tree of a weighted one is that of the expanded rows",
            "use `assign`, which works for every model, or fit without weights",
        )


def branches(condensed: npt.NDArray[np.void], labels_N: npt.NDArray[np.int32]) -> Branches:
    """Read a condensed tree and find the branch of every cluster. O(N + K).

    Args:
        condensed: structured array (parent, child, lambda_val, child_size); `check_tree` has passed.
        labels_N: int32 flat clusters by excess of mass, numbered from 0, -1 is noise.
    """
    points = len(labels_N)
    parent, child = condensed["parent"].astype(np.int64), condensed["child"].astype(np.int64)
    lambdas = np.minimum(condensed["lambda_val"].astype(np.float64), LARGEST_LAMBDA)
    is_point = child < points
    of_points, of_branches = np.flatnonzero(is_point), np.flatnonzero(~is_point)
    count = int(parent.max()) - points + 1
    branch_N, leaves_N = np.zeros(points, np.int64), np.zeros(points)
    branch_N[child[of_points]] = parent[of_points] - points
    leaves_N[child[of_points]] = lambdas[of_points]
    parent_K, birth_K, size_K = np.zeros(count, np.int64), np.zeros(count), np.full(count, points, np.int64)
    number = child[of_branches] - points
    parent_K[number] = parent[of_branches] - points
    birth_K[number] = lambdas[of_branches]
    size_K[number] = condensed["child_size"][of_branches]
    end_K = np.zeros(count)
    np.maximum.at(end_K, parent - points, lambdas)
    selected_C = _selected(branch_N, parent_K, size_K, labels_N)
    label_K = np.full(count, -1, np.int32)
    label_K[selected_C] = np.arange(len(selected_C))
    for branch in range(1, count):  # parents come first
        label_K[branch] = max(label_K[branch], label_K[parent_K[branch]])
    return Branches(branch_N, leaves_N, parent_K, birth_K, size_K, end_K, selected_C, label_K)


def _selected(branch_N: Ids, parent_K: Ids, size_K: Ids, labels_N: npt.NDArray[np.int32]) -> Ids:
    """The branch of each cluster: the lowest one that holds all its points.

    Not the lowest branch that points of the cluster leave: a cluster may split before any point has left it.
    """
    clustered = np.flatnonzero(labels_N >= 0)
    members_C = np.bincount(labels_N[clustered])
    selected_C = np.full(len(members_C), len(parent_K), np.int64)
    np.minimum.at(selected_C, labels_N[clustered], branch_N[clustered])
    while (short := np.flatnonzero(size_K[selected_C] < members_C)).size:
        selected_C[short] = parent_K[selected_C[short]]
    return selected_C
