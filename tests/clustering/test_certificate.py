"""The certificate: what it measures is true, and a wrong index does not get past it."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from clustering_reference import DATA, blobs, halos, mutual_reachability, noisy, prim_weight
from sklearn.metrics import adjusted_rand_score

from raymedlt.clustering import Certificate, fit, hdbscan_fit, neighbours
from raymedlt.clustering.certificate import adjusted_rand_index, index_recall, wrong_edges
from raymedlt.clustering.fit import Clustering, Settings, grow
from raymedlt.clustering.hierarchy import flat_clusters, single_linkage
from raymedlt.clustering.local import LocalFleet
from raymedlt.clustering.neighbours import Index, pair_distances
from raymedlt.clustering.partition import make_partition
from raymedlt.clustering.spanning_tree import minimum_spanning_tree
from raymedlt.intervals import wilson


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of 128 points, and a partial index even where looking everywhere is as quick."""
    for module in (fit, neighbours):
        monkeypatch.setattr(module, "make_partition", functools.partial(make_partition, points_per_cell=128))
    monkeypatch.setattr(fit, "_FEW", 0)
    monkeypatch.setattr(fit, "_WORTH_IT", 2.0)


def crippled(vectors: np.ndarray) -> Clustering:
    """Every point sees its own cell alone, and nobody chose that for its recall."""
    index, settings = Index(vectors, make_partition(vectors, 0, 32), 1), Settings(mode="certified")
    fleet = LocalFleet(index, settings.listed, settings.min_samples, 2)
    return grow(index, fleet, settings)


CERTIFIED = {
    "halos": lambda: halos(5000, 12, 60, 0),
    "noisy": lambda: noisy(5000, 8, 60, 1),
}


@pytest.mark.usefixtures("small_cells")
@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_mode_is_as_good_as_its_certificate_says(name: str):
    vectors = CERTIFIED[name]()
    exact = hdbscan_fit(vectors, ties="simultaneous", threads=2)
    found = hdbscan_fit(vectors, mode="certified", recall=0.9999, threads=2)
    certificate = found.certificate
    cells = int(certificate.search.split()[0])
    assert 1 < cells < 30  # of 39: partial indeed
    assert certificate.mode == "certified"
    agreement = adjusted_rand_score(exact.labels, found.labels)
    assert agreement >= 0.995
    assert certificate.recall >= 0.99
    assert certificate.recall >= certificate.recall_lower
    assert certificate.sound
    assert certificate.shortcomings() == []
    assert certificate.sample_points == len(vectors)
    assert certificate.sample_agreement == pytest.approx(agreement)  # the sample is everybody
    assert certificate.checked_edges == 400
    assert certificate.seconds_checks > 0
    # what everybody knows of both trees
    assert certificate.tree_weight >= exact.certificate.tree_weight * (1 - 1e-9)
    assert certificate.tree_weight <= exact.certificate.tree_weight * 1.001
    assert exact.certificate.least_weight == pytest.approx(exact.certificate.tree_weight, rel=1e-12)


@pytest.mark.usefixtures("small_cells")
def test_certified_mode_repeats_itself_and_does_not_depend_on_threads():
    vectors = CERTIFIED["noisy"]()[:1200]
    fits = [hdbscan_fit(vectors, mode="certified", threads=threads) for threads in (1, 2)]
    for other in fits[1:]:
        assert np.array_equal(other.labels, fits[0].labels)
        one, two = (
            {k: v for k, v in dataclasses.asdict(each.certificate).items() if not k.startswith("seconds")}
            for each in (other, fits[0])
        )
        assert one == two


@pytest.mark.usefixtures("small_cells")
def test_certified_mode_with_weights():
    vectors = CERTIFIED["noisy"]()[:2500]
    weights = np.random.default_rng(0).integers(1, 6, len(vectors))
    exact = hdbscan_fit(vectors, weights=weights, ties="simultaneous")
    found = hdbscan_fit(vectors, weights=weights, mode="certified", recall=0.9999)
    assert "cells" in found.certificate.search
    assert adjusted_rand_score(exact.labels, found.labels) >= 0.99
    assert found.certificate.sound


@pytest.mark.usefixtures("small_cells")
def test_ties_are_simultaneous_where_only_cells_were_looked_at():
    vectors = CERTIFIED["noisy"]()[:1200]
    auto, at_once, ordered = (
        hdbscan_fit(vectors, mode="certified", ties=ties).labels
        for ties in ("auto", "simultaneous", "hdbscan")  # type: ignore[arg-type]
    )
    assert np.array_equal(auto, at_once)
    assert not np.array_equal(auto, ordered)


def test_few_points_are_all_looked_at():
    vectors = blobs(1200, 4, 10, 0)
    assert hdbscan_fit(vectors, mode="certified").certificate.search.startswith("all pairs")


@pytest.mark.usefixtures("small_cells")
def test_where_most_cells_are_needed_everything_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fit, "_WORTH_IT", 0.3)
    vectors = DATA["nested"]()
    found = hdbscan_fit(vectors, mode="certified")
    assert found.certificate.search.startswith("all pairs")
    assert np.array_equal(found.labels, hdbscan_fit(vectors).labels)
    assert (found.certificate.recall, found.certificate.checked_edges, found.certificate.sound) == (1.0, 0, True)


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_crippled_index_is_caught(name: str):
    found = crippled(CERTIFIED[name]()[:3000])
    certificate = found.certificate
    assert not certificate.sound
    assert certificate.recall < 0.95
    assert certificate.wrong_edges > 0
    assert certificate.sample_agreement is not None
    assert certificate.sample_agreement < 0.95
    words = " | ".join(certificate.shortcomings())
    assert "of the neighbours" in words
    assert f"{certificate.wrong_edges} of {certificate.checked_edges} sampled edges are wrong" in words
    assert found.labels.shape == (3000,)  # there are clusters all the same


def test_a_crippled_index_of_weighted_points_is_caught():
    vectors = CERTIFIED["noisy"]()[:1500]
    weights = np.random.default_rng(0).integers(1, 6, len(vectors))
    index, settings = Index(vectors, make_partition(vectors, 0, 32), 1), Settings(mode="certified")
    found = grow(index, LocalFleet(index, 16, 5, 1, weights), settings, weights)
    assert found.certificate.wrong_edges > 0
    assert not found.certificate.sound


# --- its parts ---


def exact_linkage(
    vectors: np.ndarray, weights: np.ndarray | None = None, simultaneous: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Single-linkage tree, core distances, the point of each row."""
    fleet = LocalFleet(Index(vectors), 16, 5, 1, weights)
    tree = minimum_spanning_tree(fleet.floor_N, fleet)
    flat = flat_clusters(tree.edges, fleet.core_N, 5, weights, None if simultaneous else tree.ties)
    return flat.linkage, fleet.core_N, np.repeat(np.arange(len(vectors)), 1 if weights is None else weights)


@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("name", ["blobs", "nested", "digits", "duplicates", "near duplicates", "far apart"])
def test_no_edge_of_an_exact_tree_is_wrong(name: str, simultaneous: bool):
    vectors = DATA[name]()
    linkage, core, point_of = exact_linkage(vectors, simultaneous=simultaneous)
    assert wrong_edges(Index(vectors), linkage, core, point_of, 0) == (0, min(400, len(vectors) - 1))


def test_no_edge_of_an_exact_weighted_tree_is_wrong():
    vectors = DATA["blobs"]()[:300]
    weights = np.random.default_rng(0).integers(1, 8, 300)
    tree = exact_linkage(vectors, weights)
    assert wrong_edges(Index(vectors), *tree, 0, checked=200) == (0, 200)
    wrong, checked = wrong_edges(Index(vectors), *tree, 0, checked=10**6)
    assert wrong == 0
    assert 299 <= checked < weights.sum() - 1  # copies that meet are no edges of the tree


@pytest.mark.parametrize("name", ["blobs", "nested", "near duplicates"])
def test_a_random_tree_is_found_wrong(name: str):
    vectors, rng = DATA[name](), np.random.default_rng(0)
    n = len(vectors)
    core = exact_linkage(vectors)[1]
    source, target = np.array([rng.integers(0, point) for point in range(1, n)]), np.arange(1, n)
    weight = np.maximum(np.maximum(core[source], core[target]), pair_distances(vectors, source, target))
    order = np.argsort(weight)
    linkage = single_linkage(source[order], target[order], weight[order])
    assert weight.sum() > prim_weight(mutual_reachability(vectors, 5)) * 1.2
    wrong, checked = wrong_edges(Index(vectors), linkage, core, np.arange(n), 0)
    assert checked == 400
    assert wrong > 200


def test_one_planted_wrong_edge_is_found():
    """The right tree, but the last merge is made by a longer edge than need be."""
    vectors = DATA["blobs"]()
    linkage, core, point_of = exact_linkage(vectors)
    linkage[-1, 2] *= 1.01
    assert wrong_edges(Index(vectors), linkage, core, point_of, 0, checked=599) == (1, 599)


def test_recall_of_an_index_that_sees_everything_is_one():
    vectors = DATA["blobs"]()
    share, lower = index_recall(Index(vectors), np.arange(600), 5)
    assert share == 1.0
    assert lower == pytest.approx(wilson(600, 600)[0])


def test_recall_is_the_share_of_neighbours_found():
    vectors = DATA["random"]()
    index = Index(vectors, make_partition(vectors, 0, 20), 2, "float32")
    truth = Index(vectors).neighbours(np.arange(300), 6, 6).ids_BK
    found = index.neighbours(np.arange(300), 6, 1).ids_BK
    right = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(truth.tolist(), found.tolist(), strict=True)])
    share, lower = index_recall(index, np.arange(300), 6)
    assert 0.2 < share < 0.9
    assert share == pytest.approx(right)
    assert lower < share


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (1, 29, 0.006113, 0.171755),  # Newcombe 1998, table I
        (81, 263, 0.255287, 0.366211),  # Newcombe 1998, table I
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(hits: int, of: int, low: float, high: float):
    assert wilson(hits, of) == pytest.approx((low, high), abs=6e-5)


def test_adjusted_rand_index_is_scikit_learns():
    one, other = np.array([0, 0, 1, 1, -1]), np.array([5, 5, 2, 3, 3])
    assert adjusted_rand_index(one, one) == 1.0
    assert adjusted_rand_index(one, other) == adjusted_rand_score(one, other)


def _certificate(**changes: object) -> Certificate:
    certificate = hdbscan_fit(blobs(60, 3, 3, 0)).certificate
    return dataclasses.replace(certificate, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certified_edges": 50}, "9 of 59 spanning-tree edges are not certified"),
        ({"recall": 0.9, "recall_lower": 0.88}, "the index may find only 88.0 % of the neighbours"),
        (
            {"checked_edges": 100, "wrong_edges": 3, "wrong_share_upper": 0.085},
            "3 of 100 sampled edges are wrong: up to 8.5 %",
        ),
        (
            {"sample_agreement": 1.0, "margin": 0.0007, "margin_points": 50, "margin_clusters": 7},
            "the choice between one cluster of 50 points and 7 clusters within it hangs on 0.07 % of stability",
        ),
    ],
)
def test_each_shortcoming_is_said(changes: dict[str, object], words: str):
    assert _certificate().sound
    assert _certificate().shortcomings() == []
    certificate = _certificate(**changes)
    assert not certificate.sound
    assert len(certificate.shortcomings()) == 1
    assert words in certificate.shortcomings()[0]


def test_a_narrow_choice_is_no_shortcoming_where_everything_was_looked_at():
    assert _certificate(margin=0.0007, margin_points=50, margin_clusters=7).sound
    assert _certificate(margin=0.011, margin_points=50, margin_clusters=7, sample_agreement=1.0).sound
