"""Neighbour lists against brute force in float64; bounds that are true; hdbscan's core distance."""

from __future__ import annotations

import numpy as np
import pytest
from clustering_reference import DATA, distances

from raymedlt.clustering.neighbours import core_distances, exact_neighbours, pair_distances, rounding_of_squares


@pytest.mark.parametrize("k", [1, 5, 16])
@pytest.mark.parametrize("name", DATA)
def test_lists_equal_brute_force(name: str, k: int):
    vectors = DATA[name]()
    found, exact = exact_neighbours(vectors, k), distances(vectors)
    np.fill_diagonal(exact, np.inf)
    k = min(k, len(vectors) - 1)
    # Which of two tied points is in a list is open; how far the list reaches is not.
    assert np.allclose(found.distances_NK[:, :k], np.sort(exact, axis=1)[:, :k], rtol=1e-7, atol=1e-9)
    assert np.allclose(np.take_along_axis(exact, found.ids_NK, 1), found.distances_NK, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DATA)
def test_no_list_holds_the_point_or_a_point_twice(name: str):
    ids = exact_neighbours(DATA[name](), 7).ids_NK
    assert not (ids == np.arange(len(ids))[:, None]).any()
    assert all(len(set(row)) == len(row) for row in ids.tolist())


@pytest.mark.parametrize("name", DATA)
def test_lists_are_ordered_by_distance_then_id(name: str):
    found = exact_neighbours(DATA[name](), 9)
    for ids, far in zip(found.ids_NK.tolist(), found.distances_NK.tolist(), strict=True):
        assert list(zip(far, ids, strict=True)) == sorted(zip(far, ids, strict=True))


@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("name", DATA)
def test_bound_is_true(name: str, k: int):
    vectors = DATA[name]()
    found, exact = exact_neighbours(vectors, k), distances(vectors)
    np.fill_diagonal(exact, np.inf)
    np.put_along_axis(exact, found.ids_NK, np.inf, 1)
    assert (exact.min(1) >= found.bound_N).all()


def test_bound_is_of_use():
    found = exact_neighbours(DATA["blobs"](), 8)
    assert (found.bound_N >= found.distances_NK[:, 0]).mean() > 0.99


def test_bound_is_infinite_where_everything_is_listed():
    found = exact_neighbours(DATA["random"]()[:9], 50)
    assert found.ids_NK.shape == (9, 8)
    assert np.isinf(found.bound_N).all()


@pytest.mark.parametrize("n", [0, 1])
def test_nobody_to_know(n: int):
    found = exact_neighbours(np.zeros((n, 3), np.float32), 5)
    assert found.ids_NK.shape == (n, 0)
    assert core_distances(found, 5).tolist() == [0.0] * n


def test_two_points():
    found = exact_neighbours(DATA["two points"](), 5)
    assert found.ids_NK.tolist() == [[1], [0]]
    assert found.distances_NK.tolist() == [[5.0], [5.0]]
    assert core_distances(found, 5).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("min_samples", [1, 5, 12])
@pytest.mark.parametrize("name", DATA)
def test_core_distance_is_hdbscans(name: str, min_samples: int):
    vectors = DATA[name]()
    core = core_distances(exact_neighbours(vectors, 16), min_samples)
    # hdbscan: the (min_samples + 1)-th smallest of a row that holds the point's own zero
    k = min(min_samples, len(vectors) - 1)
    assert np.allclose(core, np.sort(distances(vectors), axis=1)[:, k], rtol=1e-7, atol=1e-9)


def test_float32_search_alone_would_be_wrong():
    """The near duplicates are a case that needs the second search: without it this file's other tests prove little."""
    vectors = DATA["near duplicates"]()
    products = vectors @ vectors.T
    squares = np.maximum(np.diag(products)[:, None] + np.diag(products) - 2 * products, 0)
    np.fill_diagonal(squares, np.inf)
    taken = np.sort(np.take_along_axis(distances(vectors), np.argsort(squares, axis=1)[:, :5], 1), 1)[:, 4]
    right = np.sort(distances(vectors), axis=1)[:, 5]
    assert (taken > right * (1 + 1e-4)).any()


def test_rounding_covers_what_float32_does():
    rng = np.random.default_rng(0)
    for d in (4, 64, 384):
        vectors = rng.normal(size=(200, d)).astype(np.float32) * 3
        norms = np.einsum("nd,nd->n", vectors, vectors)
        squares = norms[:, None] + norms - 2 * (vectors @ vectors.T)
        assert np.abs(squares - distances(vectors) ** 2).max() < rounding_of_squares(vectors)


def test_pair_distances_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch):
    vectors = DATA["blobs"]()
    left, right = np.arange(0, 500), np.arange(100, 600)
    whole = pair_distances(vectors, left, right)
    monkeypatch.setattr("raymedlt.clustering.neighbours._PAIRS_AT_A_TIME", 7)
    assert np.array_equal(pair_distances(vectors, left, right), whole)
    assert np.array_equal(pair_distances(vectors, right, left), whole)
