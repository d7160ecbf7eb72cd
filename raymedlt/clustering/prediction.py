"""Where new points would hang in a fitted condensed tree: labels, probabilities, soft membership.

The numbers are those of `hdbscan.approximate_predict` and `hdbscan.membership_vector` (Campello, Moulavi, Zimek,
Sander 2015; McInnes, Healy, Astels 2017). hdbscan searches a KD tree and walks the whole condensed tree for each point
and cluster: at 384 dimensions and 900 clusters 20 ms a label and 70 ms a membership, after minutes of preparation. Here
neighbours come from FAISS and all points climb together.

Two differences are meant. A fitted point is predicted into its own cluster; in hdbscan rounding decides between the
lambda of the tree and the same one computed again. And hdbscan 0.8.44 takes the lowest branch that points of a cluster
leave for the cluster, which is one half of it where it splits before any point has left; here the cluster is the branch
that holds all its points.

Shape suffixes: M new points, N fitted points, D dimensions, J neighbours, C clusters, E exemplars, K branches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.condensed import LARGEST_LAMBDA, Branches, Lambdas, branches, check_tree
from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.fit import Clustering
from raymedlt.clustering.screening import Ids, Vectors

_SPARE = 4  # candidates beyond the wanted ones, so that float32 rounding rarely leaves a doubt
_CELLS_AT_A_TIME = 8_000_000  # float64 cells of a block: 64 MB
_ROUNDING = 1e-9  # lambdas this near are equal: a fitted point meets itself at its own lambda
_SMALLEST_STEP = 1e-8  # hdbscan's guard against dividing by zero
_CANCELLED = 1e-6  # a squared distance below this share of the squared norms is computed again from differences


class Predictor:
    """Places new points in the tree of a fitted clustering.

    Args:
        vectors_ND: the fitted vectors, float32.
        clustering: their clustering by hdbscan, without weights.

    Raises:
        InputError: the clustering has no condensed tree, or one of expanded rows.
    """

    def __init__(self, vectors_ND: Vectors, clustering: Clustering) -> None:
        check_tree(clustering.condensed, clustering.labels, "a density prediction")
        self.vectors_ND = vectors_ND
        self.clustering = clustering
        self.tree: Branches = branches(clustering.condensed, clustering.labels)
        self._inner_N = np.full(len(vectors_ND), np.nan)  # see _inner_cores

    def predict(self, vectors_MD: Vectors) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Labels int32 [M] (-1: noise) and probabilities float32 [M]; see `ClusterModel.predict`.

        The point joins its nearest neighbour by mutual reachability, at lambda = 1 / that distance: in the neighbour's
        branch if lambda is as large as the neighbour's own, else in the first branch above that is old enough.
        """
        tree = self.tree
        nearest_M, lambda_M = self._attach(vectors_MD)
        branch_M = tree.branch_N[nearest_M]
        above = np.flatnonzero(tree.leaves_N[nearest_M] > lambda_M * (1 + _ROUNDING))
        while len(above):
            above = above[(branch_M[above] > 0) & (tree.birth_K[branch_M[above]] >= lambda_M[above])]
            branch_M[above] = tree.parent_K[branch_M[above]]
        labels_M = tree.label_K[branch_M]
        probabilities_M = np.zeros(len(vectors_MD))
        inside = np.flatnonzero(labels_M >= 0)
        end = tree.end_K[tree.selected_C[labels_M[inside]]]
        probabilities_M[inside] = np.minimum(lambda_M[inside], end) / end
        return labels_M, probabilities_M.astype(np.float32)

    def membership(self, vectors_MD: Vectors) -> npt.NDArray[np.float32]:
        """Soft membership float32 [M, C]; see `ClusterModel.membership`.

        sqrt(nearness to the cluster's exemplars) x (share of its merge height)^2, each normalised over the clusters;
        rows are scaled by the probability of being in any cluster.
        """
        tree = self.tree
        result_MC = np.zeros((len(vectors_MD), len(tree.selected_C)), np.float32)
        if len(tree.selected_C) == 0 or len(vectors_MD) == 0:
            return result_MC
        nearest_M, lambda_M = self._attach(vectors_MD)
        lambda_M = np.minimum(lambda_M, tree.leaves_N[nearest_M])
        branch_M = tree.branch_N[nearest_M]
        heights = _MergeHeights(tree)
        exemplars = self.clustering.exemplars
        nodes = _centred(self.vectors_ND[np.concatenate(exemplars)])
        starts_C = np.cumsum([0, *map(len, exemplars[:-1])])
        rows = max(1, _CELLS_AT_A_TIME // max(len(nodes.vectors_ED), len(starts_C)))
        for start in range(0, len(vectors_MD), rows):
            part = slice(start, start + rows)
            away_MC = np.minimum.reduceat(_distances(vectors_MD[part], nodes), starts_C, axis=1)
            height_MC = heights(branch_M[part])
            result_MC[part] = _combined(tree, away_MC, height_MC, branch_M[part], lambda_M[part])
        return result_MC

    def _attach(self, vectors_MD: Vectors) -> tuple[Ids, Lambdas]:
        """The fitted point that each new one joins, int64 [M], and at which lambda, float64 [M].

        As in hdbscan the candidates are the 2 min_samples nearest ones, the new point's core distance is the one to
        the neighbour after the first min_samples, and the first of equally near candidates is taken.
        """
        n, min_samples = len(self.vectors_ND), self.clustering.min_samples
        ids_MJ, distances_MJ = nearest_fitted(vectors_MD, self.vectors_ND, min(2 * min_samples, n))
        core_M = distances_MJ[:, min(min_samples, n - 1)]
        least_MJ = np.maximum(distances_MJ, core_M[:, None])  # without the neighbours' core distances
        # No neighbour can be nearer than core_M. One whose core distance is below it reaches that; those behind the
        # first such one need no look, and those before it are few.
        settled_MJ = (self.clustering.core_distances[ids_MJ] <= core_M[:, None]) & (distances_MJ <= core_M[:, None])
        open_MJ = ~np.logical_or.accumulate(settled_MJ, axis=1)
        reach_MJ = np.where(settled_MJ, least_MJ, np.inf)
        reach_MJ[open_MJ] = np.maximum(least_MJ[open_MJ], self._inner_cores(ids_MJ[open_MJ]))
        first_M = reach_MJ.argmin(1)[:, None]
        reach_M = np.take_along_axis(reach_MJ, first_M, 1)[:, 0]
        with np.errstate(divide="ignore"):
            lambda_M = np.minimum(1.0 / reach_M, LARGEST_LAMBDA)
        return np.take_along_axis(ids_MJ, first_M, 1)[:, 0], lambda_M

    def _inner_cores(self, points_P: Ids) -> Lambdas:
        """Distance of fitted points to the min_samples-th nearest row *counting themselves*, float64 [P].

        hdbscan predicts with these, not with the core distances of its fit, which are one neighbour wider. They are
        computed where they are asked for, and kept.
        """
        missing = np.unique(points_P[np.isnan(self._inner_N[points_P])])
        if len(missing):
            k = min(self.clustering.min_samples, len(self.vectors_ND))
            self._inner_N[missing] = nearest_fitted(self.vectors_ND[missing], self.vectors_ND, k)[1][:, -1]
        found: Lambdas = self._inner_N[points_P]
        return found


class _MergeHeights:
    """For pairs of a branch and a cluster: the lambda at which the two join.

    NaN where one lies in the other: then the point's own lambda counts. Clusters are sorted as a depth-first walk meets
    them, so that those below a branch are a range, and a row is written by its ancestors' ranges: O(depth + C).
    """

    def __init__(self, tree: Branches) -> None:
        self.tree = tree
        branch_count = len(tree.parent_K)
        inside_K = np.zeros(branch_count, np.int64)
        inside_K[tree.selected_C] = 1
        for branch in range(branch_count - 1, 0, -1):
            inside_K[tree.parent_K[branch]] += inside_K[branch]
        self.low_K, next_K = np.zeros(branch_count, np.int64), np.zeros(branch_count, np.int64)
        for branch in range(1, branch_count):
            above = tree.parent_K[branch]
            self.low_K[branch] = next_K[branch] = next_K[above]
            next_K[above] += inside_K[branch]
        self.high_K = self.low_K + inside_K
        self.place_C = self.low_K[tree.selected_C]

    def __call__(self, branch_M: Ids) -> Lambdas:
        """float64 [M, C], clusters in the order of their labels."""
        distinct, inverse = np.unique(branch_M, return_inverse=True)
        rows = np.stack([self._row(int(branch)) for branch in distinct])
        result: Lambdas = rows[:, self.place_C][inverse]
        return result

    def _row(self, branch: int) -> Lambdas:
        tree, path = self.tree, [branch]
        while path[-1] > 0:
            path.append(int(tree.parent_K[path[-1]]))
        low, high, birth = self.low_K[path], self.high_K[path], tree.birth_K[path[:-1]]
        left, right = np.repeat(birth, low[:-1] - low[1:])[::-1], np.repeat(birth, high[1:] - high[:-1])
        row = np.concatenate([left, np.full(high[0] - low[0], np.nan), right])
        if (own := tree.label_K[branch]) >= 0:
            row[self.place_C[own]] = np.nan
        return row


def _combined(tree: Branches, away_MC: Lambdas, height_MC: Lambdas, branch_M: Ids, lambda_M: Lambdas) -> Lambdas:
    """Soft membership from distances to exemplars and merge heights, as hdbscan weighs them; float64 [M, C]."""
    inside_MC = np.isnan(height_MC)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        near_MC = np.where(away_MC > 0, 1.0 / away_MC, np.finfo(np.float64).max / away_MC.shape[1])
        near_MC /= near_MC.sum(1, keepdims=True)
        # hdbscan takes the lambda through float32 here, and not below.
        rounded_M = lambda_M.astype(np.float32).astype(np.float64)
        end_M1 = tree.end_K[branch_M][:, None]
        step_MC = end_M1 - np.where(inside_MC, rounded_M[:, None], height_MC)
        score_MC = end_M1 / np.where(step_MC > 0, step_MC, _SMALLEST_STEP)
    share_MC = np.exp(score_MC - score_MC.max(1, keepdims=True))
    share_MC /= share_MC.sum(1, keepdims=True)
    result_MC = np.sqrt(near_MC) * share_MC**2
    total_M1 = result_MC.sum(1, keepdims=True)
    result_MC = np.divide(result_MC, total_M1, out=np.zeros_like(result_MC), where=total_M1 > 0)
    # In some cluster: the highest merge against the end of that cluster; of equals the one that hdbscan numbers first.
    exact_MC = np.where(inside_MC, lambda_M[:, None], height_MC)
    by_branch = np.argsort(tree.selected_C)
    top_M = by_branch[exact_MC[:, by_branch].argmax(1)]
    highest_M = exact_MC[np.arange(len(top_M)), top_M]
    end_M = np.maximum(lambda_M, tree.end_K[tree.selected_C[top_M]]) + _SMALLEST_STEP
    result: Lambdas = result_MC * (highest_M / end_M)[:, None]
    return result


def nearest_fitted(vectors_MD: Vectors, fitted_ND: Vectors, k: int) -> tuple[Ids, Lambdas]:
    """Ids int64 and Euclidean distances float64 [M, k] of the nearest fitted points, by (distance, id). O(M N D).

    FAISS proposes candidates in float32, their distances are computed again from differences in float64; a row for
    which float32 can't tell whether a candidate is missing is searched again in float64.
    """
    wide = min(k + _SPARE, len(fitted_ND))
    if len(vectors_MD) == 0:
        return np.zeros((0, k), np.int64), np.zeros((0, k))
    squares_MJ, ids_MJ = faiss().knn(vectors_MD, fitted_ND, wide)
    ids_MJ = ids_MJ.astype(np.int64)
    exact_MJ = _pair_distances(vectors_MD, fitted_ND, ids_MJ)
    if wide < len(fitted_ND):
        largest = max(float(np.einsum("nd,nd->n", each, each).max()) for each in (vectors_MD, fitted_ND))
        rounding = 8 * np.sqrt(vectors_MD.shape[1]) * np.finfo(np.float32).eps * largest
        unseen_M = np.sqrt(np.maximum(squares_MJ[:, -1].astype(np.float64) - rounding, 0))
        doubtful = np.flatnonzero(np.partition(exact_MJ, k - 1, axis=1)[:, k - 1] > unseen_M)
        if len(doubtful):
            ids_MJ[doubtful] = _searched_again(vectors_MD[doubtful], fitted_ND, wide)
            exact_MJ[doubtful] = _pair_distances(vectors_MD[doubtful], fitted_ND, ids_MJ[doubtful])
    order = np.lexsort((ids_MJ, exact_MJ), axis=1)[:, :k]
    return np.take_along_axis(ids_MJ, order, 1), np.take_along_axis(exact_MJ, order, 1)


def _searched_again(vectors_MD: Vectors, fitted_ND: Vectors, k: int) -> Ids:
    """Ids int64 [M, k] of the nearest fitted points in any order, in float64; O(M N D), 8 N D bytes."""
    everything = _centred(fitted_ND)
    rows = max(1, _CELLS_AT_A_TIME // len(fitted_ND))
    blocks = (_squares(vectors_MD[start : start + rows], everything)[0] for start in range(0, len(vectors_MD), rows))
    return np.concatenate([np.argpartition(squares_MN, k - 1, axis=1)[:, :k] for squares_MN in blocks])


def _pair_distances(vectors_MD: Vectors, fitted_ND: Vectors, ids_MJ: Ids) -> Lambdas:
    """Distances from each vector to the fitted points in its row of ids, float64 [M, J], from differences."""
    result = np.empty(ids_MJ.shape)
    rows = max(1, _CELLS_AT_A_TIME // max(1, vectors_MD.shape[1] * ids_MJ.shape[1]))
    for start in range(0, len(vectors_MD), rows):
        part = slice(start, start + rows)
        difference = fitted_ND[ids_MJ[part]].astype(np.float64) - vectors_MD[part, None].astype(np.float64)
        result[part] = np.sqrt(np.einsum("mjd,mjd->mj", difference, difference))
    return result


class _Centred(NamedTuple):
    """Points that many distances are asked to: as given, and float64 around their centre, with squared norms."""

    vectors_ED: Vectors
    centre_D: Lambdas
    around_ED: Lambdas
    norms_E: Lambdas


def _centred(vectors_ED: Vectors) -> _Centred:
    around_ED = vectors_ED.astype(np.float64)
    centre_D = around_ED.mean(0)
    around_ED -= centre_D
    return _Centred(vectors_ED, centre_D, around_ED, np.einsum("ed,ed->e", around_ED, around_ED))


def _squares(vectors_MD: Vectors, nodes: _Centred) -> tuple[Lambdas, Lambdas]:
    """Squared distances by a matrix product, and the sums of squared norms they come from; both float64 [M, E]."""
    asked_MD = vectors_MD.astype(np.float64) - nodes.centre_D
    norms_ME = np.einsum("md,md->m", asked_MD, asked_MD)[:, None] + nodes.norms_E
    return norms_ME - 2.0 * (asked_MD @ nodes.around_ED.T), norms_ME


def _distances(vectors_MD: Vectors, nodes: _Centred) -> Lambdas:
    """All distances float64 [M, E]; where the product's terms cancel they are computed again from differences."""
    squares, norms = _squares(vectors_MD, nodes)
    rows, columns = np.nonzero(squares < _CANCELLED * norms)
    at_a_time = max(1, _CELLS_AT_A_TIME // vectors_MD.shape[1])
    for start in range(0, len(rows), at_a_time):
        row, column = rows[start : start + at_a_time], columns[start : start + at_a_time]
        difference = vectors_MD[row].astype(np.float64) - nodes.vectors_ED[column]
        squares[row, column] = np.einsum("pd,pd->p", difference, difference)
    result: Lambdas = np.sqrt(np.maximum(squares, 0.0))
    return result
