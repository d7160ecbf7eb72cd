"""What lists of nearby cells got wrong, mended where it matters most: at the top of the hierarchy.

A point in sparse surroundings has its neighbours in many cells, so its list misses more than others do: its core
distance is too large, and five such points never look like the small cluster that they are. And where a list of a
border point lacks the one short edge, two groups part too early. Sparse points and early splits decide over the
largest clusters, and a random sample hardly ever meets them. So, with a partial index,

- the points with the largest core distances look everywhere (`sparsest`);
- who is near a point says so, though its own list has missed it (`mutual_cores`);
- the splits of the largest nodes of the hierarchy are looked at again: is there nothing lighter, anywhere, that leaves
  the smaller side (`SplitChecks`; cut property of minimum spanning trees)?

All of it follows from lists and tree alone, not from shards or workers. Shape suffixes: N points, B points of a part,
K list length, R rows of the hierarchy, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.neighbours import Neighbours, Outside, core_distances
from raymedlt.clustering.screening import ROWS, Distances, Ids
from raymedlt.clustering.spanning_tree import Components, Edges, Fleet, SpanningTree, canonical_order, joined

PASSES = 3
_SPARSE_SHARE = 50  # one point in so many has a list from everywhere
_SPLIT_SHARE = 25  # as many searches as one point in so many, for splits
_SEARCHES = 4096  # at most, for either: a share of all points would make this quadratic
_ASKED = 256  # points of one side of a split

Part = tuple[Ids, Neighbours]
"""Points [B] and their lists."""


def sparsest(core_N: Distances) -> Ids:
    """The points that look everywhere: those with the largest core distances (the smaller number first)."""
    count = min(len(core_N) // _SPARSE_SHARE, _SEARCHES)
    points: Ids = np.sort(np.argsort(-core_N, kind="stable")[:count])
    return points


def in_rows(points: Ids) -> list[Ids]:
    """Points in groups of which a search makes one product."""
    return [points[start : start + ROWS] for start in range(0, len(points), ROWS)]


def mutual_cores(
    parts: Callable[[], Iterable[Part]], core_N: Distances, min_samples: int, weights_N: Ids | None = None
) -> Distances:
    """Core distances, float64 [N], from the lists of both sides: being near is mutual, being listed is not.

    Args:
        parts: all lists, gone through twice. A point may come again; its last list counts.
        core_N: core distances from the points' own lists.

    O(N K) time. Memory: 24 bytes for each entry of a list that lies nearer than the other's core distance (about four
    a point).
    """
    n = len(core_N)
    near = []
    for points_B, lists in parts():
        rows, columns = np.nonzero(lists.distances_BK < core_N[lists.ids_BK])  # an entry of -1 is infinitely far
        near.append((lists.ids_BK[rows, columns], points_B[rows], lists.distances_BK[rows, columns]))
    target, source, distance = (np.concatenate(arrays) for arrays in zip(*near, strict=True))
    _, first = np.unique(target * n + source, return_index=True)
    order = first[np.lexsort((source[first], distance[first], target[first]))]
    target, source, distance = target[order], source[order], distance[order]
    result = core_N.copy()
    for points_B, lists in parts():
        starts, stops = np.searchsorted(target, points_B), np.searchsorted(target, points_B, "right")
        rows = np.repeat(np.arange(len(points_B)), stops - starts)
        at = np.arange(len(rows)) + np.repeat(starts - np.r_[0, np.cumsum(stops - starts)[:-1]], stops - starts)
        missed = ~(lists.ids_BK[rows] == source[at][:, None]).any(1)
        rows, at = rows[missed], at[missed]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)
        rows, at, place = rows[place < min_samples], at[place < min_samples], place[place < min_samples]
        open_B, row = np.unique(rows, return_inverse=True)
        ids, distances = np.full((len(open_B), min_samples), -1), np.full((len(open_B), min_samples), np.inf)
        ids[row, place], distances[row, place] = source[at], distance[at]
        ids = np.concatenate([lists.ids_BK[open_B], ids], 1)
        distances = np.concatenate([lists.distances_BK[open_B], distances], 1)
        nearest = np.lexsort((ids, distances), axis=1)
        both = Neighbours(
            np.take_along_axis(ids, nearest, 1), np.take_along_axis(distances, nearest, 1), lists.bound_B[open_B]
        )
        result[points_B] = core_distances(lists, min_samples, weights_N, points_B)
        result[points_B[open_B]] = core_distances(both, min_samples, weights_N, points_B[open_B])
    return result


class Cut(NamedTuple):
    """A merge at `weight`, and the points of its smaller side: nothing lighter should leave them."""

    weight: float
    members: Ids


def node_sizes(linkage: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows below each node of a single-linkage tree, int64 [2 R - 1]."""
    sizes: npt.NDArray[np.int64] = np.r_[np.ones(len(linkage) + 1, np.int64), linkage[:, 3].astype(np.int64)]
    return sizes


def cut_at(linkage: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], merge: int, point_of: Ids) -> Cut | None:
    """The cut that a merge speaks of; None where copies of one point meet."""
    rows = len(linkage) + 1
    left, right = linkage[merge, :2].astype(np.int64).tolist()
    smaller, larger = (left, right) if sizes[left] <= sizes[right] else (right, left)
    members = np.unique(point_of[_rows_below(linkage, smaller, rows)])
    if len(members) == 1 and point_of[_rows_below(linkage, larger, rows, most=1)][0] == members[0]:
        return None
    return Cut(float(linkage[merge, 2]), members)


def _rows_below(linkage: npt.NDArray[np.float64], node: int, rows: int, most: int | None = None) -> Ids:
    """The rows below a node (the first few, if `most` says so)."""
    found: list[int] = []
    stack = [node]
    while stack and (most is None or len(found) < most):
        node = stack.pop()
        if node < rows:
            found.append(node)
        else:
            stack.extend((int(linkage[node - rows, 0]), int(linkage[node - rows, 1])))
    return np.array(found, np.int64)


def across(
    cuts: Sequence[Cut], asked: Sequence[Ids], points: int, outside: Callable[[Ids, Components], Outside]
) -> list[Edges]:
    """For each cut the best edges that leave its smaller side, one from each point asked that finds somebody.

    Sides without a common point are asked together.
    """
    found = [Edges.none()] * len(cuts)
    waiting = list(range(len(cuts)))
    while waiting:
        component_N, batch, later = np.zeros(points, np.int32), list[int](), []
        for number in waiting:
            if component_N[cuts[number].members].any():
                later.append(number)
            else:
                batch.append(number)
                component_N[cuts[number].members] = len(batch)
        points_B = np.concatenate([asked[number] for number in batch])
        answer = outside(points_B, component_N)
        edges = Edges(
            np.minimum(points_B, answer.other_B),
            np.maximum(points_B, answer.other_B),
            answer.weight_B,
            answer.distance_B,
        )
        ends = np.cumsum([len(asked[number]) for number in batch])
        for number, stop in zip(batch, ends.tolist(), strict=True):
            own = np.arange(stop - len(asked[number]), stop)
            found[number] = edges.take(own[answer.other_B[own] >= 0])
        waiting = later
    return found


class SplitChecks:
    """Splits of the largest nodes, checked by looking everywhere, within a budget.

    Args:
        fleet: looks everywhere.
        core_N: core distances, as in the tree. point_of: int64 [R], the point of each row.
        min_cluster_size: a split has so many rows on both sides.

    `splits`: so many were checked so far; `repaired_edges`: so many edges came into the tree by it.
    """

    def __init__(self, fleet: Fleet, core_N: Distances, point_of: Ids, min_cluster_size: int) -> None:
        self.fleet, self.core_N, self.point_of, self.min_cluster_size = fleet, core_N, point_of, min_cluster_size
        self.splits = self.repaired_edges = 0
        self._left = min(len(core_N) // _SPLIT_SHARE, _SEARCHES)
        self._seen: set[bytes] = set()

    def mended(self, tree: SpanningTree, linkage: npt.NDArray[np.float64]) -> SpanningTree:
        """The tree with what `lighter` finds; the same object if that is nothing."""
        found = self.lighter(linkage)
        if len(found.low) == 0:
            return tree
        tree, taken = with_edges(tree, found)
        self.repaired_edges += taken
        return tree

    def lighter(self, linkage: npt.NDArray[np.float64]) -> Edges:
        """Edges that are lighter than the split they cross, of the splits not checked yet, the largest parents first.

        The excess of mass weighs a node against all that is below, so the more points a node has, the more hangs on
        where it ends. Only points with a core distance below the split's can have a lighter edge; of a side with many
        of them those with the largest core distances are asked, which is its border.
        """
        sizes = node_sizes(linkage)
        smaller = sizes[linkage[:, :2].astype(np.int64)].min(1)
        merges = np.flatnonzero(smaller >= self.min_cluster_size)
        merges = merges[np.lexsort((-merges, -linkage[merges, 3]))]
        cuts, asked = list[Cut](), list[Ids]()
        for merge in merges.tolist():
            if self._left <= 0:
                break
            cut = cut_at(linkage, sizes, merge, self.point_of)
            if cut is None or (key := cut.members.tobytes()) in self._seen:
                continue
            self._seen.add(key)
            self.splits += 1
            doubtful = cut.members[self.core_N[cut.members] < cut.weight]
            border = doubtful[np.argsort(-self.core_N[doubtful], kind="stable")[: min(_ASKED, self._left)]]
            if len(border):
                cuts.append(cut)
                asked.append(np.sort(border))
                self._left -= len(border)
        found = across(cuts, asked, len(self.core_N), lambda points, parts: self.fleet.outside(points, parts, True))
        return Edges.concatenate(
            [edges.take(edges.weight < cut.weight * (1 - 1e-9)) for edges, cut in zip(found, cuts, strict=True)]
        )


def with_edges(tree: SpanningTree, found: Edges) -> tuple[SpanningTree, int]:
    """The minimum spanning tree of a tree and some more edges, and how many of these it took.

    A new edge is certified if those that left are: it is lighter than what the index saw.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    n = len(tree.edges.low) + 1
    graph = joined(tree.edges, found)
    graph = graph.take(canonical_order(graph))
    # SciPy takes a length of zero for no edge; so an edge's length is its rank in the canonical order.
    ranks = coo_array((np.arange(1, len(graph.low) + 1), (graph.low, graph.high)), shape=(n, n))
    edges = graph.take(np.sort(minimum_spanning_tree(ranks.tocsr()).data.astype(np.int64)) - 1)
    before, after = tree.edges.low * n + tree.edges.high, edges.low * n + edges.high
    order = np.argsort(before)
    stayed = np.isin(after, before)
    certified = np.full(n - 1, tree.certified[~np.isin(before, after)].all())
    certified[stayed] = tree.certified[order[np.searchsorted(before[order], after[stayed])]]
    saved = float(tree.edges.weight.sum() - edges.weight.sum())
    return (
        tree._replace(edges=edges, certified=certified, least_weight=tree.least_weight - saved),
        int((~stayed).sum()),
    )
