"""All shards in this process, searched by threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from raymedlt.clustering.neighbours import Index, Outside, core_distances
from raymedlt.clustering.repair import in_rows, mutual_cores, sparsest
from raymedlt.clustering.screening import ROWS, Distances, Ids
from raymedlt.clustering.spanning_tree import Components, Contraction, Edges, Lists, list_edges
from raymedlt.cpus import use_threads

T = TypeVar("T")
S = TypeVar("S")


@contextlib.contextmanager
def single_threaded_torch() -> Iterator[None]:
    """One thread per product; parallel work is done side by side instead."""
    import torch

    before = torch.get_num_threads()
    use_threads(1)
    try:
        yield
    finally:
        use_threads(before)


def side_by_side(function: Callable[[S], T], items: Sequence[S], threads: int) -> list[T]:
    """`function` of every item, in threads; results in the order of the items."""
    with single_threaded_torch():
        if threads == 1 or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(threads, initializer=_one_thread) as pool:
            return list(pool.map(function, items))


def _one_thread() -> None:

    use_threads(1)


class LocalFleet:
    """Lists and index of all points; `threads` searches go on side by side.

    core_N, floor_N: what the lists say: core distances, and the least mutual reachability to anybody not listed.
    """

    def __init__(self, index: Index, k: int, min_samples: int, threads: int, weights_N: Ids | None = None) -> None:
        self.index, self.threads = index, threads
        self._everywhere = index.exhaustive()
        blocks = index.blocks()
        found = side_by_side(lambda points: index.neighbours(points, k, min_samples), blocks, threads)
        n = len(index.vectors_ND)
        self.core_N, bound_N = np.zeros(n), np.zeros(n)
        for points, lists in zip(blocks, found, strict=True):
            self.core_N[points] = core_distances(lists, min_samples, weights_N, points)
            bound_N[points] = lists.bound_B
        if index.partial:
            sparse = in_rows(sparsest(self.core_N))
            again = side_by_side(lambda points: self._everywhere.neighbours(points, k, min_samples), sparse, threads)
            for points, lists in zip(sparse, again, strict=True):
                bound_N[points] = lists.bound_B
            blocks, found = blocks + sparse, found + again
            self.core_N = mutual_cores(lambda: zip(blocks, found, strict=True), self.core_N, min_samples, weights_N)
        self.floor_N: Distances = np.maximum(self.core_N, bound_N)
        self.lists = side_by_side(
            lambda pair: Lists(list_edges(pair[0], pair[1], self.core_N)),
            list(zip(blocks, found, strict=True)),
            threads,
        )

    def minima(self, component_N: Components, contraction: Contraction | None) -> tuple[Edges, Edges]:
        """See `spanning_tree.Fleet`."""

        def step(lists: Lists) -> tuple[Edges, Edges]:
            ties = Edges.none() if contraction is None else lists.after(contraction, component_N)
            return lists.minima(component_N), ties

        answers = side_by_side(step, self.lists, self.threads)
        return Edges.concatenate([best for best, _ in answers]), Edges.concatenate([ties for _, ties in answers])

    def outside(self, points_B: Ids, component_N: Components, exhaustive: bool) -> Outside:
        """See `spanning_tree.Fleet`."""
        index = self._everywhere if exhaustive else self.index
        size = ROWS if exhaustive else 16 * ROWS
        parts = [points_B[start : start + size] for start in range(0, len(points_B), size)]
        answers = side_by_side(lambda part: index.outside(part, component_N, self.core_N), parts, self.threads)
        return Outside(*(np.concatenate(arrays) for arrays in zip(*answers, strict=True)))
