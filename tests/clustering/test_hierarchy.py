"""hdbscan's compiled tree code behind its door: the private names, Prim's walk, flat clusters."""

from __future__ import annotations

import importlib
import inspect

import hdbscan
import numpy as np
import pytest
from clustering_reference import DATA, blobs, by_smallest_member, mutual_reachability

from raymedlt.clustering.hierarchy import flat_clusters, prim_walk
from raymedlt.clustering.neighbours import core_distances, exact_neighbours
from raymedlt.clustering.spanning_tree import Edges, joined, list_edges, minimum_spanning_tree

MEND = (
    "hdbscan {version} moved or changed {module}.{name}: mend raymedlt/clustering/hierarchy.py, the one module that "
    "uses hdbscan's private code, or pin the version in pyproject.toml"
)


@pytest.mark.parametrize(
    ("module", "name", "first"),
    [
        ("hdbscan._hdbscan_linkage", "label", ["L"]),
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


def _graph(vectors: np.ndarray, min_samples: int = 5) -> Edges:
    lists = exact_neighbours(vectors, 16)
    core = core_distances(lists, min_samples)
    return joined(list_edges(lists, core), minimum_spanning_tree(vectors, lists, core).edges)


def _flat(vectors: np.ndarray, min_cluster_size: int = 5):
    return flat_clusters(_graph(vectors), len(vectors), min_cluster_size)


def _line(*rows: tuple[int, int, float]) -> Edges:
    low, high, weight = (list(column) for column in zip(*rows, strict=True))
    return Edges(np.array(low), np.array(high), np.array(weight, float), np.array(weight, float))


def _walk(graph: Edges, points: int) -> list[tuple[int, int, float]]:
    return list(zip(*(column.tolist() for column in prim_walk(graph, points)), strict=True))


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
    assert _walk(Edges(*(np.zeros(0, kind) for kind in (int, int, float, float))), 1) == []


@pytest.mark.parametrize("name", ["digits", "nested", "blobs", "random"])
def test_prim_walk_is_hdbscans(name: str):
    """The same edges in the same order, ties included (6 to 50 % of the edges tie at a core distance)."""
    from hdbscan._hdbscan_linkage import mst_linkage_core

    vectors = DATA[name]()
    theirs = mst_linkage_core(mutual_reachability(vectors, 5))
    source, target, weight = prim_walk(_graph(vectors), len(vectors))
    assert np.array_equal(np.column_stack([source, target]), theirs[:, :2].astype(int))
    assert np.allclose(weight, theirs[:, 2], rtol=1e-9)


def test_clusters_are_numbered_by_their_smallest_member():
    labels = _flat(blobs(500, 8, 10, 1)).labels_N
    assert labels.max() >= 5
    assert labels.tolist() == by_smallest_member(labels)


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


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_points_are_all_noise(n: int):
    flat = flat_clusters(_graph(np.arange(n, dtype=np.float32)[:, None]), n, 5)
    assert flat.labels_N.tolist() == [-1] * n
    assert flat.probabilities_N.tolist() == [0.0] * n
    assert flat.exemplars_C == []
