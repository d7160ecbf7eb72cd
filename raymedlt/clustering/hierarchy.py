"""Spanning tree to flat clusters: the one module that touches hdbscan's private, compiled tree code.

Reusing it (`_hdbscan_tree.condense_tree`, `compute_stability`, `get_clusters`) means that a tree equal to hdbscan's
gives labels equal to hdbscan's. A test fails loudly when a version moves these names.

Ties decide more than one would think: core distances make many edges equally long (6 % of the edges on real sentences),
the order in which equal edges merge moves border points in and out of clusters, and hdbscan agrees with itself only to
an adjusted Rand index of .98 when its rows are shuffled. `prim_walk` visits the points as hdbscan's Prim does, equal
edges by smaller point number, so that on the same rows the same ties fall the same way.
"""

from __future__ import annotations

import heapq
import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.margin import Margin, narrowest
from raymedlt.clustering.spanning_tree import Edges, joined

NO_TREE: npt.NDArray[np.void] = np.zeros(
    0, [("parent", np.intp), ("child", np.intp), ("lambda_val", float), ("child_size", np.intp)]
)
"""A condensed tree without points."""


class Flat(NamedTuple):
    """Flat clusters of a hierarchy (excess of mass, epsilon 0).

    labels_N: int32, -1 is noise; clusters are numbered by their smallest member. probabilities_N: float32, 0 for noise.
    persistence_C: float32, stability relative to the largest possible. condensed: hdbscan's condensed tree (fields
    parent, child, lambda_val, child_size), lambda = 1 / distance. exemplars_C: per cluster the points that persist
    longest in its leaves. linkage: float64 [R-1, 4], the single-linkage tree of the rows (SciPy's format).
    margin: the narrowest decision for or against a large cluster.
    """

    labels_N: npt.NDArray[np.int32]
    probabilities_N: npt.NDArray[np.float32]
    persistence_C: npt.NDArray[np.float32]
    condensed: npt.NDArray[np.void]
    exemplars_C: list[npt.NDArray[np.int64]]
    linkage: npt.NDArray[np.float64]
    margin: Margin


def prim_walk(
    graph: Edges, weights_N: npt.NDArray[np.int64], core_N: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The edges that Prim's algorithm takes from row 0 on: from, to (both int64 [R-1]) and weight, float64 [R-1].

    Rows are the points, each as often as its weight says, copy after copy: R = sum of the weights. `graph` holds a
    minimum spanning tree of the points and every edge that ties with one of its edges. Of equally near rows the one
    with the smaller number goes first; of equally short edges to it, the one from the row that was visited first.
    Copies of a point lie at mutual reachability core(p) from each other. O(E log E + R) in Python: 0.4 s for 75,000.
    """
    points = len(weights_N)
    starts_N = np.r_[0, np.cumsum(weights_N)]
    source, target = np.r_[graph.low, graph.high], np.r_[graph.high, graph.low]
    by_source = np.argsort(source, kind="stable")
    starts = np.searchsorted(source[by_source], np.arange(points + 1)).tolist()
    targets, lengths = target[by_source].tolist(), np.r_[graph.weight, graph.weight][by_source].tolist()
    rows, core, weights = starts_N.tolist(), core_N.tolist(), weights_N.tolist()
    nearest, origin = [np.inf] * points, [0] * points
    visited = bytearray(points)
    sources, order, steps = [], [], []
    heap = [(0.0, 0, 0)] if points else []
    while heap:
        length, row, point = heapq.heappop(heap)
        if row > rows[point]:  # a further copy
            sources.append(origin[point])
            order.append(row)
            steps.append(length)
            if row + 1 < rows[point + 1]:
                heapq.heappush(heap, (length, row + 1, point))
            continue
        if visited[point]:
            continue
        visited[point] = 1
        sources.append(origin[point])
        order.append(row)
        steps.append(length)
        if weights[point] > 1:
            if row == 0 or core[point] < length:
                origin[point] = row
            heapq.heappush(heap, (core[point], row + 1, point))
        for place in range(starts[point], starts[point + 1]):
            other = targets[place]
            if lengths[place] < nearest[other] and not visited[other]:
                nearest[other], origin[other] = lengths[place], row
                heapq.heappush(heap, (lengths[place], rows[other], other))
    return np.array(sources[1:], np.int64), np.array(order[1:], np.int64), np.array(steps[1:], np.float64)


def single_linkage(
    source: npt.NDArray[np.int64], target: npt.NDArray[np.int64], weight: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Merges in the order of the edges, float64 [R-1, 4]: two nodes, distance, size (SciPy's linkage format).

    The same as hdbscan's `label`, whose union-find forgets to shorten its paths and is quadratic on real trees (4 s at
    75,000 sentences). O(R log R) in Python.
    """
    rows = len(source) + 1
    parent = list(range(2 * rows - 1))
    sizes = [1] * rows + [0] * (rows - 1)
    left, right = [0] * (rows - 1), [0] * (rows - 1)
    for number, ends in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        a, b = ends
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        left[number], right[number] = a, b
        node = rows + number
        parent[a] = parent[b] = node
        sizes[node] = sizes[a] + sizes[b]
    return np.column_stack([left, right, weight, sizes[rows:]]).astype(np.float64)


def simultaneous_linkage(
    tree: Edges, weights_N: npt.NDArray[np.int64], core_N: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Merges of the rows (see `prim_walk`), float64 [R-1, 4], where all that happens at one distance happens at once.

    "In case of ties, edges must be removed simultaneously" (Campello, Moulavi, Sander 2013, algorithm 1, step 4.1).
    A binary tree can say so: the pieces that join at one distance do so one by one, the largest first, so that two
    small ones never pass for a cluster of their own. The result depends on distances alone: not on which minimum
    spanning tree was found, and on the order of the rows only for pieces that are equal in size.
    """
    rows = int(weights_N.sum())
    first = np.r_[0, np.cumsum(weights_N)[:-1]]
    copies = np.setdiff1d(np.arange(rows), first)
    left = np.r_[first[tree.low], copies - 1]
    right = np.r_[first[tree.high], copies]
    weight = np.r_[tree.weight, np.repeat(core_N, weights_N)[copies]]
    order = np.argsort(weight, kind="stable")
    left, right, weight = left[order], right[order], weight[order]
    ends = np.flatnonzero(np.r_[weight[1:] != weight[:-1], True]) + 1
    lefts, rights = left.tolist(), right.tolist()
    parent, sizes = list(range(2 * rows - 1)), [1] * rows + [0] * (rows - 1)
    one, other = [0] * (rows - 1), [0] * (rows - 1)
    node = rows

    def root(a: int) -> int:
        """The piece that holds node a by now."""
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    begin = 0
    for end in ends.tolist():
        if end == begin + 1:
            groups = [[root(lefts[begin]), root(rights[begin])]]
        else:
            groups = _pieces([(root(lefts[e]), root(rights[e])) for e in range(begin, end)])
        for pieces in groups:
            pieces.sort(key=lambda piece: (-sizes[piece], piece))
            whole = pieces[0]
            for piece in pieces[1:]:
                one[node - rows], other[node - rows] = whole, piece
                parent[whole] = parent[piece] = node
                sizes[node] = sizes[whole] + sizes[piece]
                whole, node = node, node + 1
        begin = end
    return np.column_stack([one, other, weight, sizes[rows:]]).astype(np.float64)


def _pieces(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """The connected groups of numbers that the pairs join."""
    group_of: dict[int, list[int]] = {}
    for a, b in pairs:
        mine, theirs = group_of.setdefault(a, [a]), group_of.setdefault(b, [b])
        if mine is not theirs:
            if len(mine) < len(theirs):
                mine, theirs = theirs, mine
            mine.extend(theirs)
            for number in theirs:
                group_of[number] = mine
    return list({id(group): group for group in group_of.values()}.values())


def row_linkage(
    tree: Edges, core_N: npt.NDArray[np.float64], weights_N: npt.NDArray[np.int64] | None, ties: Edges | None
) -> npt.NDArray[np.float64]:
    """The single-linkage tree of the rows, float64 [R-1, 4]; arguments as for `flat_clusters`."""
    weights_N = np.ones(len(core_N), np.int64) if weights_N is None else weights_N
    if ties is None:
        return simultaneous_linkage(tree, weights_N, core_N)
    source, target, weight = prim_walk(joined(tree, ties), weights_N, core_N)
    # The default argsort is hdbscan's too, and it decides which of two equal merges comes first.
    order = np.argsort(weight)
    return single_linkage(source[order], target[order], weight[order])


def flat_clusters(
    tree: Edges,
    core_N: npt.NDArray[np.float64],
    min_cluster_size: int,
    weights_N: npt.NDArray[np.int64] | None = None,
    ties: Edges | None = None,
    linkage: npt.NDArray[np.float64] | None = None,
) -> Flat:
    """Condense the single-linkage tree and choose the most stable clusters (excess of mass).

    Args:
        tree: a minimum spanning tree of mutual reachability.
        core_N: core distances, float64 [N].
        weights_N: int64 [N], how many coincident points each point stands for; default one each.
        ties: edges that other minimum spanning trees may hold: equal distances are then taken in hdbscan's order
            (`prim_walk`). Default: all at once (`simultaneous_linkage`).
        linkage: `row_linkage` of all this, if it is known already.
    """
    from hdbscan._hdbscan_tree import compute_stability, condense_tree, get_clusters

    points = len(core_N)
    weights_N = np.ones(points, np.int64) if weights_N is None else weights_N
    rows = int(weights_N.sum())
    if rows < max(2, min_cluster_size):
        noise = np.full(points, -1, np.int32)
        return Flat(
            noise, np.zeros(points, np.float32), np.zeros(0, np.float32), NO_TREE, [], np.zeros((0, 4)), Margin()
        )
    if linkage is None:
        linkage = row_linkage(tree, core_N, weights_N, ties)
    condensed = condense_tree(linkage, min_cluster_size)
    stability = compute_stability(condensed)
    labels, probabilities, persistence = get_clusters(condensed, dict(stability))
    first = np.r_[0, np.cumsum(weights_N)[:-1]]
    # Copies of a point may part where distances tie; the first one speaks for it, in numbering too.
    order = _by_smallest_member(np.r_[labels[first], labels])
    renumber = np.full(len(order) + 1, -1, np.int32)  # the last place keeps -1
    renumber[order] = np.arange(len(order), dtype=np.int32)
    labels_R = renumber[labels]
    exemplars = _exemplars(condensed, labels_R, rows, len(order))
    point_of = np.repeat(np.arange(points), weights_N)
    return Flat(
        labels_R[first],
        probabilities.astype(np.float32)[first],
        np.asarray(persistence, np.float32)[order],
        condensed,
        [np.unique(point_of[members]) for members in exemplars],
        linkage,
        narrowest(condensed, stability),
    )


def _by_smallest_member(labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Old cluster numbers in order of their first point."""
    numbers, first = np.unique(labels, return_index=True)
    clustered = numbers >= 0
    result: npt.NDArray[np.intp] = numbers[clustered][np.argsort(first[clustered])]
    return result


def _exemplars(
    condensed: npt.NDArray[np.void], labels_N: npt.NDArray[np.int32], points: int, clusters: int
) -> list[npt.NDArray[np.int64]]:
    """Points that leave a leaf of the condensed tree last, gathered by flat cluster."""
    parent, child, lambda_val = condensed["parent"], condensed["child"], condensed["lambda_val"]
    is_point = child < points
    has_children = np.unique(parent[~is_point])
    in_leaf = is_point & ~np.isin(parent, has_children)
    node, point, value = parent[in_leaf] - points, child[in_leaf], lambda_val[in_leaf]
    last = np.zeros(int(node.max(initial=-1)) + 1)
    np.maximum.at(last, node, value)
    members = np.sort(point[value == last[node]].astype(np.int64))
    by_cluster = members[np.argsort(labels_N[members], kind="stable")]
    starts = np.searchsorted(labels_N[by_cluster], np.arange(clusters + 1))
    return [by_cluster[start:stop] for start, stop in itertools.pairwise(starts)]
