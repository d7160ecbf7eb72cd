"""Every point's nearest others, and a bound on what it does not know.

An `Index` screens in low precision (screening.py) and computes whatever counts again in float64, in one way for the
whole package (`pair_distances`), so that equal pairs have equal distances whoever computes them. Without a partition
every pair is looked at and bounds are true; with one (partition.py) a point sees the cells near it, and bounds hold for
what those cells contain.

Shape suffixes: N points, D dimensions, B points asked, K list length, P pairs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.partition import Partition, make_partition, nearest_cells
from raymedlt.clustering.screening import (
    COLUMNS,
    PRECISIONS,
    ROWS,
    Candidates,
    Distances,
    Ids,
    Limits,
    Precision,
    Screen,
    Vectors,
    Visit,
    quickest_precision,
)

_SPARE = 6  # candidates beyond the list: what rounding may have put in the wrong order
_OUTSIDE = 8  # candidates for the nearest point outside a component
_WIDER = 4  # so many times the points of a group where each sees few cells
_LONGER = 5  # so many times the candidates where the first ones prove too little
_PAIRS_AT_A_TIME = 1000  # float64 rows of pair_distances that the caches hold


class Neighbours(NamedTuple):
    """Nearest neighbours of some points, the point itself left out.

    ids_BK: int64, by (distance, id). distances_BK: float64, Euclidean. bound_B: float64; a point that was looked at
    and is not in p's list is at least bound_B[p] away from p.
    """

    ids_BK: Ids
    distances_BK: Distances
    bound_B: Distances

    @staticmethod
    def concatenate(parts: list[Neighbours]) -> Neighbours:
        """The lists of several groups of points, one after the other."""
        return Neighbours(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Outside(NamedTuple):
    """The best edge from each asked point to the outside of its component.

    other_B: int64, -1 where none of the visited points is outside. weight_B, distance_B: float64, infinite there.
    """

    other_B: Ids
    weight_B: Distances
    distance_B: Distances


def pair_distances(vectors_ND: Vectors, left_P: Ids, right_P: Ids) -> Distances:
    """Euclidean distances of pairs, float64 [P], from differences (no cancellation), in bounded memory."""
    result = np.empty(len(left_P))
    for start in range(0, len(left_P), _PAIRS_AT_A_TIME):
        part = slice(start, start + _PAIRS_AT_A_TIME)
        difference_PD = vectors_ND[left_P[part]].astype(np.float64)
        difference_PD -= vectors_ND[right_P[part]]
        result[part] = np.sqrt(np.einsum("pd,pd->p", difference_PD, difference_PD))
    return result


class Index:
    """Exhaustive search, or search of the cells near a point, with exact distances.

    Args:
        vectors_ND: float32 [N, D], kept.
        partition: cells to search; None: everything.
        probes: cells that a point visits; None: all.
        precision: of the screening; default: the quickest here. Results of an exhaustive search do not depend on it; a
            search of some cells may keep another of two neighbours that lie almost alike.
        device: of the screening, "cpu" or "cuda".
    """

    def __init__(
        self,
        vectors_ND: Vectors,
        partition: Partition | None = None,
        probes: int | None = None,
        precision: Precision | None = None,
        device: str = "cpu",
    ) -> None:
        self.vectors_ND, self.partition, self.probes = vectors_ND, partition, probes
        self.device = device
        self.precision: Precision = precision or quickest_precision(device)
        self._order = None if partition is None else partition.order_N
        self._first = Screen(vectors_ND, self.precision, self._order, device=device)
        self.place_N = np.arange(len(vectors_ND))
        if self._order is not None:
            self.place_N[self._order] = np.arange(len(vectors_ND))

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_better"}

    @functools.cached_property
    def _better(self) -> list[Screen]:
        """Screens that prove more; made only where the first one proved too little."""
        following = PRECISIONS[PRECISIONS.index(self.precision) + 1 :]
        return [Screen(self.vectors_ND, each, self._order, stored=False, device=self.device) for each in following]

    @property
    def partial(self) -> bool:
        """Whether some points are out of a point's sight."""
        return self.partition is not None and self.probes is not None

    @property
    def description(self) -> str:
        """What a point looks at, for people."""
        if self.partition is None or self.probes is None:
            return f"all pairs, screened in {self.precision}"
        return f"{self.probes} of {len(self.partition.centres_CD):,} cells, screened in {self.precision}"

    def with_probes(self, probes: int | None) -> Index:
        """The same index, visiting so many cells; None: all of them."""
        other = copy.copy(self)
        other.probes = probes
        return other

    def on(self, device: str) -> Index:
        """The same index, screening on another device."""
        other = copy.copy(self)
        other.device, other._first = device, self._first.on(device)
        other.__dict__.pop("_better", None)
        return other

    def exhaustive(self) -> Index:
        """The same index, looking everywhere."""
        return self.with_probes(None)

    def alike(self, vectors_ND: Vectors, seed: int) -> Index:
        """An index of other vectors that visits as many cells of the same size."""
        return Index(vectors_ND, make_partition(vectors_ND, seed), self.probes, self.precision, self.device)

    def blocks(self, size: int = 8 * ROWS) -> list[Ids]:
        """All points in groups that are searched together, neighbours in one group where a partition says so.

        What is computed together follows from N alone. Groups are larger where points see few cells, so that many
        points of a group look at one cell.
        """
        size = size * _WIDER if self.partial else size
        order = np.arange(len(self.vectors_ND)) if self._order is None else self._order
        return [order[start : start + size] for start in range(0, len(order), size)]

    def neighbours(self, points_B: Ids, k: int, needed: int) -> Neighbours:
        """The k nearest other points of some points, the first `needed` of them proved (among what was visited).

        k is cut to N - 1.
        """
        n = len(self.vectors_ND)
        k = min(k, n - 1)
        if k <= 0 or len(points_B) == 0:
            shape = (len(points_B), max(k, 0))
            return Neighbours(np.zeros(shape, np.int64), np.zeros(shape), np.full(len(points_B), np.inf))
        needed = min(needed, k)
        wanted = k + 1 + _SPARE
        result = Neighbours(
            np.full((len(points_B), k), -1), np.full((len(points_B), k), np.inf), np.zeros(len(points_B))
        )
        open_B = np.arange(len(points_B))
        for screen, times in self._attempts():
            asked = points_B[open_B]
            found = self._listed(asked, k, self._search(screen, asked, times * wanted, None))
            for old, new in zip(result, found, strict=True):
                old[open_B] = new
            open_B = open_B[found.distances_BK[:, needed - 1] > found.bound_B]
            if len(open_B) == 0:
                break
        if self.partial:
            # Cells that hold nobody beyond a list say nothing about what lies beyond it: such a point looks everywhere.
            narrow = np.flatnonzero(np.isinf(result.bound_B))
            for old, new in zip(result, self.exhaustive().neighbours(points_B[narrow], k, needed), strict=True):
                old[narrow] = new
        return result

    def _attempts(self) -> Iterator[tuple[Screen, int]]:
        """Screens, and by how much to lengthen the list of candidates, until they prove enough.

        Where cells are out of sight anyway, nobody asks for more precision than the first screen has.
        """
        yield self._first, 1
        yield self._first, _LONGER
        if not self.partial:
            for number in range(len(PRECISIONS) - 1 - PRECISIONS.index(self.precision)):
                yield self._better[number], _LONGER

    def _listed(self, points_B: Ids, k: int, found: Candidates) -> Neighbours:
        """Exact distances of the candidates, sorted, the point itself left out."""
        ids_BK = self._points(found.places_BK)
        rows, columns = np.nonzero((ids_BK >= 0) & (ids_BK != points_B[:, None]))
        distances_BK = np.full(ids_BK.shape, np.inf)
        distances_BK[rows, columns] = pair_distances(self.vectors_ND, points_B[rows], ids_BK[rows, columns])
        order = np.lexsort((ids_BK, distances_BK), axis=1)
        ids_BK = np.take_along_axis(ids_BK, order, 1)
        distances_BK = np.take_along_axis(distances_BK, order, 1)
        # The point's own place is last, at infinity; where it was crowded out by duplicates, all entries are others.
        ids_BK[np.isinf(distances_BK)] = -1
        bound_B = found.floor_B
        if found.places_BK.shape[1] > k:
            bound_B = np.minimum(bound_B, distances_BK[:, k])
        return Neighbours(ids_BK[:, :k].copy(), distances_BK[:, :k].copy(), bound_B)

    def _points(self, places: Ids) -> Ids:
        """Point numbers of places; -1 stays."""
        if self._order is None:
            return places
        return np.where(places >= 0, self._order[np.maximum(places, 0)], -1)

    def _search(self, screen: Screen, points_B: Ids, k: int, limits: Limits | None) -> Candidates:
        places_B = self.place_N[points_B]
        if self.partial:
            return screen.nearest(places_B, k, self._cells(points_B, places_B), limits)
        parts = []
        for start in range(0, len(points_B), ROWS):
            part = slice(start, start + ROWS)
            own = None if limits is None else limits._replace(group_B=limits.group_B[part])
            parts.append(screen.nearest(places_B[part], k, _everything(screen.places, places_B[part]), own))
        return Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _cells(self, points_B: Ids, places_B: Ids) -> Iterator[Visit]:
        """Each point visits its own cell, then the others that are near."""
        assert self.partition is not None
        assert self.probes is not None
        partition, own_B = self.partition, self.partition.cell_of(places_B)
        probes_BP = np.concatenate(
            [
                nearest_cells(self.vectors_ND[points_B[start : start + ROWS]], partition.centres_CD, self.probes)
                for start in range(0, len(points_B), ROWS)
            ]
        )
        rows = np.repeat(np.arange(len(points_B)), probes_BP.shape[1])
        cells = probes_BP.ravel()
        others = cells != own_B[rows]
        for rows_P, cells_P in ((np.arange(len(points_B)), own_B), (rows[others], cells[others])):
            order = np.argsort(cells_P, kind="stable")
            row, cell = rows_P[order], cells_P[order]
            first = np.flatnonzero(np.diff(cell, prepend=-1))  # none where a point visits its own cell alone
            for begin, end in zip(first, np.r_[first, len(cell)][1:], strict=True):
                number = cell[begin]
                yield Visit(row[begin:end], int(partition.starts[number]), int(partition.starts[number + 1]))

    def outside(self, points_B: Ids, component_N: npt.NDArray[np.int32], core_N: Distances) -> Outside:
        """The edge of least mutual reachability from each point to any visited point outside its component.

        Ties fall by (weight, distance, smaller id, larger id) among the candidates.
        """
        count = len(points_B)
        result = Outside(np.full(count, -1), np.full(count, np.inf), np.full(count, np.inf))
        open_B = np.arange(count)
        for screen, times in self._attempts():
            asked = points_B[open_B]
            by_place = component_N if self._order is None else component_N[self._order]
            groups = np.full(screen.places, -1, np.int32)
            groups[: len(by_place)] = by_place
            limits = Limits(screen.bits_of(core_N), groups, component_N[asked])
            found = self._search(screen, asked, times * _OUTSIDE, limits)
            best, floor_B = self._best(asked, found, core_N)
            for old, new in zip(result, best, strict=True):
                old[open_B] = new
            open_B = open_B[best.weight_B > np.maximum(floor_B, core_N[asked])]
            if len(open_B) == 0:
                break
        return result

    def _best(self, points_B: Ids, found: Candidates, core_N: Distances) -> tuple[Outside, Distances]:
        ids_BK = self._points(found.places_BK)
        rows, columns = np.nonzero(ids_BK >= 0)
        left, right = points_B[rows], ids_BK[rows, columns]
        distance = pair_distances(self.vectors_ND, left, right)
        weight = np.maximum(np.maximum(core_N[left], core_N[right]), distance)
        order = np.lexsort((np.maximum(left, right), np.minimum(left, right), distance, weight, rows))
        first = order[np.flatnonzero(np.r_[True, rows[order][1:] != rows[order][:-1]])] if len(order) else order
        best = Outside(np.full(len(points_B), -1), np.full(len(points_B), np.inf), np.full(len(points_B), np.inf))
        best.other_B[rows[first]] = right[first]
        best.weight_B[rows[first]] = weight[first]
        best.distance_B[rows[first]] = distance[first]
        return best, found.floor_B


def probes_for(partition: Partition, vectors_ND: Vectors, sample: Ids, true_BK: Ids, recall: float) -> int:
    """How many cells a point must visit to see this share of the sample's true neighbours (int64 [B, K])."""
    cells = len(partition.centres_CD)
    place_N = np.empty(len(vectors_ND), np.int64)
    place_N[partition.order_N] = np.arange(len(vectors_ND))
    nearest_BC = nearest_cells(vectors_ND[sample], partition.centres_CD, cells)
    rank_BC = np.argsort(nearest_BC, axis=1)
    rows, columns = np.nonzero(true_BK >= 0)
    if len(rows) == 0:
        return cells
    visits = rank_BC[rows, partition.cell_of(place_N[true_BK[rows, columns]])] + 1
    return int(np.quantile(visits, recall, method="higher"))


def _everything(places: int, places_B: Ids) -> list[Visit]:
    """All places; numbers near each other are often near in space, so the middle row's own surroundings come first."""
    own = int(places_B[len(places_B) // 2])
    starts = sorted(range(0, places, COLUMNS), key=lambda start: (abs(start + COLUMNS / 2 - own), start))
    return [Visit(None, start, min(start + COLUMNS, places)) for start in starts]


def nearest_among(vectors_ND: Vectors, asked_M: Ids, among_C: Ids) -> tuple[Ids, Distances]:
    """For each of some points the nearest of some others: its number int64 [M] and distance float64 [M].

    -1 and infinity where there are no others. See `NearestAmong`.
    """
    return NearestAmong(vectors_ND, asked_M, among_C)(np.arange(len(asked_M)))


class NearestAmong:
    """The nearest of some points, for any rows of others; what it holds serves every call.

    Exact, and the smaller number among equals, so an answer does not depend on what is asked beside it. All pairs are
    screened in rounded form, 2 to 4 ns of one core a pair; the few best are computed in float64, and rows for which
    that proves too little are screened again in the next better precision. Memory beside the vectors:
    2 (M + C) (D + 32) bytes.

    Args:
        vectors_ND: all vectors, float32.
        asked_M: points that may be asked for.
        among_C: points among which their nearest is sought.
    """

    def __init__(self, vectors_ND: Vectors, asked_M: Ids, among_C: Ids) -> None:
        self.vectors_ND, self.asked_M, self.among_C = vectors_ND, asked_M, among_C
        self._order_N = np.concatenate([among_C, asked_M])
        self._screens: dict[Precision, Screen] = {}

    def __call__(self, rows_B: Ids) -> tuple[Ids, Distances]:
        """Number int64 [B] and distance float64 [B] of the point nearest to asked_M[rows_B]."""
        nearest, distances = np.full(len(rows_B), -1, np.int64), np.full(len(rows_B), np.inf)
        if not len(self.among_C):
            return nearest, distances
        left = np.arange(len(rows_B))
        for precision in PRECISIONS[PRECISIONS.index(quickest_precision()) :]:
            unproven = [left[:0]]
            for start in range(0, len(left), 8 * ROWS):
                rows = left[start : start + 8 * ROWS]
                nearest[rows], distances[rows], proven_B = self._screened(rows_B[rows], precision)
                unproven.append(rows[~proven_B])
            left = np.concatenate(unproven)
        for row in left.tolist():  # more equals than candidates
            itself = np.full(len(self.among_C), self.asked_M[rows_B[row]])
            exact_C = pair_distances(self.vectors_ND, itself, self.among_C)
            distances[row] = exact_C.min()
            nearest[row] = self.among_C[exact_C == distances[row]].min()
        return nearest, distances

    def _screened(self, rows_B: Ids, precision: Precision) -> tuple[Ids, Distances, npt.NDArray[np.bool_]]:
        """Nearest of the candidates that screening in this precision finds, and whether no other can be nearer."""
        screen, places, nobody = self._screen(precision), len(self.among_C), len(self.vectors_ND)
        found = screen.nearest(places + rows_B, 1 + _SPARE, [Visit(None, 0, places)])
        points_BK = np.where(found.places_BK < 0, nobody, self._order_N[found.places_BK])
        points_BK.sort(axis=1)  # so that the first of equals has the smallest number; none come last
        there = points_BK < nobody
        exact_BK = np.full(points_BK.shape, np.inf)
        asked_BK = np.broadcast_to(self.asked_M[rows_B][:, None], points_BK.shape)
        exact_BK[there] = pair_distances(self.vectors_ND, asked_BK[there], points_BK[there])
        best_B1 = exact_BK.argmin(1)[:, None]
        distance_B = np.take_along_axis(exact_BK, best_B1, 1)[:, 0]
        return np.take_along_axis(points_BK, best_B1, 1)[:, 0], distance_B, distance_B < found.floor_B

    def _screen(self, precision: Precision) -> Screen:
        if precision not in self._screens:
            stored = precision == quickest_precision()
            self._screens[precision] = Screen(self.vectors_ND, precision, self._order_N, stored=stored)
        return self._screens[precision]


def core_distances(
    neighbours: Neighbours, min_samples: int, weights_N: Ids | None = None, points_B: Ids | None = None
) -> Distances:
    """core_k(x): distance to the k-th nearest *other* point, float64 [B] (hdbscan's convention).

    With fewer than k other points the farthest one counts; a single point has core distance 0. With weights, a point
    stands for `weights_N` coincident ones: its own copies are the first others, so a weight above k makes it 0.
    """
    k = min(min_samples, neighbours.distances_BK.shape[1])
    if k == 0:
        return np.zeros(len(neighbours.bound_B))
    if weights_N is None:
        core_B: Distances = neighbours.distances_BK[:, k - 1].copy()
        return core_B
    own_B = weights_N - 1 if points_B is None else weights_N[points_B] - 1
    seen_BK = own_B[:, None] + np.cumsum(np.where(neighbours.ids_BK >= 0, weights_N[neighbours.ids_BK], 0), axis=1)
    reached = np.minimum((seen_BK < min_samples).sum(1), seen_BK.shape[1] - 1)
    core_B = np.take_along_axis(neighbours.distances_BK, reached[:, None], 1)[:, 0]
    core_B[own_B >= min_samples] = 0.0
    return core_B
