"""Certified Borůvka: the minimum spanning tree of mutual reachability from short neighbour lists, every edge proved.

A spanning tree over a k-nearest-neighbour graph is wrong where a long edge is missing. Here every edge is proved before
it is taken. Point p knows its list, and a floor: any point outside the list has a mutual reachability to p of at least
floor(p) = max(core(p), bound(p)). In a round, component C has a best known outgoing edge of weight w(C). If w(C) is at
most the floor of every p in C, no unseen edge can beat it: the edge is certified. Points whose floor is below w(C) are
doubtful; they look again, lowest floor first, among the points outside C; what they find becomes a known edge and
raises their floor for good, because components only grow.

An edge needs to be proved from one of its ends only. So a round contracts as soon as half of the components have proved
theirs, and the component with the most doubtful points is never asked: the large one waits until the small ones have
come to it. This halves the second searches against asking every component in every round.

Edges are ordered by (mutual reachability, distance, smaller id, larger id), so ties fall the same way everywhere.

mreach(a, b) = max(core(a), core(b), d(a, b))   (Campello, Moulavi, Sander 2013)

Lists stay with their shards, which answer with one edge per component; this side holds O(N) numbers. Shape suffixes:
N points, C components, E edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.neighbours import Neighbours, Outside
from raymedlt.clustering.screening import Distances, Ids

Components = npt.NDArray[np.int32]

_ASKED_AT_FIRST = 64  # points of a component that look again in a round's first pass; each pass asks twice as many


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
    def none() -> Edges:
        """No edge."""
        return Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    @staticmethod
    def concatenate(parts: Sequence[Edges]) -> Edges:
        """All edges of `parts`, one after the other."""
        return Edges(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if parts else Edges.none()


def canonical_order(edges: Edges) -> npt.NDArray[np.int64]:
    """Permutation that sorts edges by (weight, distance, low, high)."""
    return np.lexsort((edges.high, edges.low, edges.distance, edges.weight))


def joined(*parts: Edges) -> Edges:
    """All edges, each pair once (a pair's numbers are equal wherever it was found: one formula), by (low, high)."""
    both = Edges.concatenate(parts)
    size = int(both.high.max(initial=0)) + 1
    _, first = np.unique(both.low * size + both.high, return_index=True)
    return both.take(first)


def list_edges(points_B: Ids, neighbours: Neighbours, core_N: Distances) -> Edges:
    """Every pair of a point and a member of its list, once, with its mutual reachability, in canonical order."""
    rows, columns = np.nonzero(neighbours.ids_BK >= 0)
    left, right = points_B[rows], neighbours.ids_BK[rows, columns]
    distance = neighbours.distances_BK[rows, columns]
    weight = np.maximum(np.maximum(core_N[left], core_N[right]), distance)
    edges = joined(Edges(np.minimum(left, right), np.maximum(left, right), weight, distance))
    return edges.take(canonical_order(edges))


class Contraction(NamedTuple):
    """A finished round: components int32 [N] before it, and per component the weight it chose (NaN: it chose none)."""

    component_N: Components
    chosen_C: Distances


class Lists:
    """The list edges of one shard, as far as they still lead from one component to another.

    What has been dropped would be dropped again: a worker that lost its lists begins with the whole ones and answers
    the same.
    """

    def __init__(self, edges: Edges) -> None:
        self.edges = edges

    def after(self, contraction: Contraction, component_N: Components) -> Edges:
        """Drop what has become internal; returns the edges that some minimum spanning tree might hold.

        An edge that ties with an edge of the tree weighs as much as what one of its two components chose in the round
        that merged them. (On the chain of chosen edges between the two, one of this weight was chosen by an end that
        has nothing lighter; follow the chain from there: all weigh the same, and the last was chosen by one of the
        two.) Clusters do not depend on which of such edges a tree holds, except through the order of equal merges.
        """
        self._drop_internal(contraction.component_N)
        low, high = contraction.component_N[self.edges.low], contraction.component_N[self.edges.high]
        weight = self.edges.weight
        possible = self.edges.take((contraction.chosen_C[low] == weight) | (contraction.chosen_C[high] == weight))
        self._drop_internal(component_N)
        return possible

    def minima(self, component_N: Components) -> Edges:
        """The first edge in canonical order of every component that has one here."""
        self._drop_internal(component_N)
        return minima(self.edges, component_N)

    def _drop_internal(self, component_N: Components) -> None:
        crossing = component_N[self.edges.low] != component_N[self.edges.high]
        if not crossing.all():
            self.edges = self.edges.take(crossing)


def minima(edges: Edges, component_N: Components) -> Edges:
    """The first of the given edges, which are in canonical order, that touches each component; each edge once."""
    count = int(component_N.max(initial=-1)) + 1
    first_C = np.full(count, len(edges.low))
    # Of repeated places the last assignment stays: from the back, that is the first edge.
    rank = np.arange(len(edges.low))[::-1]
    for ends in (edges.low, edges.high):
        of_ends = np.full(count, len(edges.low))
        of_ends[component_N[ends[::-1]]] = rank
        first_C = np.minimum(first_C, of_ends)
    return edges.take(np.unique(first_C[first_C < len(edges.low)]))


class Fleet(Protocol):
    """Whoever holds the lists and the index: this process, or Ray workers."""

    def minima(self, component_N: Components, contraction: Contraction | None) -> tuple[Edges, Edges]:
        """Per component the best list edge (some edges may repeat), and what `Lists.after` returned, of all shards."""
        ...

    def outside(self, points_B: Ids, component_N: Components, exhaustive: bool) -> Outside:
        """The best edge of each point to the outside of its component."""
        ...


class SpanningTree(NamedTuple):
    """N - 1 edges in canonical order, and what proving them took.

    certified: bool [N - 1], whether no unseen edge could be lighter (as far as the index sees, if it is partial).
    least_weight: the tree of least weight weighs at least this. ties: edges that other minimum trees may hold.
    second_searches: points that looked again, with repeats; exhaustive_searches: those of them that looked everywhere.
    """

    edges: Edges
    certified: npt.NDArray[np.bool_]
    least_weight: float
    ties: Edges
    rounds: int
    passes: int
    second_searches: int
    exhaustive_searches: int


class _Round(NamedTuple):
    """Per component the best known edge (a number into `edges`, len(edges) for none), its weight, doubtful points."""

    edges: Edges
    best_C: npt.NDArray[np.int64]
    weight_C: Distances
    doubtful_C: npt.NDArray[np.int64]


def minimum_spanning_tree(
    floor_N: Distances, fleet: Fleet, partial: bool = False, most_exhaustive: int | None = None
) -> SpanningTree:
    """Grow the tree, certifying each edge.

    Args:
        floor_N: any point outside p's list has a mutual reachability to p of at least floor_N[p].
        fleet: holds lists and index.
        partial: the index sees only the cells near a point. A point that finds nobody outside there looks everywhere.
        most_exhaustive: with a partial index, at most so many points look everywhere; what is still in doubt then is
            taken as it is known, and not certified. (One of each component more where no way out is known at all.)

    Time: O(N log N) here, a few rounds (at most log2 N contractions by half). Memory: O(N), and the found edges.
    """
    n = len(floor_N)
    floor_N = floor_N.copy()
    component_N = np.zeros(n, np.int32) if n == 0 else np.arange(n, dtype=np.int32)
    blind_N = np.zeros(n, bool)  # the cells near this point held nobody outside its component
    left = most_exhaustive if partial and most_exhaustive is not None else np.inf
    taken, proofs, floors, ties = [], [], [], []
    found = Edges.none()
    contraction: Contraction | None = None
    rounds = passes = searches = exhaustive = 0
    count = n
    while count > 1:
        rounds += 1
        listed, possible = fleet.minima(component_N, contraction)
        ties.append(possible)
        asked = _ASKED_AT_FIRST
        while True:
            state = _best(listed, found, component_N, count, floor_N)
            free_C = (state.doubtful_C == 0) & np.isfinite(state.weight_C)
            if free_C.mean() >= 0.5:
                break
            points = _to_ask(state, floor_N, component_N, asked)
            if partial:
                near, far = points[~blind_N[points]], points[blind_N[points]]
                far = far[: int(min(left, len(far)))]
                if len(near) + len(far) == 0:
                    if np.isfinite(state.weight_C).any():
                        free_C = _least_doubtful(state, free_C)
                        break
                    far = np.unique(component_N, return_index=True)[1]  # nobody knows a way out, yet the tree must span
                left = max(left - len(far), 0)
            else:
                near, far = points[:0], points
            passes, searches, exhaustive = passes + 1, searches + len(near) + len(far), exhaustive + len(far)
            for group, everywhere in ((near, False), (far, True)):
                if len(group):
                    answer = fleet.outside(group, component_N, everywhere)
                    found = joined(found, _learnt(group, answer, floor_N, blind_N))
            asked *= 2
        chosen = np.unique(state.best_C[free_C])
        edges = state.edges.take(chosen)
        taken.append(edges)
        proof, least = _proofs(state, free_C, chosen, floor_N, component_N)
        proofs.append(proof)
        floors.append(least)
        chosen_C = np.where(free_C, state.weight_C, np.nan)
        contraction = Contraction(component_N, chosen_C)
        component_N, count = _merged(component_N, count, edges)
        found = found.take(component_N[found.low] != component_N[found.high])
    if contraction is not None:
        ties.append(fleet.minima(component_N, contraction)[1])
    tree = Edges.concatenate(taken)
    order = canonical_order(tree)
    certified = np.concatenate(proofs)[order] if proofs else np.zeros(0, bool)
    least_weight = float(np.concatenate(floors).sum()) if floors else 0.0
    return SpanningTree(
        tree.take(order), certified, least_weight, Edges.concatenate(ties), rounds, passes, searches, exhaustive
    )


def _best(listed: Edges, found: Edges, component_N: Components, count: int, floor_N: Distances) -> _Round:
    edges = joined(listed, found)
    edges = edges.take(canonical_order(edges))
    best_C = np.full(count, len(edges.low))
    rank = np.arange(len(edges.low))
    np.minimum.at(best_C, component_N[edges.low], rank)
    np.minimum.at(best_C, component_N[edges.high], rank)
    weight_C = np.append(edges.weight, np.inf)[best_C]
    doubtful_C = np.bincount(component_N[floor_N < weight_C[component_N]], minlength=count)
    return _Round(edges, best_C, weight_C, doubtful_C)


def _to_ask(state: _Round, floor_N: Distances, component_N: Components, asked: int) -> Ids:
    """Doubtful points, lowest floors first, `asked` of each component, none of the one with the most."""
    doubtful = floor_N < state.weight_C[component_N]
    if len(state.doubtful_C) > 1:
        doubtful &= component_N != int(state.doubtful_C.argmax())
    points = np.flatnonzero(doubtful)
    points = points[np.lexsort((points, floor_N[points], component_N[points]))]
    owner = component_N[points]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(points) else np.zeros(0, np.int64)
    place = np.arange(len(points)) - np.repeat(starts, np.diff(np.r_[starts, len(points)]))
    return points[place < asked]


def _least_doubtful(state: _Round, free_C: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Nobody may look further: the half of the components with the fewest doubtful points take what they know."""
    known = np.isfinite(state.weight_C)
    order = np.lexsort((np.arange(len(free_C)), state.doubtful_C, ~known))
    chosen = np.zeros(len(free_C), bool)
    chosen[order[: max(1, len(free_C) // 2)]] = True
    return (chosen & known) | free_C


def _learnt(points_B: Ids, answer: Outside, floor_N: Distances, blind_N: npt.NDArray[np.bool_]) -> Edges:
    """The edges of an answer; raises the floors of those who found one, notes those who found nobody outside."""
    seen = np.flatnonzero(answer.other_B >= 0)
    points, other = points_B[seen], answer.other_B[seen]
    blind_N[points_B[answer.other_B < 0]] = True
    floor_N[points] = np.maximum(floor_N[points], answer.weight_B[seen])
    return Edges(np.minimum(points, other), np.maximum(points, other), answer.weight_B[seen], answer.distance_B[seen])


def _proofs(
    state: _Round,
    free_C: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int64],
    floor_N: Distances,
    component_N: Components,
) -> tuple[npt.NDArray[np.bool_], Distances]:
    """For each chosen edge: did a component prove it, and what its weight is at least."""
    lowest_C = np.full(len(free_C), np.inf)
    np.minimum.at(lowest_C, component_N, floor_N)
    certified, least = np.zeros(len(chosen), bool), np.zeros(len(chosen))
    at = np.searchsorted(chosen, state.best_C[free_C])
    np.logical_or.at(certified, at, state.doubtful_C[free_C] == 0)
    np.maximum.at(least, at, np.minimum(state.weight_C[free_C], lowest_C[free_C]))
    return certified, least


def _merged(component_N: Components, count: int, edges: Edges) -> tuple[Components, int]:
    """Component numbers after the chosen edges joined their ends."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = component_N[edges.low], component_N[edges.high]
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(count, count))
    remaining, of_component = connected_components(graph, directed=False)
    return of_component.astype(np.int32)[component_N], int(remaining)
