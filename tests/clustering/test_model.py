"""A fitted cluster model: assignment, medoids, saving and loading."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from clustering_reference import blobs

from raymedlt.clustering import ClusterModel, hdbscan_fit
from raymedlt.clustering.fit import cluster
from raymedlt.clustering.model import medoids, members_of, nearest_clustered
from raymedlt.config import ClusteringConfig
from raymedlt.errors import InputError
from raymedlt.reports.sentences import sentence_key
from raymedlt.storage import Storage

SENTENCES = [
    f"{opening} {what}."
    for opening in ("No", "There is no", "No visible", "No evidence of", "Without", "No sign of", "Negative for")
    for what in ("pleural effusion", "pneumothorax", "focal consolidation", "rib fracture")
]
ODD = ["A ship sails to Lisbon at noon.", "Bake the bread for an hour."]


@pytest.fixture(scope="module")
def unit_model() -> ClusterModel:
    vectors = blobs(300, 8, 6, 1, spread=0.05)
    vectors = np.concatenate([vectors, 3 * np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = [f"sentence {number:04d}" for number in range(len(vectors))]
    return ClusterModel(keys, vectors, hdbscan_fit(vectors), limit=0.2, information={"section": "findings"})


@pytest.fixture(scope="module")
def text_model() -> ClusterModel:
    from raymedlt.embedding.encoder import load_encoder

    keys = sorted({sentence_key(sentence) for sentence in SENTENCES + ODD})
    vectors = load_encoder(None, "float32", 64, "cpu").encode(keys)
    return ClusterModel(keys, vectors, hdbscan_fit(vectors, 3, 2), limit=float(np.sqrt(2 - 2 * 0.8)))


def test_fitted_vectors_keep_their_labels(unit_model: ClusterModel):
    ids, distances = unit_model.assign(unit_model.vectors)
    assert (unit_model.labels < 0).any()
    assert unit_model.clusters >= 4
    assert np.array_equal(ids, unit_model.labels)
    assert ids.dtype == np.int32
    assert distances.dtype == np.float32
    assert (distances[ids >= 0] < 1e-3).all()


def test_near_ones_join_and_far_ones_do_not(unit_model: ClusterModel):
    members = [np.flatnonzero(unit_model.labels == c)[0] for c in range(unit_model.clusters)]
    near = unit_model.vectors[members] + np.float32(0.01)
    ids, distances = unit_model.assign(near)
    assert ids.tolist() == list(range(unit_model.clusters))
    assert (distances <= unit_model.limit).all()
    far, how_far = unit_model.assign(np.full((1, 8), 9.0, np.float32))
    assert far.tolist() == [-1]
    assert how_far[0] > unit_model.limit


def test_distance_is_to_the_nearest_clustered_sentence(unit_model: ClusterModel):
    asked = np.random.default_rng(4).normal(size=(40, 8)).astype(np.float32)
    clustered = unit_model.vectors[unit_model.labels >= 0].astype(np.float64)
    exact = np.linalg.norm(asked[:, None].astype(np.float64) - clustered, axis=2).min(1)
    assert np.allclose(unit_model.assign(asked)[1], exact, rtol=1e-4)


def test_wrong_width_is_refused(unit_model: ClusterModel):
    with pytest.raises(InputError, match=r"vectors of width 5\. Expected: width 8"):
        unit_model.assign(np.ones((2, 5), np.float32))


def test_nan_is_refused(unit_model: ClusterModel):
    with pytest.raises(InputError, match="NaN"):
        unit_model.assign(np.full((1, 8), np.nan))


def test_nothing_asked_nothing_said(unit_model: ClusterModel):
    ids, distances = unit_model.assign(np.zeros((0, 8), np.float32))
    assert (len(ids), len(distances)) == (0, 0)


def test_a_model_without_sentences_assigns_nothing():
    empty = np.zeros((0, 8), np.float32)
    model = ClusterModel([], empty, hdbscan_fit(empty), limit=0.5)
    ids, distances = model.assign(np.ones((3, 8), np.float32))
    assert ids.tolist() == [-1, -1, -1]
    assert np.isinf(distances).all()


def test_fitted_sentences_keep_their_labels_however_they_are_spelled(text_model: ClusterModel):
    assert text_model.clusters >= 2
    expected = text_model.labels.tolist()
    assert text_model.assign([f"  {key.upper()} . " for key in text_model.keys])[0].tolist() == expected


def test_fitted_noise_stays_noise_even_close_to_a_cluster(text_model: ClusterModel):
    """A sentence is known by its key, not by how its vector was rounded on the way."""
    labels = text_model.labels.copy()
    number = text_model.keys.index("no sign of pneumothorax")
    labels[number] = -1
    clustering = dataclasses.replace(text_model.clustering, labels=labels)
    vectors = text_model.vectors + np.float32(0.001)  # as if fitted in another precision
    model = dataclasses.replace(text_model, vectors=vectors, clustering=clustering)
    ids, distances = model.assign([model.keys[number]])
    assert distances[0] <= model.limit
    assert ids.tolist() == [-1]


def test_new_sentences(text_model: ClusterModel):
    of = dict(zip(text_model.keys, text_model.labels.tolist(), strict=True))
    ids, distances = text_model.assign(["There is no visible pneumothorax!", "Seven cats sleep under a red car."])
    assert ids.tolist() == [of["there is no pneumothorax"], -1]
    assert distances[0] < text_model.limit < distances[1]


def test_save_and_load(unit_model: ClusterModel, tmp_path: Path):
    unit_model.save(tmp_path / "model" / "findings")
    loaded = ClusterModel.load(tmp_path / "model" / "findings")
    assert loaded.keys == unit_model.keys
    assert np.array_equal(loaded.vectors, unit_model.vectors)
    assert np.array_equal(loaded.labels, unit_model.labels)
    assert np.array_equal(loaded.clustering.probabilities, unit_model.clustering.probabilities)
    assert np.array_equal(loaded.clustering.persistence, unit_model.clustering.persistence)
    assert loaded.clustering.certificate == unit_model.clustering.certificate
    assert (loaded.limit, loaded.encoder, loaded.information) == (0.2, None, {"section": "findings"})
    for ours, theirs in zip(loaded.clustering.exemplars, unit_model.clustering.exemplars, strict=True):
        assert ours.tolist() == theirs.tolist()
    assert np.array_equal(loaded.clustering.core_distances, unit_model.clustering.core_distances)
    assert loaded.clustering.core_distances.dtype == np.float64
    assert loaded.clustering.condensed.dtype == unit_model.clustering.condensed.dtype
    assert len(loaded.clustering.condensed) > len(loaded.keys)
    assert np.array_equal(loaded.clustering.condensed, unit_model.clustering.condensed)
    asked = np.random.default_rng(0).normal(size=(50, 8))
    for before, after in zip(unit_model.assign(asked), loaded.assign(asked), strict=True):
        assert np.array_equal(before, after)
    for before, after in zip(unit_model.predict(asked), loaded.predict(asked), strict=True):
        assert np.array_equal(before, after)
    assert np.array_equal(unit_model.membership(asked), loaded.membership(asked))


def test_load_from_any_storage(unit_model: ClusterModel, storage: Storage, tmp_path: Path):
    unit_model.save(tmp_path / "model")
    for file in (tmp_path / "model").iterdir():
        storage.write_bytes(f"clusters/findings/{file.name}", file.read_bytes())
    loaded = ClusterModel.load(storage.sub("clusters/findings").address)
    assert np.array_equal(loaded.vectors, unit_model.vectors)
    with pytest.raises(InputError, match="holds no cluster model"):
        ClusterModel.load(storage.sub("clusters/impression").address)


def test_the_parameters_of_the_fit_are_kept(unit_model: ClusterModel, tmp_path: Path):
    clustering = hdbscan_fit(unit_model.vectors, 7, 3)
    dataclasses.replace(unit_model, clustering=clustering).save(tmp_path)
    loaded = ClusterModel.load(tmp_path).clustering
    assert (loaded.min_cluster_size, loaded.min_samples) == (7, 3)


@pytest.mark.parametrize("method", ["dbscan", "kmeans"])
def test_a_model_without_a_tree_is_saved_too(unit_model: ClusterModel, method: str, tmp_path: Path):
    config = ClusteringConfig(method=method, eps=0.3, clusters=6)
    model = dataclasses.replace(unit_model, clustering=cluster(unit_model.vectors, config))
    model.save(tmp_path)
    loaded = ClusterModel.load(tmp_path)
    assert loaded.clusters >= 2
    assert len(loaded.clustering.condensed) == 0
    assert np.array_equal(loaded.assign(unit_model.vectors)[0], model.labels)
    for each in (model, loaded):
        assert [len(numbers) for numbers in each.exemplars] == [0] * model.clusters
        with pytest.raises(InputError, match="without a condensed tree"):
            each.predict(unit_model.vectors)


def test_medoids_and_exemplars_lie_in_their_clusters(unit_model: ClusterModel):
    assert unit_model.labels[unit_model.medoids].tolist() == list(range(unit_model.clusters))
    assert len(unit_model.exemplars) == unit_model.clusters
    for number, members in enumerate(unit_model.exemplars):
        assert set(unit_model.labels[members].tolist()) == {number}


def test_saving_twice_gives_the_same_bytes(unit_model: ClusterModel, tmp_path: Path):
    for name in ("a", "b"):
        unit_model.save(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["arrays.safetensors", "model.json", "sentences.parquet"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no cluster model. Expected: a folder with model.json"):
        ClusterModel.load(tmp_path)


def test_another_format_is_refused(unit_model: ClusterModel, tmp_path: Path):
    unit_model.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    for other in (1, 99):
        (tmp_path / "model.json").write_text(json.dumps(description | {"format": other}))
        with pytest.raises(InputError, match=rf"the model has format {other}\. Expected: format 2"):
            ClusterModel.load(tmp_path)


def test_medoid_is_the_member_nearest_to_the_mean():
    vectors = np.array([[0, 0], [1, 0], [4, 0], [9, 9], [9, 8], [9, 9.5], [50, 50]], np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1, -1], np.int32)
    assert medoids(vectors, labels).tolist() == [1, 3]
    assert medoids(vectors, np.full(7, -1, np.int32)).tolist() == []


def test_medoid_takes_the_smaller_number_on_ties():
    assert medoids(np.array([[0.0], [1.0]], np.float32), np.zeros(2, np.int32)).tolist() == [0]


@pytest.mark.parametrize("labels", [[2, -1, 0, 2, 0, -1, 2], [-1, -1], [], [0, 0]])
def test_members_of_clusters(labels: list[int]):
    clusters = 4  # more than have members
    found = members_of(np.array(labels, np.int32), clusters)
    assert [each.tolist() for each in found] == [[n for n, c in enumerate(labels) if c == k] for k in range(clusters)]


def test_nearest_clustered_skips_noise():
    fitted = np.array([[0.0], [1.0], [5.0]], np.float32)
    labels = np.array([-1, 0, 1], np.int32)
    numbers, distances = nearest_clustered(np.array([[0.1], [4.0]], np.float32), fitted, labels)
    assert numbers.tolist() == [1, 2]
    assert distances == pytest.approx([0.9, 1.0], abs=1e-6)


def test_a_distance_does_not_depend_on_what_is_asked_beside_it():
    fitted = blobs(2000, 48, 9, 3)
    labels = (np.arange(len(fitted)) % 10 - 1).astype(np.int32)
    asked = np.ascontiguousarray(fitted[:150] + np.float32(0.02))
    together = nearest_clustered(asked, fitted, labels)
    for size in (1, 7, 30, 64, 100):
        parts = [nearest_clustered(asked[at : at + size], fitted, labels) for at in range(0, len(asked), size)]
        assert np.array_equal(np.concatenate([part[0] for part in parts]), together[0])
        assert np.array_equal(np.concatenate([part[1] for part in parts]), together[1])
