"""The certified spanning tree weighs what an exhaustive one weighs, and the certification is what makes it so."""

from __future__ import annotations

import numpy as np
import pytest
from clustering_reference import DATA, blobs, distances, mutual_reachability, prim_weight
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree

from raymedlt.clustering.local import LocalFleet
from raymedlt.clustering.neighbours import Index, Outside, core_distances
from raymedlt.clustering.partition import make_partition
from raymedlt.clustering.screening import PRECISIONS, Precision
from raymedlt.clustering.spanning_tree import (
    Components,
    Edges,
    SpanningTree,
    canonical_order,
    joined,
    list_edges,
    minimum_spanning_tree,
)


def fleet_of(vectors: np.ndarray, neighbours: int = 16, min_samples: int = 5, index: Index | None = None) -> LocalFleet:
    return LocalFleet(index or Index(vectors), max(neighbours, min_samples), min_samples, 1)


def grown(vectors: np.ndarray, neighbours: int = 16, min_samples: int = 5) -> SpanningTree:
    fleet = fleet_of(vectors, neighbours, min_samples)
    return minimum_spanning_tree(fleet.floor_N, fleet)


def spans(tree: SpanningTree, points: int) -> bool:
    ends = tree.edges.low, tree.edges.high
    graph = coo_array((np.ones(len(ends[0])), ends), shape=(points, points))
    return len(ends[0]) == points - 1 and connected_components(graph, directed=False)[0] == 1


@pytest.mark.parametrize("neighbours", [1, 5, 16])
@pytest.mark.parametrize("name", DATA)
def test_weight_is_minimal_and_proved(name: str, neighbours: int):
    vectors = DATA[name]()
    tree = grown(vectors, neighbours)
    assert spans(tree, len(vectors))
    assert tree.certified.shape == (len(vectors) - 1,)
    assert tree.certified.all()
    weights = mutual_reachability(vectors, 5)
    assert tree.edges.weight.sum() == pytest.approx(prim_weight(weights), rel=1e-9, abs=1e-9)
    assert tree.least_weight == pytest.approx(tree.edges.weight.sum(), rel=1e-12, abs=1e-12)
    assert np.allclose(weights[tree.edges.low, tree.edges.high], tree.edges.weight, rtol=1e-9, atol=1e-12)
    assert np.allclose(distances(vectors)[tree.edges.low, tree.edges.high], tree.edges.distance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["random", "blobs", "nested", "digits"])
def test_weight_equals_scipys(name: str):
    vectors = DATA[name]()
    weight = scipy_tree(np.triu(mutual_reachability(vectors, 5), 1)).sum()
    assert grown(vectors).edges.weight.sum() == pytest.approx(weight, rel=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["nested", "near duplicates", "far apart"])
def test_tree_does_not_depend_on_the_precision(name: str, precision: Precision):
    vectors = DATA[name]()
    fleet = fleet_of(vectors, index=Index(vectors, precision=precision))
    edges, usual = minimum_spanning_tree(fleet.floor_N, fleet).edges, grown(vectors).edges
    assert all(np.array_equal(one, other) for one, other in zip(edges, usual, strict=True))


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
    """With a floor that lies (nothing unseen could matter) the same code takes the list graph's own, heavier tree."""
    vectors = bridged()
    fleet = fleet_of(vectors, 6, 2)
    best = prim_weight(mutual_reachability(vectors, 2))
    honest = minimum_spanning_tree(fleet.floor_N, fleet)
    assert honest.edges.weight.sum() == pytest.approx(best, rel=1e-9)
    assert honest.second_searches > 0
    fleet = fleet_of(vectors, 6, 2)  # lists forget what has become internal: each tree needs its own
    lying = minimum_spanning_tree(np.full(len(vectors), np.inf), fleet)
    assert spans(lying, len(vectors))
    assert lying.second_searches == 0
    assert lying.edges.weight.sum() > best * 1.3


def test_lists_of_nothing_still_give_the_tree():
    """Lists may be empty if their floors say so: everything is then found by second searches."""
    vectors = DATA["blobs"]()[:120]
    fleet = fleet_of(vectors)
    for lists in fleet.lists:
        lists.edges = Edges.none()
    tree = minimum_spanning_tree(fleet.core_N, fleet)
    assert tree.edges.weight.sum() == pytest.approx(prim_weight(mutual_reachability(vectors, 5)), rel=1e-9)
    assert tree.certified.all()
    assert tree.second_searches >= 60  # an edge is proved from one end


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_small(n: int):
    vectors = np.array([[0.0], [1.0], [3.0]], np.float32)[:n]
    tree = grown(vectors, min_samples=1)
    assert tree.edges.weight.tolist() == [[], [], [1.0], [1.0, 2.0]][n]
    assert tree.certified.tolist() == [True] * max(n - 1, 0)
    assert tree.least_weight == [0, 0, 1, 3][n]


@pytest.mark.parametrize("size", [1, 37, 200])
def test_tree_does_not_depend_on_blocks_or_threads(size: int, monkeypatch: pytest.MonkeyPatch):
    vectors = DATA["nested"]()
    whole = grown(vectors, 5)
    blocks = Index.blocks
    monkeypatch.setattr(Index, "blocks", lambda self: blocks(self, size))
    fleet = LocalFleet(Index(vectors), 5, 5, threads=3)
    assert len(fleet.lists) == -(-600 // size)
    tree = minimum_spanning_tree(fleet.floor_N, fleet)
    for one, other in zip(tree.edges, whole.edges, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", ["blobs", "nested"])
def test_few_points_look_again(name: str):
    """The point of the whole algorithm: exhaustive Borůvka would ask every point in every round."""
    vectors = blobs(3000, 16, 30, 0) if name == "blobs" else DATA[name]()
    tree = grown(vectors)
    assert tree.second_searches < {"blobs": 1.5, "nested": 0.1}[name] * len(vectors)
    assert tree.exhaustive_searches == tree.second_searches
    assert tree.rounds <= np.ceil(np.log2(len(vectors)))
    if name == "blobs":
        assert tree.second_searches > 0


# --- edges of other minimum trees ---


def minimax(weights: np.ndarray) -> np.ndarray:
    """Largest weight on the best path between two points: an edge is in some minimum tree iff it weighs that."""
    best = weights.copy()
    np.fill_diagonal(best, 0)
    for middle in range(len(best)):
        best = np.minimum(best, np.maximum(best[:, middle, None], best[None, middle]))
    return best


def exact_weights(fleet: LocalFleet) -> np.ndarray:
    """Mutual reachability from the package's own distances, so that ties are ties."""
    from raymedlt.clustering.neighbours import pair_distances

    n = len(fleet.core_N)
    left, right = (side.ravel() for side in np.indices((n, n)))
    exact = pair_distances(fleet.index.vectors_ND, left, right).reshape(n, n)
    return np.maximum(np.maximum(fleet.core_N[:, None], fleet.core_N), exact)


def grid(d: int, side: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(side)] * d), -1).reshape(-1, d).astype(np.float32)


TIED = {
    "nested": lambda: DATA["nested"]()[:150],
    "blobs": lambda: DATA["blobs"]()[:200],
    "duplicates": lambda: DATA["duplicates"]()[:120],
    "grid": lambda: grid(2, 9),
    "integers": lambda: np.random.default_rng(0).integers(0, 6, (140, 3)).astype(np.float32),
    "random": lambda: DATA["random"]()[:150],
}


@pytest.mark.parametrize("size", [40, 10**6])
@pytest.mark.parametrize(("neighbours", "min_samples"), [(4, 1), (5, 5), (12, 3)])
@pytest.mark.parametrize("name", TIED)
def test_ties_hold_every_listed_edge_of_some_minimum_tree(
    name: str, neighbours: int, min_samples: int, size: int, monkeypatch: pytest.MonkeyPatch
):
    vectors = TIED[name]()
    blocks = Index.blocks
    monkeypatch.setattr(Index, "blocks", lambda self: blocks(self, size))
    fleet = fleet_of(vectors, neighbours, min_samples)
    listed = joined(*[lists.edges for lists in fleet.lists])
    tree = minimum_spanning_tree(fleet.floor_N, fleet)
    some = listed.take(listed.weight == minimax(exact_weights(fleet))[listed.low, listed.high])
    held = joined(tree.ties, tree.edges)
    pairs, wanted = (set(zip(e.low.tolist(), e.high.tolist(), strict=True)) for e in (held, some))
    assert wanted <= pairs
    if min_samples > 1 or name in ("grid", "integers", "duplicates"):
        assert len(wanted) > len(tree.edges.low)  # ties there are
    assert prim_weight(exact_weights(fleet)) == pytest.approx(tree.edges.weight.sum(), rel=1e-9)


# --- with a partition ---


def partitioned(
    vectors: np.ndarray, probes: int, points_per_cell: int = 64, precision: Precision | None = None
) -> Index:
    return Index(vectors, make_partition(vectors, 0, points_per_cell), probes, precision)


@pytest.mark.parametrize("most", [None, 60, 0])
@pytest.mark.parametrize("probes", [1, 3, 20])
def test_partial_index_gives_a_tree_and_says_what_it_knows(probes: int, most: int | None):
    vectors = blobs(1500, 16, 40, 0)
    fleet = fleet_of(vectors, index=partitioned(vectors, probes))
    tree = minimum_spanning_tree(fleet.floor_N, fleet, True, most)
    exact = prim_weight(mutual_reachability(vectors, 5))
    assert spans(tree, 1500)
    assert tree.edges.weight.sum() >= exact * (1 - 1e-9)
    assert tree.least_weight <= tree.edges.weight.sum() * (1 + 1e-12)
    assert tree.certified.all() == (tree.least_weight >= tree.edges.weight.sum() * (1 - 1e-12))
    if most is None:
        assert tree.certified.all()  # as far as the cells show
        assert (tree.exhaustive_searches > 0) == (probes < 20)
    elif probes == 1:
        assert not tree.certified.all()
    if probes == 20:  # all but a few cells
        assert tree.edges.weight.sum() == pytest.approx(exact, rel=1e-3)
        assert tree.least_weight <= exact * (1 + 1e-9)


def test_a_crippled_index_with_nobody_looking_everywhere_still_spans():
    vectors = blobs(1500, 16, 40, 0)
    fleet = fleet_of(vectors, index=partitioned(vectors, 1))
    tree = minimum_spanning_tree(fleet.floor_N, fleet, True, 0)
    assert spans(tree, 1500)
    assert 0 < (~tree.certified).sum() < 200
    assert tree.exhaustive_searches <= 2 * 23  # no way out known: one point of each of 23 cells had to


def test_cells_without_any_way_out():
    """Two far groups, each seen by itself alone."""
    vectors = DATA["far apart"]()
    index = partitioned(vectors, 1, 150)
    assert np.diff(index.partition.starts).tolist() == [150, 150]  # type: ignore[union-attr]
    for most in (None, 4, 0):
        fleet = fleet_of(vectors, index=index)
        tree = minimum_spanning_tree(fleet.floor_N, fleet, True, most)
        assert spans(tree, 300)
        if most is None:
            exact = prim_weight(mutual_reachability(vectors, 5))
            assert tree.edges.weight.sum() == pytest.approx(exact, rel=1e-9)


class Refusing:
    """True lists and floors, but whoever looks again sees nobody: uncertified edges must be taken."""

    def __init__(self, fleet: LocalFleet, answers: int) -> None:
        self.fleet, self.left = fleet, answers
        self.minima = fleet.minima

    def outside(self, points_B: np.ndarray, component_N: Components, exhaustive: bool) -> Outside:
        answer = self.fleet.outside(points_B, component_N, exhaustive)
        if not exhaustive:
            nobody = np.arange(len(points_B)) >= self.left
            self.left = max(self.left - len(points_B), 0)
            for array, value in zip(answer, (-1, np.inf, np.inf), strict=True):
                array[nobody] = value
        return answer


@pytest.mark.parametrize("answers", [0, 5, 50])
@pytest.mark.parametrize("min_samples", [1, 5])
@pytest.mark.parametrize("name", ["blobs", "nested", "digits", "far apart", "bridged"])
def test_bound_of_an_uncertified_tree_is_true(name: str, min_samples: int, answers: int):
    vectors = bridged() if name == "bridged" else DATA[name]()
    fleet = fleet_of(vectors, 6, min_samples)
    tree = minimum_spanning_tree(fleet.floor_N, Refusing(fleet, answers), True, 0)
    exact = prim_weight(mutual_reachability(vectors, min_samples))
    assert spans(tree, len(vectors))
    assert tree.least_weight <= exact * (1 + 1e-9)
    assert exact <= tree.edges.weight.sum() * (1 + 1e-9)
    if name == "blobs":
        assert not tree.certified.all()
        assert tree.least_weight >= 0.8 * exact


# --- pieces ---


def test_list_edges_holds_each_pair_once():
    vectors, points = DATA["duplicates"](), np.arange(400)
    lists = Index(vectors).neighbours(points, 6, 5)
    edges = list_edges(points, lists, core_distances(lists, 5))
    pairs = {tuple(sorted((a, b))) for a, row in enumerate(lists.ids_BK.tolist()) for b in row}
    assert sorted(zip(edges.low.tolist(), edges.high.tolist(), strict=True)) == sorted(pairs)
    assert np.allclose(edges.distance, distances(vectors)[edges.low, edges.high], atol=1e-9)
    assert np.array_equal(canonical_order(edges), np.arange(len(edges.low)))


def test_list_edges_of_some_points():
    vectors, points = DATA["blobs"](), np.array([500, 3, 77])
    core = core_distances(Index(vectors).neighbours(np.arange(600), 6, 5), 5)
    lists = Index(vectors).neighbours(points, 6, 5)
    edges = list_edges(points, lists, core)
    pairs = {tuple(sorted((a, b))) for a, row in zip([500, 3, 77], lists.ids_BK.tolist(), strict=True) for b in row}
    assert sorted(zip(edges.low.tolist(), edges.high.tolist(), strict=True)) == sorted(pairs)
    assert np.allclose(mutual_reachability(vectors, 5)[edges.low, edges.high], edges.weight, rtol=1e-12)


def _edges(*rows: tuple[int, int, float, float]) -> Edges:
    low, high, weight, distance = (list(column) for column in zip(*rows, strict=True))
    return Edges(np.array(low), np.array(high), np.array(weight), np.array(distance))


def test_joined_keeps_each_pair_once():
    both = joined(_edges((0, 1, 2.0, 1.0), (1, 5, 3.0, 3.0)), _edges((0, 5, 4.0, 4.0), (0, 1, 2.0, 1.0)))
    assert list(zip(both.low.tolist(), both.high.tolist(), strict=True)) == [(0, 1), (0, 5), (1, 5)]


def test_canonical_order_is_weight_distance_low_high():
    edges = _edges((3, 4, 2.0, 1.0), (0, 9, 1.0, 1.0), (0, 2, 2.0, 1.0), (0, 1, 2.0, 1.0), (5, 6, 2.0, 0.5))
    assert canonical_order(edges).tolist() == [1, 4, 3, 2, 0]
