"""The whole fit against hdbscan, scikit-learn and itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from clustering_reference import DATA, TIE_FREE, by_smallest_member, hdbscan_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from raymedlt.clustering import hdbscan_fit
from raymedlt.clustering.fit import check_vectors, cluster
from raymedlt.config import ClusteringConfig
from raymedlt.errors import InputError


@pytest.mark.parametrize("name", TIE_FREE)
def test_same_partition_as_hdbscan(name: str):
    vectors = DATA[name]()
    assert adjusted_rand_score(hdbscan_labels(vectors), hdbscan_fit(vectors).labels) == 1.0


@pytest.mark.parametrize(("min_cluster_size", "min_samples"), [(2, 1), (5, 1), (15, 5), (5, 20)])
def test_same_partition_at_other_parameters(min_cluster_size: int, min_samples: int):
    vectors = DATA["blobs"]()
    labels = hdbscan_fit(vectors, min_cluster_size, min_samples).labels
    assert adjusted_rand_score(hdbscan_labels(vectors, min_cluster_size, min_samples), labels) == 1.0


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32 - 1), st.integers(12, 70), st.integers(1, 5), st.integers(1, 6), st.integers(2, 6)
)  # fmt: skip
def test_same_partition_on_small_random_sets(seed: int, n: int, d: int, min_samples: int, min_cluster_size: int):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, d)) * rng.choice([0.05, 1.0], size=(n, 1))).astype(np.float32)
    ours = hdbscan_fit(vectors, min_cluster_size, min_samples)
    theirs = hdbscan_labels(vectors, min_cluster_size, min_samples)
    assert adjusted_rand_score(theirs, ours.labels) == 1.0
    assert ((theirs < 0) == (ours.labels < 0)).all()


def test_same_partition_on_real_sentences(openi_vectors: np.ndarray):
    """On real sentences distances tie; hdbscan agrees with itself on shuffled rows no better than this."""
    ours, theirs = hdbscan_fit(openi_vectors), hdbscan_labels(openi_vectors)
    assert ours.certificate.clusters > 10
    assert adjusted_rand_score(theirs, ours.labels) >= 0.99


@pytest.mark.parametrize("name", ["nested", "digits", "blobs"])
def test_list_length_never_changes_the_result(name: str):
    vectors = DATA[name]()
    first = hdbscan_fit(vectors, 5, 1, neighbours=1)
    for neighbours in (2, 3, 5, 8, 16):
        other = hdbscan_fit(vectors, 5, 1, neighbours=neighbours)
        assert np.array_equal(other.labels, first.labels)
        assert other.certificate.tree_weight == pytest.approx(first.certificate.tree_weight, rel=1e-12)


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


def test_unknown_mode_is_refused():
    with pytest.raises(InputError, match="mode is 'fast'"):
        hdbscan_fit(DATA["random"](), mode="fast")  # type: ignore[arg-type]


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
def test_every_method_refuses_nan(method: str):
    config = dataclasses.replace(ClusteringConfig(), method=method)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        cluster(np.full((5, 3), np.nan, np.float32), config)
