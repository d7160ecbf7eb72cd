"""The certified spanning tree weighs what an exhaustive one weighs, and the certification is what makes it so."""

from __future__ import annotations

import numpy as np
import pytest
from clustering_reference import DATA, distances, mutual_reachability, prim_weight
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree

from raymedlt.clustering.neighbours import Neighbours, core_distances, exact_neighbours
from raymedlt.clustering.spanning_tree import (
    Edges,
    SpanningTree,
    canonical_order,
    joined,
    list_edges,
    minimum_spanning_tree,
)


def grown(vectors: np.ndarray, neighbours: int = 16, min_samples: int = 5) -> SpanningTree:
    lists = exact_neighbours(vectors, max(neighbours, min_samples))
    return minimum_spanning_tree(vectors, lists, core_distances(lists, min_samples))


def spans(tree: SpanningTree, points: int) -> bool:
    ends = tree.edges.low, tree.edges.high
    graph = coo_array((np.ones(len(ends[0])), ends), shape=(points, points))
    return len(ends[0]) == points - 1 and connected_components(graph, directed=False)[0] == 1


@pytest.mark.parametrize("neighbours", [1, 5, 16])
@pytest.mark.parametrize("name", DATA)
def test_weight_is_minimal(name: str, neighbours: int):
    vectors = DATA[name]()
    tree = grown(vectors, neighbours)
    assert spans(tree, len(vectors))
    assert tree.certified == len(vectors) - 1
    weights = mutual_reachability(vectors, 5)
    assert tree.edges.weight.sum() == pytest.approx(prim_weight(weights), rel=1e-7, abs=1e-7)
    assert np.allclose(weights[tree.edges.low, tree.edges.high], tree.edges.weight, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["random", "blobs", "nested", "digits"])
def test_weight_equals_scipys(name: str):
    vectors = DATA[name]()
    weight = scipy_tree(np.triu(mutual_reachability(vectors, 5), 1)).sum()
    assert grown(vectors).edges.weight.sum() == pytest.approx(weight, rel=1e-9)


def test_edges_come_in_canonical_order_low_before_high():
    for name in ("nested", "duplicates", "equal"):
        edges = grown(DATA[name]()).edges
        assert (edges.low < edges.high).all()
        rows = list(zip(edges.weight, edges.distance, edges.low, edges.high, strict=True))
        assert rows == sorted(rows)


def bridged() -> np.ndarray:
    """Two dense heaps, and one far point whose list is the only one that knows both: it must not be their bridge."""
    rng = np.random.default_rng(0)
    heap = rng.normal(scale=0.05, size=(10, 2))
    mirrored = np.array([1.0, 0.0]) + heap * [-1, 1]
    return np.concatenate([heap, mirrored, [[0.5, 5.0]]]).astype(np.float32)


def test_certification_matters():
    """With a bound that lies (nothing unseen could matter) the same code takes the list graph's own, heavier tree."""
    vectors = bridged()
    lists = exact_neighbours(vectors, 6)
    core = core_distances(lists, 2)
    best = prim_weight(mutual_reachability(vectors, 2))
    honest = minimum_spanning_tree(vectors, lists, core)
    assert honest.edges.weight.sum() == pytest.approx(best, rel=1e-9)
    assert honest.second_searches > 0
    lying = minimum_spanning_tree(vectors, lists._replace(bound_N=np.full(len(vectors), np.inf)), core)
    assert spans(lying, len(vectors))
    assert lying.second_searches == 0
    assert lying.edges.weight.sum() > best * 1.3


def test_lists_of_nothing_still_give_the_tree():
    """Lists may be empty if their bounds say so: everything is then found by second searches."""
    vectors = DATA["blobs"]()[:120]
    n = len(vectors)
    core = core_distances(exact_neighbours(vectors, 5), 5)
    blank = Neighbours(np.zeros((n, 0), np.int64), np.zeros((n, 0)), np.zeros(n))
    tree = minimum_spanning_tree(vectors, blank, core)
    assert tree.edges.weight.sum() == pytest.approx(prim_weight(mutual_reachability(vectors, 5)), rel=1e-9)
    assert tree.second_searches >= n


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small(n: int):
    vectors = np.array([[0.0], [1.0], [3.0]], np.float32)[:n]
    assert grown(vectors, min_samples=1).edges.weight.tolist() == [[], [1.0], [1.0, 2.0]][n - 1]


def test_second_search_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch):
    vectors = DATA["nested"]()
    whole = grown(vectors, 5).edges
    monkeypatch.setattr("raymedlt.clustering.spanning_tree._BLOCK_CELLS", 2000)
    assert grown(vectors, 5).edges.weight.sum() == pytest.approx(whole.weight.sum(), rel=1e-12)


def test_list_edges_holds_each_pair_once():
    vectors = DATA["duplicates"]()
    lists = exact_neighbours(vectors, 6)
    edges = list_edges(lists, core_distances(lists, 5))
    pairs = {tuple(sorted((a, b))) for a, row in enumerate(lists.ids_NK.tolist()) for b in row}
    assert sorted(zip(edges.low.tolist(), edges.high.tolist(), strict=True)) == sorted(pairs)
    assert np.allclose(edges.distance, distances(vectors)[edges.low, edges.high], atol=1e-9)


def _edges(*rows: tuple[int, int, float, float]) -> Edges:
    low, high, weight, distance = (list(column) for column in zip(*rows, strict=True))
    return Edges(np.array(low), np.array(high), np.array(weight), np.array(distance))


def test_joined_keeps_each_pair_once():
    both = joined(_edges((0, 1, 2.0, 1.0), (1, 5, 3.0, 3.0)), _edges((0, 5, 4.0, 4.0), (0, 1, 2.0, 1.0)))
    assert list(zip(both.low.tolist(), both.high.tolist(), strict=True)) == [(0, 1), (0, 5), (1, 5)]


def test_canonical_order_is_weight_distance_low_high():
    edges = _edges((3, 4, 2.0, 1.0), (0, 9, 1.0, 1.0), (0, 2, 2.0, 1.0), (0, 1, 2.0, 1.0), (5, 6, 2.0, 0.5))
    assert canonical_order(edges).tolist() == [1, 4, 3, 2, 0]
