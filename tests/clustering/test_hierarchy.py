"""hdbscan's compiled tree code behind its door: the private names, Prim's walk, linkage, flat clusters."""

from __future__ import annotations

import importlib
import inspect

import hdbscan
import numpy as np
import pytest
from clustering_reference import DATA, blobs, by_smallest_member, mutual_reachability

from raymedlt.clustering.hierarchy import Flat, flat_clusters, prim_walk, simultaneous_linkage, single_linkage
from raymedlt.clustering.local import LocalFleet
from raymedlt.clustering.neighbours import Index
from raymedlt.clustering.spanning_tree import Edges, SpanningTree, joined, minimum_spanning_tree

MEND = (
    "hdbscan {version} moved or changed {module}.{name}: mend raymedlt/clustering/hierarchy.py, the one module that "
    "uses hdbscan's private code, or pin the version in pyproject.toml"
)


@pytest.mark.parametrize(
    ("module", "name", "first"),
    [
        ("hdbscan._hdbscan_tree", "condense_tree", ["hierarchy", "min_cluster_size"]),
        ("hdbscan._hdbscan_tree", "compute_stability", ["condensed_tree"]),
        ("hdbscan._hdbscan_tree", "get_clusters", ["tree", "stability"]),
    ],
)
def test_private_names_of_hdbscan(module: str, name: str, first: list[str]):
    message = MEND.format(version=importlib.metadata.version("hdbscan"), module=module, name=name)
    function = getattr(importlib.import_module(module), name, None)
    assert function is not None, message
    parameters = list(inspect.signature(function).parameters.values())
    assert [parameter.name for parameter in parameters[: len(first)]] == first, message
    needed = [p.name for p in parameters[len(first) :] if p.default is inspect.Parameter.empty]
    assert needed == [], message


def test_condensed_tree_has_the_fields_that_exemplars_read():
    flat = _flat(blobs(200, 4, 4, 0))
    assert flat.condensed.dtype.names == ("parent", "child", "lambda_val", "child_size")


def _grown(vectors: np.ndarray, min_samples: int = 5) -> tuple[SpanningTree, np.ndarray]:
    fleet = LocalFleet(Index(vectors), 16, min_samples, 1)
    return minimum_spanning_tree(fleet.floor_N, fleet), fleet.core_N


def _flat(vectors: np.ndarray, min_cluster_size: int = 5) -> Flat:
    tree, core = _grown(vectors)
    return flat_clusters(tree.edges, core, min_cluster_size, ties=tree.ties)


def _line(*rows: tuple[int, int, float]) -> Edges:
    low, high, weight = (list(column) for column in zip(*rows, strict=True))
    return Edges(np.array(low), np.array(high), np.array(weight, float), np.array(weight, float))


def _walk(
    graph: Edges, points: int, weights: list[int] | None = None, core: list[float] | None = None
) -> list[tuple[int, int, float]]:
    copies = np.ones(points, np.int64) if weights is None else np.array(weights)
    columns = prim_walk(graph, copies, np.zeros(points) if core is None else np.array(core))
    return list(zip(*(column.tolist() for column in columns), strict=True))


# --- Prim's walk ---


def test_prim_walk_by_hand():
    #  0 -1- 2 -5- 1 -2- 3, and a heavier edge that is not taken
    graph = _line((0, 2, 1.0), (1, 2, 5.0), (1, 3, 2.0), (0, 3, 9.0))
    assert _walk(graph, 4) == [(0, 2, 1.0), (2, 1, 5.0), (1, 3, 2.0)]


def test_prim_walk_takes_the_smaller_number_on_ties():
    assert _walk(_line((0, 3, 1.0), (0, 1, 1.0), (0, 2, 1.0)), 4) == [(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0)]


def test_prim_walk_comes_from_the_point_visited_first_on_ties():
    # 3 is as near to 0 as to 1 and 2, all visited before it
    graph = _line((0, 1, 1.0), (1, 2, 1.0), (0, 3, 2.0), (1, 3, 2.0), (2, 3, 2.0))
    assert _walk(graph, 4) == [(0, 1, 1.0), (1, 2, 1.0), (0, 3, 2.0)]


def test_prim_walk_of_one_point():
    assert _walk(Edges.none(), 1) == []
    assert _walk(Edges.none(), 0) == []


def test_prim_walk_visits_copies():
    #  point 0 is rows 0-2 at core distance 1, point 1 is row 3, point 2 is rows 4 and 5 at core distance 2
    graph = _line((0, 1, 1.5), (1, 2, 2.0))
    walk = _walk(graph, 3, [3, 1, 2], [1.0, 1.5, 2.0])
    assert walk == [(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.5), (3, 4, 2.0), (3, 5, 2.0)]
    # a copy nearer to its first than the edge that led there
    assert _walk(_line((0, 1, 3.0)), 2, [1, 2], [9.0, 0.5]) == [(0, 1, 3.0), (1, 2, 0.5)]


@pytest.mark.parametrize("name", ["digits", "nested", "blobs", "random"])
def test_prim_walk_is_hdbscans(name: str):
    """The same edges in the same order, ties included (6 to 50 % of the edges tie at a core distance)."""
    from hdbscan._hdbscan_linkage import mst_linkage_core

    vectors = DATA[name]()
    theirs = mst_linkage_core(mutual_reachability(vectors, 5))
    tree, core = _grown(vectors)
    source, target, weight = prim_walk(joined(tree.edges, tree.ties), np.ones(len(core), np.int64), core)
    assert np.array_equal(np.column_stack([source, target]), theirs[:, :2].astype(int))
    assert np.allclose(weight, theirs[:, 2], rtol=1e-9)


# --- linkage ---


@pytest.mark.parametrize("seed", range(20))
def test_single_linkage_equals_hdbscans(seed: int):
    from hdbscan._hdbscan_linkage import label

    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 200))
    source = np.array([rng.integers(0, target) for target in range(1, rows)])  # a random tree
    target = np.arange(1, rows)
    shuffle = rng.permutation(rows)
    source, target = shuffle[source], shuffle[target]
    order = rng.permutation(rows - 1)
    weight = np.sort(rng.integers(1, 20, rows - 1).astype(float))
    ours = single_linkage(source[order], target[order], weight)
    theirs = label(np.column_stack([source[order], target[order], weight]).astype(float))
    assert np.array_equal(ours[:, 2:], theirs[:, 2:])
    assert np.array_equal(ours[:, :2], theirs[:, :2])


def _steps(linkage: np.ndarray) -> list[tuple[frozenset[int], frozenset[int], float]]:
    """Which rows each merge joins."""
    rows = len(linkage) + 1
    groups = [frozenset([row]) for row in range(rows)]
    result = []
    for left, right, distance, size in linkage.tolist():
        one, other = groups[int(left)], groups[int(right)]
        groups.append(one | other)
        assert len(groups[-1]) == size
        result.append((one, other, distance))
    assert len(groups[-1]) == rows
    return result


def test_simultaneous_linkage_without_ties_is_the_usual_one():
    tree = _line((0, 1, 1.0), (2, 3, 2.0), (1, 2, 3.0), (3, 4, 4.0))
    ours = simultaneous_linkage(tree, np.ones(5, np.int64), np.zeros(5))
    usual = single_linkage(tree.low, tree.high, tree.weight)
    assert {(frozenset((one, other)), w) for one, other, w in _steps(ours)} == {
        (frozenset((one, other)), w) for one, other, w in _steps(usual)
    }


#  A heap of four (0-3, at distance 1), two pairs (4, 5) and (6, 7) at distance 1, and everything joined at distance 2.
#  With min_cluster_size 4 a pair is nothing; but where the two pairs merge first, the four of them pass for a cluster.
SPURIOUS = (
    (0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (4, 5, 1.0), (6, 7, 1.0), (5, 6, 2.0), (3, 4, 2.0), (7, 8, 9.0)
)  # fmt: skip


def test_simultaneous_linkage_lets_small_pieces_join_one_by_one():
    steps = _steps(simultaneous_linkage(_line(*SPURIOUS), np.ones(9, np.int64), np.zeros(9)))
    heap, pairs = frozenset(range(4)), {frozenset((4, 5)), frozenset((6, 7))}
    (one, first, w1), (two, second, w2) = steps[-3:-1]
    assert (w1, w2) == (2.0, 2.0)
    assert {first, second} == pairs
    assert one == heap
    assert two == heap | first


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 6, 5, 7], [4, 3, 2, 1, 0, 5, 6, 7]])
def test_binary_order_makes_a_spurious_cluster_where_simultaneous_does_not(order: list[int]):
    from hdbscan._hdbscan_tree import condense_tree

    tree = _line(*SPURIOUS)
    binary = condense_tree(single_linkage(tree.low, tree.high, tree.weight), 4)  # the pairs join before the heap comes
    assert binary["child_size"][binary["child"] > 9].tolist() == [4, 4]
    at_once = condense_tree(simultaneous_linkage(tree.take(np.array(order)), np.ones(9, np.int64), np.zeros(9)), 4)
    assert (at_once["child"] < 9).all()
    leaving = dict(zip(at_once["child"].tolist(), at_once["lambda_val"].tolist(), strict=True))
    assert [leaving[point] for point in range(9)] == [1.0] * 4 + [0.5] * 4 + [1 / 9]


def test_simultaneous_linkage_of_copies():
    """Copies of a point meet at its core distance, together with whatever else does."""
    tree = _line((0, 1, 2.0), (1, 2, 3.0))
    linkage = simultaneous_linkage(tree, np.array([3, 1, 2]), np.array([1.0, 2.0, 3.0]))
    assert linkage[:, 2].tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert {(one | other, w) for one, other, w in _steps(linkage)[1:3]} == {
        (frozenset(range(3)), 1.0),
        (frozenset(range(4)), 2.0),
    }


@pytest.mark.parametrize("name", ["duplicates", "nested"])
def test_simultaneous_clusters_do_not_depend_on_the_order_of_edges(name: str):
    tree, core = _grown(DATA[name]())
    usual = flat_clusters(tree.edges, core, 5)
    shuffled = tree.edges.take(np.random.default_rng(0).permutation(len(tree.edges.low)))
    other = flat_clusters(shuffled, core, 5)
    assert np.array_equal(other.labels_N, usual.labels_N)
    assert np.array_equal(other.probabilities_N, usual.probabilities_N)


# --- flat clusters ---


def test_clusters_are_numbered_by_their_smallest_member():
    labels = _flat(blobs(500, 8, 10, 1)).labels_N
    assert labels.max() >= 5
    assert labels.tolist() == by_smallest_member(labels)


@pytest.mark.parametrize("seed", [190, 367, 441, 579])
def test_weighted_clusters_are_numbered_by_their_smallest_point(seed: int):
    """Sets where a cluster's first row is a copy whose point, its first copy, is elsewhere."""
    rng = np.random.default_rng(seed)
    n, d = rng.integers(5, 61), rng.integers(1, 6)
    points = (rng.normal(size=(n, d)) * rng.choice([0.05, 1.0], size=(n, 1))).astype(np.float32)
    weights = rng.integers(1, 9, n)
    size, samples = int(rng.integers(2, 8)), int(rng.integers(1, 8))
    fleet = LocalFleet(Index(points), 16, samples, 1, weights)
    tree = minimum_spanning_tree(fleet.floor_N, fleet)
    flat = flat_clusters(tree.edges, fleet.core_N, size, weights, tree.ties)
    assert flat.labels_N.tolist() == by_smallest_member(flat.labels_N)
    assert len(flat.persistence_C) == flat.labels_N.max() + 1


def test_probabilities_persistence_and_exemplars_equal_hdbscans():
    vectors = blobs(500, 8, 10, 3)
    flat = _flat(vectors)
    model = hdbscan.HDBSCAN(min_cluster_size=5, min_samples=5, algorithm="generic", gen_min_span_tree=True)
    model.fit(vectors.astype(np.float64))
    assert np.allclose(flat.probabilities_N, model.probabilities_, atol=1e-5)
    assert ((flat.probabilities_N > 0) == (flat.labels_N >= 0)).all()
    assert sorted(flat.persistence_C) == pytest.approx(sorted(model.cluster_persistence_), abs=1e-5)
    assert len(flat.exemplars_C) == len(flat.persistence_C)
    for cluster, members in enumerate(flat.exemplars_C):
        assert len(members)
        assert (flat.labels_N[members] == cluster).all()
        assert flat.probabilities_N[members].max() == 1.0


def test_linkage_and_condensed_tree_are_hdbscans():
    vectors = DATA["nested"]()
    flat = _flat(vectors)
    model = hdbscan.HDBSCAN(min_cluster_size=5, min_samples=5, algorithm="generic").fit(vectors.astype(np.float64))
    theirs = model.single_linkage_tree_.to_numpy()
    assert np.array_equal(flat.linkage[:, [0, 1, 3]], theirs[:, [0, 1, 3]])
    assert np.allclose(flat.linkage[:, 2], theirs[:, 2], rtol=1e-9)
    condensed = model.condensed_tree_.to_numpy()
    for field in ("parent", "child", "child_size"):
        assert np.array_equal(flat.condensed[field], condensed[field])


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_points_are_all_noise(n: int, ties: bool):
    tree, core = _grown(np.arange(n, dtype=np.float32)[:, None])
    flat = flat_clusters(tree.edges, core, 5, ties=tree.ties if ties else None)
    assert flat.labels_N.tolist() == [-1] * n
    assert flat.probabilities_N.tolist() == [0.0] * n
    assert flat.exemplars_C == []
    assert flat.linkage.shape == (0, 4)


def test_few_points_of_much_weight_are_a_cluster():
    tree, core = _grown(np.array([[0.0], [1.0]], np.float32))
    flat = flat_clusters(tree.edges, np.zeros(2), 5, np.array([6, 6]), tree.ties)
    assert flat.labels_N.tolist() == [0, 1]
    assert core.tolist() == [1.0, 1.0]
