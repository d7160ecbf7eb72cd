"""Repair of partial lists: what it finds is true, and it finds what was planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from clustering_reference import DATA, blobs, distances, mutual_reachability, noisy, prim_weight

from raymedlt.clustering import fit
from raymedlt.clustering.fit import Clustering, Settings, grow
from raymedlt.clustering.hierarchy import simultaneous_linkage
from raymedlt.clustering.local import LocalFleet
from raymedlt.clustering.neighbours import Index, Neighbours, core_distances
from raymedlt.clustering.partition import make_partition
from raymedlt.clustering.repair import SplitChecks, mutual_cores, sparsest, with_edges
from raymedlt.clustering.spanning_tree import Edges, SpanningTree, canonical_order, minimum_spanning_tree

K = 8


def crippled_index(vectors: np.ndarray, cell: int = 32) -> Index:
    return Index(vectors, make_partition(vectors, 0, cell), 2)


def slow_mutual_cores(lists: Neighbours, min_samples: int, weights: np.ndarray) -> np.ndarray:
    """Core distances where a pair counts for both as soon as one of the two has listed it."""
    known = [dict[int, float]() for _ in weights]
    for point, (ids, lengths) in enumerate(zip(lists.ids_BK.tolist(), lists.distances_BK.tolist(), strict=True)):
        for other, length in zip(ids, lengths, strict=True):
            if other >= 0:
                known[point][other] = known[other][point] = length
    cores = []
    for point, others in enumerate(known):
        expanded = [0.0] * (weights[point] - 1)
        for length, other in sorted((length, other) for other, length in others.items()):
            expanded += [length] * weights[other]
        cores.append(expanded[min(min_samples, len(expanded)) - 1])
    return np.array(cores)


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["random", "nested", "duplicates"])
def test_being_near_is_mutual(name: str, weighted: bool, parts: int):
    vectors = DATA[name]()
    n = len(vectors)
    weights = np.random.default_rng(0).integers(1, 4, n) if weighted else np.ones(n, np.int64)
    lists = crippled_index(vectors).neighbours(np.arange(n), K, 5)
    given = weights if weighted else None
    own = core_distances(lists, 5, given)
    groups = np.array_split(np.random.default_rng(1).permutation(n), parts)
    pieces = [(points, Neighbours(*(array[points] for array in lists))) for points in groups]
    found = mutual_cores(lambda: pieces, own, 5, given)
    assert np.array_equal(found, slow_mutual_cores(lists, 5, weights))
    assert (found <= own).all()
    if name != "duplicates":
        assert (found < own).any()


def test_a_later_list_counts():
    """A point that has looked everywhere keeps its true core distance, and tells the others."""
    vectors = DATA["nested"]()
    n = len(vectors)
    near = crippled_index(vectors).neighbours(np.arange(n), K, 5)
    own = core_distances(near, 5)
    again = sparsest(own)
    assert len(again) == n // 50
    assert own[again].min() >= np.delete(own, again).max()
    everywhere = Index(vectors).neighbours(again, K, 5)
    found = mutual_cores(lambda: [(np.arange(n), near), (again, everywhere)], own, 5)
    true = np.sort(distances(vectors), axis=1)[:, 5]
    assert found[again] == pytest.approx(true[again], rel=1e-12)
    assert (own[again] > true[again] * (1 + 1e-9)).any()
    assert (found >= true * (1 - 1e-12)).all()
    assert (found <= mutual_cores(lambda: [(np.arange(n), near)], own, 5)).all()


def test_the_sparsest_points_of_a_partial_index_look_everywhere():
    vectors = noisy(2000, 8, 30, 1)
    index = crippled_index(vectors)
    fleet = LocalFleet(index, 16, 5, 2)
    own = core_distances(index.neighbours(np.arange(2000), 16, 5), 5)
    true = LocalFleet(Index(vectors), 16, 5, 2).core_N
    again = sparsest(own)
    assert (own[again] > true[again]).mean() > 0.5
    assert np.array_equal(fleet.core_N[again], true[again])
    assert (np.delete(fleet.core_N, again) > np.delete(true, again)).sum() < (
        np.delete(own, again) > np.delete(true, again)
    ).sum()  # they told others


# --- splits ---


def exact_tree(vectors: np.ndarray) -> tuple[SpanningTree, LocalFleet]:
    fleet = LocalFleet(Index(vectors), 16, 5, 1)
    return minimum_spanning_tree(fleet.floor_N, fleet), fleet


def linkage_of(tree: SpanningTree, fleet: LocalFleet) -> np.ndarray:
    n = len(fleet.core_N)
    return simultaneous_linkage(tree.edges, np.ones(n, np.int64), fleet.core_N)


def two_groups() -> np.ndarray:
    """400 and 300 points and a few between them, one short way from the one to the other."""
    return np.concatenate([blobs(400, 6, 1, 0, 0.5), blobs(300, 6, 1, 0, 0.5) + np.float32(2.5)]).astype(np.float32)


def without_the_bridge(tree: SpanningTree, fleet: LocalFleet, vectors: np.ndarray) -> SpanningTree:
    """The tree of lists that have missed the edge between the two groups: another, longer one joins them."""
    bridge = np.flatnonzero((tree.edges.low < 400) & (tree.edges.high >= 400))
    assert len(bridge) == 1
    reach = mutual_reachability(vectors, 5)[:400, 400:]
    low, high = np.unravel_index(np.argsort(reach, axis=None)[2000], reach.shape)
    kept = tree.edges.take(np.delete(np.arange(len(vectors) - 1), bridge))
    longer = Edges(*(np.array([value]) for value in (low, high + 400, reach[low, high], reach[low, high])))
    edges = Edges.concatenate([kept, longer])
    return tree._replace(edges=edges.take(canonical_order(edges)))


def test_a_planted_missing_bridge_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raymedlt.clustering.repair._SPLIT_SHARE", 1)
    vectors = two_groups()
    tree, fleet = exact_tree(vectors)
    wrong = without_the_bridge(tree, fleet, vectors)
    assert wrong.edges.weight.sum() > tree.edges.weight.sum()
    checks = SplitChecks(fleet, fleet.core_N, np.arange(700), 5)
    mended = checks.mended(wrong, linkage_of(wrong, fleet))
    assert np.array_equal(mended.edges.low, tree.edges.low)
    assert np.array_equal(mended.edges.high, tree.edges.high)
    assert mended.edges.weight.sum() == pytest.approx(prim_weight(mutual_reachability(vectors, 5)), rel=1e-12)
    assert checks.repaired_edges == 1
    assert checks.splits > 0
    assert mended.certified.all()
    saved = wrong.edges.weight.sum() - tree.edges.weight.sum()
    assert mended.least_weight == pytest.approx(wrong.least_weight - saved)
    # what was checked once is not asked again, and a right tree stays as it is
    assert checks.mended(mended, linkage_of(mended, fleet)) is mended


def test_an_exact_tree_stays_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raymedlt.clustering.repair._SPLIT_SHARE", 1)
    for name in ("blobs", "nested", "duplicates", "equal"):
        tree, fleet = exact_tree(DATA[name]())
        n = len(fleet.core_N)
        checks = SplitChecks(fleet, fleet.core_N, np.arange(n), 5)
        assert checks.mended(tree, linkage_of(tree, fleet)) is tree


def test_the_largest_nodes_are_checked_first_within_the_budget(monkeypatch: pytest.MonkeyPatch):
    """One point may ask: it is of the smaller side of the largest node's split, and its border."""
    monkeypatch.setattr("raymedlt.clustering.repair._SPLIT_SHARE", 700)
    vectors = two_groups()
    tree, fleet = exact_tree(vectors)
    asked = []
    outside = fleet.outside

    def watched(points: np.ndarray, component: np.ndarray, exhaustive: bool):  # type: ignore[no-untyped-def]
        asked.append((points, np.flatnonzero(component), exhaustive))
        return outside(points, component, exhaustive)

    fleet.outside = watched  # type: ignore[method-assign]
    linkage = linkage_of(tree, fleet)
    SplitChecks(fleet, fleet.core_N, np.arange(700), 5).lighter(linkage)
    ((points, members, exhaustive),) = asked
    assert len(points) == 1
    assert exhaustive
    sizes = np.r_[np.ones(700), linkage[:, 3]]
    sides = sizes[linkage[:, :2].astype(int)].min(1)
    first = np.flatnonzero(sides >= 5)[-1]
    assert len(members) == sides[first]
    doubtful = members[fleet.core_N[members] < linkage[first, 2]]
    assert fleet.core_N[points[0]] == fleet.core_N[doubtful].max()


def test_more_edges_never_make_a_tree_heavier_and_doubts_stay():
    vectors = DATA["random"]()
    tree, _ = exact_tree(vectors)
    worse = Edges(np.array([0]), np.array([299]), np.array([100.0]), np.array([100.0]))
    same, taken = with_edges(tree, worse)
    assert taken == 0
    assert all(np.array_equal(a, b) for a, b in zip(same.edges, tree.edges, strict=True))
    doubtful = tree._replace(certified=np.arange(299) % 3 > 0)
    assert np.array_equal(with_edges(doubtful, worse)[0].certified, doubtful.certified)


def fitted(vectors: np.ndarray, weights: np.ndarray | None = None) -> Clustering:
    index, settings = crippled_index(vectors), Settings(mode="certified")
    return grow(index, LocalFleet(index, 16, 5, 2, weights), settings, weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_repair_makes_the_tree_of_a_crippled_index_lighter(weighted: bool, monkeypatch: pytest.MonkeyPatch):
    vectors = noisy(1500, 8, 60, 1)
    weights = np.random.default_rng(0).integers(1, 6, 1500) if weighted else None
    found = fitted(vectors, weights).certificate
    monkeypatch.setattr(fit, "PASSES", 0)
    before = fitted(vectors, weights).certificate
    assert (before.repaired_edges, before.checked_splits) == (0, 0)
    assert found.repaired_edges > 0
    assert found.checked_splits > 0
    assert found.tree_weight < before.tree_weight
    assert found.least_weight <= found.tree_weight * (1 + 1e-12)
    assert dataclasses.asdict(found)["seconds_repair"] > 0
