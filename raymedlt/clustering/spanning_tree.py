"""Certified Borůvka: the exact minimum spanning tree of mutual reachability, from short neighbour lists.

A spanning tree over a k-nearest-neighbour graph is wrong where a long edge is missing. Here every edge is proved
before it is taken. Point p knows its list, and a bound: any point outside the list is at least bound(p) away, hence at
a mutual
reachability of at least max(core(p), bound(p)). In a round, component C has a best known outgoing edge of weight w(C).
If w(C) is at most that floor for every p in C, no unseen edge can beat it: the edge is certified. Otherwise the points
whose floor is below w(C) look again, nearest floor first, among all points outside C; what they find becomes a known
edge and raises their floor for good, because components only grow.

Edges are ordered by (mutual reachability, distance, smaller id, larger id), so ties fall the same way everywhere.

mreach(a, b) = max(core(a), core(b), d(a, b))   (Campello, Moulavi, Sander 2013)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.neighbours import Distances, Ids, Neighbours, Vectors, pair_distances, rounding_of_squares

_ASKED_PER_COMPONENT = 64  # points of one component that look again at a time; asking fewer first saves most searches
_BLOCK_CELLS = 32_000_000  # cells of the distance block of a second search: 128 MB in float32


class Edges(NamedTuple):
    """Edges with low < high: weight (mutual reachability) and distance float64, ids int64, all [E]."""

    low: Ids
    high: Ids
    weight: Distances
    distance: Distances

    def take(self, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Edges:
        """The chosen edges, in the order chosen."""
        return Edges(self.low[which], self.high[which], self.weight[which], self.distance[which])

    @staticmethod
    def concatenate(parts: Sequence[Edges]) -> Edges:
        """All edges of `parts`, one after the other."""
        return Edges(
            np.concatenate([part.low for part in parts]),
            np.concatenate([part.high for part in parts]),
            np.concatenate([part.weight for part in parts]),
            np.concatenate([part.distance for part in parts]),
        )


class SpanningTree(NamedTuple):
    """N - 1 edges in canonical order, and what proving them took."""

    edges: Edges
    rounds: int
    second_searches: int  # points that looked again, counted with repeats
    certified: int  # edges proved to be in a minimum spanning tree; equals N - 1 here


def canonical_order(edges: Edges) -> npt.NDArray[np.int64]:
    """Permutation that sorts edges by (weight, distance, low, high)."""
    return np.lexsort((edges.high, edges.low, edges.distance, edges.weight))


def list_edges(neighbours: Neighbours, core_N: Distances) -> Edges:
    """Every pair that appears in a list, once, with its mutual reachability."""
    n, k = neighbours.ids_NK.shape
    left, right = np.repeat(np.arange(n), k), neighbours.ids_NK.ravel()
    distance = neighbours.distances_NK.ravel()
    low, high = np.minimum(left, right), np.maximum(left, right)
    _, first = np.unique(low * n + high, return_index=True)
    low, high, distance = low[first], high[first], distance[first]
    return Edges(low, high, np.maximum(np.maximum(core_N[low], core_N[high]), distance), distance)


def minimum_spanning_tree(vectors_ND: Vectors, neighbours: Neighbours, core_N: Distances) -> SpanningTree:
    """The minimum spanning tree of mutual reachability, every edge certified.

    Args:
        vectors_ND: float32 [N, D], N >= 1.
        neighbours: lists of any length (longer lists mean fewer second searches), with true bounds.
        core_N: core distances, float64 [N].

    Time: O(E log E) per round with at most log2(N) rounds, plus O(N D) for each second search. Memory: O(E) plus one
    block of 128 MB.
    """
    n = len(vectors_ND)
    floor_N = np.maximum(core_N, neighbours.bound_N)
    known = _sorted(list_edges(neighbours, core_N))
    component_N = np.arange(n)
    taken: list[Edges] = []
    rounds = searches = 0
    search = _OutsideSearch(vectors_ND, core_N)
    count = n
    while count > 1:
        rounds += 1
        known = _crossing(known, component_N)
        while True:
            best_C = _best_edge(known, component_N, count)
            weight_C = np.append(known.weight, np.inf)[best_C]
            doubtful = _doubtful_points(floor_N, weight_C, component_N)
            if len(doubtful) == 0:
                break
            found, found_floor = search.nearest_outside(doubtful, component_N)
            floor_N[doubtful] = np.maximum(floor_N[doubtful], found_floor)
            searches += len(doubtful)
            known = _sorted(joined(known, found))
        chosen = np.unique(best_C)
        edges = known.take(chosen)
        taken.append(edges)
        component_N, count = _merge(component_N, count, edges)
    tree = _sorted(Edges.concatenate(taken)) if taken else known
    return SpanningTree(tree, rounds, searches, len(tree.low))


def _sorted(edges: Edges) -> Edges:
    return edges.take(canonical_order(edges))


def joined(known: Edges, found: Edges) -> Edges:
    """Both, each pair once (a pair's numbers are equal wherever it was found: one formula)."""
    both = Edges.concatenate([known, found])
    size = int(both.high.max(initial=0)) + 1
    _, first = np.unique(both.low * size + both.high, return_index=True)
    return both.take(first)


def _crossing(edges: Edges, component_N: npt.NDArray[np.int64]) -> Edges:
    return edges.take(component_N[edges.low] != component_N[edges.high])


def _best_edge(edges: Edges, component_N: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Per component the first crossing edge in canonical order; len(edges) where none is known."""
    best_C = np.full(count, len(edges.low))
    rank = np.arange(len(edges.low))
    np.minimum.at(best_C, component_N[edges.low], rank)
    np.minimum.at(best_C, component_N[edges.high], rank)
    return best_C


def _doubtful_points(
    floor_N: Distances, weight_C: Distances, component_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Points that could hide a better edge than their component's best: lowest floors first, a few per component."""
    points = np.flatnonzero(floor_N < weight_C[component_N])
    if len(points) == 0:
        return points
    points = points[np.lexsort((points, floor_N[points], component_N[points]))]
    owner = component_N[points]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    place = np.arange(len(points)) - np.repeat(starts, np.diff(np.r_[starts, len(points)]))
    return points[place < _ASKED_PER_COMPONENT]


def _merge(component_N: npt.NDArray[np.int64], count: int, edges: Edges) -> tuple[npt.NDArray[np.int64], int]:
    """Component numbers after the chosen edges joined their ends."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = component_N[edges.low], component_N[edges.high]
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(count, count))
    joined, of_component = connected_components(graph, directed=False)
    return of_component[component_N].astype(np.int64), int(joined)


class _OutsideSearch:
    """Exact search for a point's least mutual reachability to any point outside its component."""

    def __init__(self, vectors_ND: Vectors, core_N: Distances) -> None:
        self.vectors_ND, self.core_N = vectors_ND, core_N
        self.squares_N = np.einsum("nd,nd->n", vectors_ND, vectors_ND)
        self.core_squares_N = (core_N**2).astype(np.float32)
        self.rounding = rounding_of_squares(vectors_ND)

    def nearest_outside(
        self, points: npt.NDArray[np.int64], component_N: npt.NDArray[np.int64]
    ) -> tuple[Edges, Distances]:
        """The best edge from each point to the outside, and its weight, below which none exists.

        float32 finds every pair within twice the rounding of the minimum, so the true minimum is among them; float64
        decides.
        """
        rows = max(1, _BLOCK_CELLS // len(self.vectors_ND))
        asked_parts, other_parts = [], []
        for start in range(0, len(points), rows):
            block = points[start : start + rows]
            squares_PN = -2.0 * (self.vectors_ND[block] @ self.vectors_ND.T)
            squares_PN += self.squares_N
            squares_PN += self.squares_N[block][:, None]
            np.maximum(squares_PN, self.core_squares_N, out=squares_PN)
            np.maximum(squares_PN, self.core_squares_N[block][:, None], out=squares_PN)
            squares_PN[component_N[block][:, None] == component_N] = np.inf
            row, other = np.nonzero(squares_PN <= squares_PN.min(1, keepdims=True) + 2 * self.rounding)
            asked_parts.append(block[row])
            other_parts.append(other)
        asked, other = np.concatenate(asked_parts), np.concatenate(other_parts)
        distance = pair_distances(self.vectors_ND, asked, other)
        weight = np.maximum(np.maximum(self.core_N[asked], self.core_N[other]), distance)
        low, high = np.minimum(asked, other), np.maximum(asked, other)
        order = np.lexsort((high, low, distance, weight, asked))
        first = order[np.r_[True, asked[order][1:] != asked[order][:-1]]]
        floor = np.empty(len(points))
        floor[np.argsort(points, kind="stable")] = weight[first]
        return Edges(low[first], high[first], weight[first], distance[first]), floor
