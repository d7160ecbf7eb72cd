"""The whole fit against hdbscan, scikit-learn and itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from clustering_reference import DATA, by_smallest_member, halos, hdbscan_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from raymedlt.clustering import hdbscan_fit
from raymedlt.clustering.fit import check_vectors, cluster
from raymedlt.clustering.neighbours import Index
from raymedlt.config import ClusteringConfig
from raymedlt.errors import InputError


@pytest.mark.parametrize(("min_cluster_size", "min_samples"), [(2, 1), (5, 1), (15, 5), (5, 20)])
def test_same_partition_at_other_parameters(min_cluster_size: int, min_samples: int):
    vectors = DATA["blobs"]()
    labels = hdbscan_fit(vectors, min_cluster_size, min_samples).labels
    assert labels.tolist() == by_smallest_member(hdbscan_labels(vectors, min_cluster_size, min_samples))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32 - 1), st.integers(12, 70), st.integers(1, 5), st.integers(1, 6), st.integers(2, 6)
)  # fmt: skip
def test_same_partition_on_small_random_sets(seed: int, n: int, d: int, min_samples: int, min_cluster_size: int):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, d)) * rng.choice([0.05, 1.0], size=(n, 1))).astype(np.float32)
    ours = hdbscan_fit(vectors, min_cluster_size, min_samples)
    theirs = hdbscan_labels(vectors, min_cluster_size, min_samples)
    assert ours.labels.tolist() == by_smallest_member(theirs)


def test_same_labels_on_real_sentences(openi_vectors: np.ndarray):
    """On real sentences distances tie, and hdbscan's order of ties is followed."""
    ours, theirs = hdbscan_fit(openi_vectors), hdbscan_labels(openi_vectors)
    assert ours.certificate.clusters > 10
    assert ours.labels.tolist() == by_smallest_member(theirs)


@pytest.mark.parametrize("name", [name for name in DATA if name != "two points"])
def test_same_labels_as_hdbscan_with_ties(name: str):
    vectors = DATA[name]()
    assert hdbscan_fit(vectors).labels.tolist() == by_smallest_member(hdbscan_labels(vectors))


@pytest.mark.parametrize("name", ["nested", "digits", "blobs"])
def test_list_length_never_changes_the_result(name: str):
    vectors = DATA[name]()
    first = hdbscan_fit(vectors, 5, 1, neighbours=1)
    for neighbours in (2, 3, 5, 8, 16):
        other = hdbscan_fit(vectors, 5, 1, neighbours=neighbours)
        assert np.array_equal(other.labels, first.labels)
        assert other.certificate.tree_weight == pytest.approx(first.certificate.tree_weight, rel=1e-12)


# --- what must not matter ---


@pytest.mark.parametrize(("mode", "ties"), [("exact", "hdbscan"), ("exact", "simultaneous"), ("certified", "hdbscan")])
def test_shards_and_threads_never_change_the_result(mode: str, ties: str, monkeypatch: pytest.MonkeyPatch):
    vectors = halos(1600, 8, 20, 0)
    monkeypatch.setattr("raymedlt.clustering.fit._FEW", 0)
    monkeypatch.setattr("raymedlt.clustering.fit._WORTH_IT", 2.0)
    blocks = Index.blocks
    fits = []
    for shards, threads in ((1, 1), (2, 2), (3, 1), (7, 3)):
        monkeypatch.setattr(Index, "blocks", lambda self, count=shards: np.array_split(blocks(self)[0], count))
        assert len(Index(vectors).blocks()) == shards
        fits.append(hdbscan_fit(vectors, mode=mode, ties=ties, threads=threads))  # type: ignore[arg-type]
    assert fits[0].certificate.clusters > 10
    assert ("cells" in fits[0].certificate.search) == (mode == "certified")
    for other in fits[1:]:
        assert np.array_equal(other.labels, fits[0].labels)
        assert np.array_equal(other.probabilities, fits[0].probabilities)
        assert all(np.array_equal(a, b) for a, b in zip(other.spanning_tree, fits[0].spanning_tree, strict=True))  # type: ignore[arg-type]


def test_shards_never_change_labels_of_real_sentences(openi_vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    whole, blocks = hdbscan_fit(openi_vectors).labels, Index.blocks
    for shards in (3, 7):
        monkeypatch.setattr(Index, "blocks", lambda self, count=shards: np.array_split(blocks(self)[0], count))
        assert np.array_equal(hdbscan_fit(openi_vectors).labels, whole)


@pytest.mark.parametrize("name", DATA)
def test_simultaneous_ties_do_not_see_the_order_of_rows(name: str):
    vectors = DATA[name]()
    labels = hdbscan_fit(vectors, ties="simultaneous").labels
    assert labels.tolist() == by_smallest_member(labels)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(vectors))
        back = np.empty(len(vectors), np.int64)
        back[order] = hdbscan_fit(vectors[order], ties="simultaneous").labels
        assert by_smallest_member(back) == labels.tolist()


def test_simultaneous_ties_do_not_see_the_order_of_real_sentences(openi_vectors: np.ndarray):
    labels = hdbscan_fit(openi_vectors, ties="simultaneous").labels
    order = np.random.default_rng(0).permutation(len(openi_vectors))
    back = np.empty(len(order), np.int64)
    back[order] = hdbscan_fit(openi_vectors[order], ties="simultaneous").labels
    assert by_smallest_member(back) == labels.tolist()


@pytest.mark.parametrize("name", ["random", "blobs", "nested", "digits"])
def test_without_ties_both_settings_agree(name: str):
    vectors = DATA[name]()  # min_samples 1: mutual reachability ties at most in pairs
    one, other = (hdbscan_fit(vectors, 5, 1, ties=ties).labels for ties in ("hdbscan", "simultaneous"))  # type: ignore[arg-type]
    assert one.tolist() == other.tolist()


# --- weights ---


def firsts(weights: np.ndarray) -> np.ndarray:
    return np.r_[0, np.cumsum(weights)[:-1]]


WEIGHTED = (
    st.integers(0, 2**32 - 1), st.integers(5, 60), st.integers(1, 5), st.integers(1, 8), st.integers(1, 12),
    st.integers(2, 15),
)  # fmt: skip


def weighted_points(seed: int, n: int, d: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(n, d)) * rng.choice([0.05, 1.0], size=(n, 1))).astype(np.float32)
    return points, rng.integers(1, most + 1, n)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(*WEIGHTED)
def test_weights_are_expanded_data(seed: int, n: int, d: int, most: int, min_samples: int, min_cluster_size: int):
    """Every point gets the label of its first copy. The others have the same one, except in hdbscan's order of ties
    now and then (1 point in 120), never where copies lie at distance 0 of each other in mutual reachability."""
    points, weights = weighted_points(seed, n, d, most)
    theirs = hdbscan_labels(np.repeat(points, weights, axis=0), min_cluster_size, min_samples)
    ours = hdbscan_fit(points, min_cluster_size, min_samples, weights=weights).labels
    assert ours.tolist() == by_smallest_member(theirs[firsts(weights)])
    heavy = np.repeat(weights > min_samples, weights)
    assert (theirs == np.repeat(theirs[firsts(weights)], weights))[heavy].all()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(*WEIGHTED)
def test_weights_are_expanded_data_with_simultaneous_ties(
    seed: int, n: int, d: int, most: int, min_samples: int, min_cluster_size: int
):
    """Here all copies have the same label."""
    points, weights = weighted_points(seed, n, d, most)
    expanded = hdbscan_fit(np.repeat(points, weights, axis=0), min_cluster_size, min_samples, ties="simultaneous")
    ours = hdbscan_fit(points, min_cluster_size, min_samples, weights=weights, ties="simultaneous")
    assert np.array_equal(np.repeat(ours.labels, weights), expanded.labels)
    assert np.allclose(np.repeat(ours.probabilities, weights), expanded.probabilities, atol=1e-6, equal_nan=True)


def test_weights_of_real_sentences(openi_counted: tuple[np.ndarray, np.ndarray]):
    vectors, counts = openi_counted
    assert counts.max() > 100
    assert counts.sum() < 6000
    ours = hdbscan_fit(vectors, weights=counts)
    theirs = hdbscan_labels(np.repeat(vectors, counts, axis=0))
    assert ours.certificate.clusters > 20
    assert ours.labels.tolist() == by_smallest_member(theirs[firsts(counts)])
    # and they say something else than distinct sentences do
    assert ours.certificate.clusters > 2 * hdbscan_fit(vectors).certificate.clusters
    together = hdbscan_fit(vectors, weights=counts, ties="simultaneous").labels
    expanded = hdbscan_fit(np.repeat(vectors, counts, axis=0), ties="simultaneous").labels
    assert np.array_equal(np.repeat(together, counts), expanded)


@pytest.mark.parametrize("ties", ["hdbscan", "simultaneous"])
@pytest.mark.parametrize("name", ["blobs", "nested", "duplicates"])
def test_weights_of_one_change_nothing(name: str, ties: str):
    vectors = DATA[name]()
    ones = np.ones(len(vectors), np.int32)
    one, other = (hdbscan_fit(vectors, weights=weights, ties=ties) for weights in (None, ones))  # type: ignore[arg-type]
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.probabilities, other.probabilities)
    assert np.array_equal(one.condensed, other.condensed)


def test_a_heavy_point_is_a_cluster():
    points = DATA["random"]()[:40]
    weights = np.ones(40, np.int64)
    weights[[3, 17]] = 6
    fit = hdbscan_fit(points, 5, 5, weights=weights)
    assert (fit.core_distances == 0).tolist() == (weights > 5).tolist()
    assert fit.labels[3] >= 0
    assert fit.labels[17] >= 0
    assert fit.labels[3] != fit.labels[17]
    assert fit.probabilities[[3, 17]].tolist() == [1.0, 1.0]
    assert np.isfinite(fit.persistence).all()
    weights[[3, 17]] = 4  # lighter than min_samples
    assert (hdbscan_fit(points, 5, 5, weights=weights).core_distances > 0).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([1, 2, 0, 1]), r"weights of shape \(4,\) and type int64, least 0. Expected: 4 positive integers"),
        (np.array([1, 2, -3, 1]), "least -3"),
        (np.array([1.0, 2.0, 3.0, 1.0]), "type float64"),
        (np.array([1, 2, 3]), r"weights of shape \(3,\)"),
        (np.ones((4, 1), np.int64), r"weights of shape \(4, 1\)"),
        (np.array([True, True, True, True]), "type bool"),
    ],
)
def test_bad_weights_are_refused(weights: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        hdbscan_fit(np.zeros((4, 2)), weights=weights)


# --- the rest ---


def test_certificate_tells_the_truth():
    vectors = DATA["blobs"]()
    fit = hdbscan_fit(vectors)
    certificate = fit.certificate
    assert (certificate.method, certificate.points) == ("hdbscan", len(vectors))
    assert certificate.certified_edges == certificate.edges == len(vectors) - 1
    assert certificate.clusters == fit.labels.max() + 1 == len(fit.persistence) == len(fit.exemplars)
    assert certificate.noise_share == pytest.approx((fit.labels < 0).mean())
    assert fit.spanning_tree is not None
    assert certificate.tree_weight == fit.spanning_tree.weight.sum()
    assert certificate.least_weight == pytest.approx(certificate.tree_weight, rel=1e-12)
    assert (certificate.mode, certificate.recall, certificate.sample_agreement) == ("exact", 1.0, None)
    assert certificate.search.startswith("all pairs")
    assert certificate.sound
    assert certificate.shortcomings() == []
    assert certificate.exhaustive_searches == certificate.second_searches > 0


def test_cluster_ids_follow_the_smallest_member():
    labels = hdbscan_fit(DATA["blobs"]()).labels
    assert labels.dtype == np.int32
    assert labels.tolist() == by_smallest_member(labels)


def test_heaps_of_equal_points_are_clusters():
    points = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    fit = hdbscan_fit(np.repeat(points, 30, axis=0))
    assert fit.labels.tolist() == np.repeat(np.arange(10), 30).tolist()
    assert np.isfinite(fit.probabilities).all()
    assert np.isfinite(fit.persistence).all()


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5])
def test_too_few_points_are_noise(n: int):
    fit = hdbscan_fit(np.random.default_rng(0).normal(size=(n, 3)))
    assert fit.labels.tolist() == [-1] * n
    assert fit.certificate.clusters == 0


def test_equal_points_are_noise_as_in_hdbscan():
    vectors = DATA["equal"]()
    assert hdbscan_labels(vectors).tolist() == hdbscan_fit(vectors).labels.tolist() == [-1] * len(vectors)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float):
    vectors = np.ones((6, 3))
    vectors[4, 1] = value
    with pytest.raises(InputError, match="1 vectors hold NaN or infinity, the first in row 4"):
        hdbscan_fit(vectors)


@pytest.mark.parametrize("shape", [(4,), (4, 0), (2, 2, 2)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(InputError, match=r"an array \[N, D\]"):
        check_vectors(np.ones(shape))


@pytest.mark.parametrize(("min_cluster_size", "min_samples"), [(1, 5), (5, 0)])
def test_senseless_parameters_are_refused(min_cluster_size: int, min_samples: int):
    with pytest.raises(InputError, match="at least"):
        hdbscan_fit(DATA["random"](), min_cluster_size, min_samples)


@pytest.mark.parametrize(("name", "value"), [("mode", "fast"), ("ties", "any"), ("recall", 1.0), ("recall", 0.0)])
def test_unknown_settings_are_refused(name: str, value: object):
    with pytest.raises(InputError, match=f"{name} is {value!r}"):
        hdbscan_fit(DATA["random"](), **{name: value})  # type: ignore[arg-type]


def test_values_without_a_square_in_low_precision_are_refused():
    vectors = DATA["blobs"]()
    with pytest.raises(InputError, match=r"vectors hold 2e\+12. Expected: values up to 1e\+12. To fix: scale"):
        hdbscan_fit(vectors / np.abs(vectors).max() * 2e12)


@pytest.mark.parametrize("exponent", [-30, -9, 9, 11])
def test_scale_does_not_matter(exponent: int):
    vectors = DATA["blobs"]()
    scaled = vectors.astype(np.float64) * 2.0 ** np.round(exponent * np.log2(10))  # a power of two: no rounding
    assert np.array_equal(hdbscan_fit(scaled).labels, hdbscan_fit(vectors).labels)


def test_dbscan_equals_scikit_learn():
    vectors = DATA["blobs"]()
    fit = cluster(vectors, ClusteringConfig(method="dbscan", eps=1.2, min_samples=4))
    theirs = DBSCAN(eps=1.2, min_samples=4).fit(vectors).labels_
    assert fit.certificate.clusters > 1
    assert (fit.labels < 0).any()
    assert fit.labels.tolist() == by_smallest_member(theirs)
    assert fit.probabilities.tolist() == (fit.labels >= 0).astype(float).tolist()


def test_kmeans_repeats_itself_and_follows_its_seed():
    vectors, config = DATA["random"](), ClusteringConfig(method="kmeans", clusters=20)
    fit = cluster(vectors, config, seed=3)
    assert np.array_equal(fit.labels, cluster(vectors, config, seed=3).labels)
    assert not np.array_equal(fit.labels, cluster(vectors, config, seed=4).labels)
    assert (fit.labels >= 0).all()
    assert fit.labels.tolist() == by_smallest_member(fit.labels)
    assert fit.spanning_tree is None


@pytest.mark.parametrize("n", [0, 1, 6])
def test_kmeans_with_fewer_points_than_clusters(n: int):
    fit = cluster(DATA["random"]()[:n], ClusteringConfig(method="kmeans", clusters=20))
    assert fit.labels.tolist() == list(range(n))


@pytest.mark.parametrize("method", ["hdbscan", "dbscan", "kmeans"])
def test_every_method_takes_nothing(method: str):
    config = dataclasses.replace(ClusteringConfig(), method=method)  # type: ignore[arg-type]
    assert cluster(np.zeros((0, 3), np.float32), config).labels.tolist() == []


@pytest.mark.parametrize("method", ["hdbscan", "dbscan", "kmeans"])
def test_every_method_refuses_nan(method: str):
    config = dataclasses.replace(ClusteringConfig(), method=method)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        cluster(np.full((5, 3), np.nan, np.float32), config)
