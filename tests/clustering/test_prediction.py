"""Density predictions side by side with hdbscan's own on the same fit, and where hdbscan has no answer."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import hdbscan
import numpy as np
import pytest
from clustering_reference import DATA, blobs, by_smallest_member, distances

from raymedlt.clustering import ClusterModel, hdbscan_fit, prediction
from raymedlt.clustering.condensed import branches
from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.fit import cluster
from raymedlt.clustering.prediction import nearest_fitted
from raymedlt.config import ClusteringConfig
from raymedlt.errors import InputError

CASES = [
    ("blobs", 5, 5), ("blobs", 3, 1), ("blobs", 15, 15), ("blobs", 4, 8),
    ("digits", 5, 5), ("digits", 10, 4), ("digits", 15, 15), ("digits", 4, 8),
    ("nested", 3, 1), ("random", 3, 1), ("far from the origin", 5, 5),
]  # fmt: skip


def model_of(vectors: np.ndarray, min_cluster_size: int = 5, min_samples: int = 5) -> ClusterModel:
    keys = [f"{number:06d}" for number in range(len(vectors))]
    return ClusterModel(keys, vectors, hdbscan_fit(vectors, min_cluster_size, min_samples), limit=1.0)


def new_points(vectors: np.ndarray, each: int = 60) -> np.ndarray:
    """Near to fitted points, between two of them, far from all."""
    rng = np.random.default_rng(9)
    n, d = vectors.shape
    spread = (vectors - vectors.mean(0)).std()
    near = vectors[rng.integers(0, n, each)] + rng.normal(size=(each, d)) * spread * 0.05
    share = rng.random((each, 1))
    between = vectors[rng.integers(0, n, each)] * share + vectors[rng.integers(0, n, each)] * (1 - share)
    far = vectors.mean(0) + rng.normal(size=(20, d)) * spread * 10
    return np.concatenate([near, between, far]).astype(np.float32)


def reference(vectors: np.ndarray, min_cluster_size: int, min_samples: int) -> tuple[Any, np.ndarray]:
    """hdbscan's own fit, and for each of its clusters (and its noise, last) the number that we give it."""
    fitted = hdbscan.HDBSCAN(
        min_cluster_size=min_cluster_size, min_samples=min_samples, algorithm="generic", prediction_data=True
    ).fit(vectors.astype(np.float64))
    ours = np.full(fitted.labels_.max() + 2, -1)
    ours[fitted.labels_] = by_smallest_member(fitted.labels_)
    return fitted, ours


def compare(vectors: np.ndarray, asked: np.ndarray, min_cluster_size: int, min_samples: int) -> ClusterModel:
    model = model_of(vectors, min_cluster_size, min_samples)
    theirs, ours = reference(vectors, min_cluster_size, min_samples)
    assert model.clusters >= 2
    assert np.array_equal(ours[theirs.labels_], model.labels)  # or there is nothing to compare
    labels, probabilities = model.predict(asked)
    their_labels, their_probabilities = hdbscan.approximate_predict(theirs, asked.astype(np.float64))
    assert (labels.dtype, probabilities.dtype) == (np.int32, np.float32)
    assert np.array_equal(labels, ours[their_labels])
    assert np.allclose(probabilities, their_probabilities, rtol=0, atol=1e-5)
    soft = model.membership(asked)
    their_soft = hdbscan.membership_vector(theirs, asked.astype(np.float64))
    assert soft.dtype == np.float32
    assert soft.shape == (len(asked), model.clusters)
    assert np.allclose(soft[:, ours[:-1]], their_soft, rtol=0, atol=1e-4)
    return model


@pytest.mark.parametrize(("name", "min_cluster_size", "min_samples"), CASES)
def test_predictions_are_hdbscans(name: str, min_cluster_size: int, min_samples: int):
    vectors = DATA[name]()
    asked = new_points(vectors)
    model = compare(vectors, asked, min_cluster_size, min_samples)
    labels, probabilities = model.predict(asked)
    assert (labels[-20:] == -1).all() or min_samples == 1
    assert ((probabilities > 0) == (labels >= 0)).all()
    assert len(np.unique(labels)) >= 3


def test_predictions_are_hdbscans_on_real_sentences(openi_vectors: np.ndarray):
    rng = np.random.default_rng(2)
    fitted, held_out = openi_vectors[::2], openi_vectors[1::2]
    mixed = fitted[rng.integers(0, len(fitted), 100)] + fitted[rng.integers(0, len(fitted), 100)]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    model = compare(fitted, np.concatenate([held_out, mixed]).astype(np.float32), 5, 5)
    assert np.array_equal(model.predict(fitted)[0], model.labels)
    labels, _ = model.predict(held_out)
    assert 0.02 < (labels >= 0).mean() < 0.9


def test_the_reference_is_there():
    """The numbers are defined by these public functions and what they read of a fitted model."""
    told = f"hdbscan {importlib.metadata.version('hdbscan')} changed {{}}: see raymedlt/clustering/prediction.py"
    for name in ("approximate_predict", "membership_vector"):
        assert hasattr(hdbscan, name), told.format(name)
    vectors = blobs(200, 4, 4, 0)
    theirs, _ = reference(vectors, 5, 5)
    near = np.sort(distances(vectors), axis=1)
    assert np.allclose(theirs.prediction_data_.core_distances, near[:, 4]), told.format(
        "the core distances it predicts"
    )


@pytest.mark.parametrize("name", ["blobs", "digits", "random"])
@pytest.mark.parametrize(("min_cluster_size", "min_samples"), [(5, 5), (3, 1)])
def test_a_cluster_is_the_branch_that_holds_all_its_points(name: str, min_cluster_size: int, min_samples: int):
    clustering = hdbscan_fit(DATA[name](), min_cluster_size, min_samples)
    tree = branches(clustering.condensed, clustering.labels)
    assert tree.size_K[tree.selected_C].tolist() == np.bincount(clustering.labels[clustering.labels >= 0]).tolist()
    assert np.array_equal(tree.label_K[tree.branch_N], clustering.labels)


def test_a_cluster_that_splits_before_a_point_leaves_is_whole():
    """hdbscan 0.8.44 takes one half of such a cluster for all of it, and predicts the other half's neighbours as noise.

    Three points here and three near by, one cluster together; a second such cluster far away.
    """
    pair = np.array([[0, 0], [0.0, 1], [0.9, 0.5], [2.3, 0.4], [2.3, 1.45], [3.25, 0.9]], np.float32)
    vectors = np.concatenate([pair, pair * np.float32(1.01) + 40]).astype(np.float32)
    model = model_of(vectors, 3, 1)
    assert model.labels.tolist() == [0] * 6 + [1] * 6
    assert model.predict(vectors)[0].tolist() == model.labels.tolist()
    assert (model.predict(vectors + np.float32(0.01))[0] == model.labels).all()


def test_fitted_points_are_predicted_into_their_own_clusters():
    vectors = blobs(500, 8, 6, 1)
    model = model_of(vectors)
    labels, probabilities = model.predict(vectors)
    assert np.array_equal(labels, model.labels)
    soft = model.membership(vectors)
    inside = model.labels >= 0
    assert np.array_equal(soft.argmax(1)[inside], model.labels[inside])
    assert (soft.sum(1) <= 1 + 1e-5).all()
    assert probabilities[model.exemplars[0]] == pytest.approx(1.0, abs=1e-5)


def test_points_at_the_same_place():
    """Infinite lambdas: a new point on a heap of equal points belongs to it entirely, and nothing is NaN."""
    rng = np.random.default_rng(0)
    heaps = np.repeat(np.eye(6, dtype=np.float32) * 5, 12, axis=0)
    vectors = np.concatenate([heaps, rng.normal(size=(40, 6)).astype(np.float32)])
    model = model_of(vectors)
    assert np.isinf(model.clustering.condensed["lambda_val"]).any()
    labels, probabilities = model.predict(vectors[:72:12])
    assert labels.tolist() == model.labels[:72:12].tolist()
    assert probabilities.tolist() == [1.0] * 6
    asked = np.concatenate([vectors, new_points(vectors)])
    soft = model.membership(asked)
    assert np.isfinite(soft).all()
    assert (soft.argmax(1)[:72] == model.labels[:72]).all()
    assert np.isfinite(model.predict(asked)[1]).all()


@pytest.mark.parametrize("name", ["near duplicates", "far from the origin", "farther", "blobs", "equal", "two points"])
def test_nearest_fitted_is_exact(name: str, monkeypatch: pytest.MonkeyPatch):
    """Also where float32 can't tell the candidates apart: there the search is repeated in float64."""
    # Below 128,000 numbers faiss takes differences, which hides the rounding of its matrix products.
    monkeypatch.setattr(faiss().cvar, "distance_compute_blas_threshold", 1)
    vectors = DATA["blobs"]() + np.float32(3000) if name == "farther" else DATA[name]()
    asked = vectors[::7] + np.float32(1e-5)
    k = min(9, len(vectors))
    ids, found = nearest_fitted(asked, vectors, k)
    every = np.linalg.norm(asked[:, None].astype(np.float64) - vectors.astype(np.float64), axis=2)
    assert np.allclose(found, np.sort(every, axis=1)[:, :k], rtol=1e-9, atol=1e-12)
    assert np.allclose(np.take_along_axis(every, ids, 1), found, rtol=1e-9, atol=1e-12)
    assert all(len(set(row)) == k for row in ids.tolist())


def test_distances_that_cancel_are_exact():
    vectors = DATA["near duplicates"]()
    found = prediction._distances(vectors[:40], prediction._centred(vectors))
    assert np.allclose(found, distances(vectors)[:40], rtol=1e-6, atol=0)
    assert (found[np.arange(40), np.arange(40)] == 0).all()


def test_few_core_distances_are_computed_again():
    """Most new points know their neighbour without: the others would cost a search of their own."""
    vectors = blobs(2000, 16, 20, 3)
    model = model_of(vectors)
    model.predict(new_points(vectors, 300))
    computed = np.isfinite(model._density()._inner_N).sum()
    assert 0 < computed < 0.25 * 10 * 300


def test_small_blocks_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch):
    vectors = DATA["digits"]()
    asked = new_points(vectors)
    labels, probabilities = model_of(vectors).predict(asked)
    soft = model_of(vectors).membership(asked)
    monkeypatch.setattr(prediction, "_CELLS_AT_A_TIME", 1000)
    again = model_of(vectors)
    assert np.array_equal(again.predict(asked)[0], labels)
    assert np.array_equal(again.predict(asked)[1], probabilities)
    assert np.allclose(again.membership(asked), soft, atol=1e-6)


def test_fewer_points_than_neighbours_asked_for():
    vectors = blobs(14, 3, 2, 5, spread=0.05)
    model = model_of(vectors, 3, 12)
    labels, probabilities = model.predict(vectors)
    assert labels.shape == probabilities.shape == (14,)
    assert np.isfinite(model.membership(vectors)).all()


def test_no_clusters_and_no_points():
    model = model_of(DATA["random"]())
    assert model.clusters == 0
    labels, probabilities = model.predict(model.vectors[:3])
    assert (labels.tolist(), probabilities.tolist()) == ([-1] * 3, [0.0] * 3)
    assert model.membership(model.vectors[:3]).shape == (3, 0)
    model = model_of(DATA["blobs"]())
    assert [len(part) for part in model.predict(model.vectors[:0])] == [0, 0]
    assert model.membership(model.vectors[:0]).shape == (0, model.clusters)


def test_wrong_width_is_refused():
    with pytest.raises(InputError, match=r"vectors of width 3\. Expected: width 16"):
        model_of(DATA["blobs"]()).predict(np.ones((2, 3), np.float32))


def test_models_without_a_tree_of_their_rows_are_refused():
    vectors = blobs(200, 4, 4, 0)
    fitted = model_of(vectors)
    asked = vectors[:2]
    plain = dataclasses.replace(fitted, clustering=cluster(vectors, ClusteringConfig(method="kmeans", clusters=4)))
    few = model_of(vectors[:3])
    expanded = dataclasses.replace(fitted.clustering, labels=fitted.clustering.labels[:150])
    weighted = dataclasses.replace(fitted, vectors=vectors[:150], clustering=expanded)
    for model in (plain, few):
        for ask in (model.predict, model.membership):
            with pytest.raises(InputError, match=r"without a condensed tree.*use `assign`"):
                ask(asked)
        with pytest.raises(InputError, match="without a condensed tree"):
            _ = model.condensed_tree
    for ask in (weighted.predict, weighted.membership):
        with pytest.raises(InputError, match=r"holds 200 points for 150 rows.*`assign`, which works for every model"):
            ask(asked)
    assert plain.assign(asked)[0].tolist() == plain.labels[:2].tolist()


def test_another_clustering_is_not_answered_from_the_old_one():
    vectors = blobs(300, 4, 4, 0)
    model = model_of(vectors)
    model.predict(vectors)
    other = dataclasses.replace(model, clustering=hdbscan_fit(vectors, 40, 2))
    assert np.array_equal(other.predict(vectors)[0], hdbscan_model_labels(vectors, 40, 2))


def hdbscan_model_labels(vectors: np.ndarray, min_cluster_size: int, min_samples: int) -> np.ndarray:
    theirs, ours = reference(vectors, min_cluster_size, min_samples)
    return ours[hdbscan.approximate_predict(theirs, vectors.astype(np.float64))[0]]


def test_the_condensed_tree_is_hdbscans_for_its_users():
    model = model_of(DATA["digits"]())
    theirs, _ = reference(model.vectors, 5, 5)
    tree = model.condensed_tree
    assert isinstance(tree, hdbscan.plots.CondensedTree)
    rows, their_rows = (np.sort(each.to_numpy(), order="child") for each in (tree, theirs.condensed_tree_))
    for name in ("parent", "child", "child_size", "lambda_val"):
        assert np.allclose(rows[name], their_rows[name], rtol=1e-6)
    # The branches that .plot(select_clusters=True, label_clusters=True) marks, in the order of the labels it writes.
    marked = [int(branch) - len(model.keys) for branch in tree._select_clusters()]
    assert marked == branches(model.clustering.condensed, model.labels).selected_C.tolist()
    assert len(tree.get_plot_data()["bar_centers"]) > model.clusters
    assert tree.to_networkx().number_of_nodes() == len(model.clustering.condensed) + 1
