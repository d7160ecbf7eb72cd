"""A fitted cluster model: which cluster does a new sentence belong to?

Two views of a new sentence: `assign` looks at the nearest clustered sentence and a limit on the distance to it;
`predict` and `membership` look at density, as hdbscan does for new points.

Folder layout: model.json (parameters, encoder, limit), sentences.parquet (one row per fitted sentence, canonical
order), arrays.safetensors (vectors float32 [N, D], labels int32 [N], probabilities float32 [N], core_distances
float64 [N], exemplar uint8 [N], persistence float32 [C], and the condensed tree's columns tree_parent, tree_child,
tree_child_size int64 and tree_lambda_val float64).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raymedlt.clustering.certificate import Certificate
from raymedlt.clustering.condensed import check_tree
from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.fit import Clustering, check_vectors
from raymedlt.clustering.hierarchy import NO_TREE
from raymedlt.clustering.prediction import Predictor
from raymedlt.clustering.screening import Vectors
from raymedlt.errors import InputError
from raymedlt.storage import Storage

FORMAT_VERSION = 2
_TREE_COLUMNS = {"parent": np.int64, "child": np.int64, "lambda_val": np.float64, "child_size": np.int64}
EXACT_MATCH = 1e-6  # a vector this near to a fitted one is that sentence, up to rounding
_SEARCHED = 64  # vectors in one search: matrix kernels round by the shape of the problem


def nearest_clustered(
    vectors_MD: Vectors, fitted_ND: Vectors, labels_N: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each vector the nearest fitted point that is in a cluster: its number int64 [M] and distance float32 [M].

    -1 and infinity where nothing is clustered. O(M N D) exhaustive search, in blocks of one shape: the bits of a
    distance don't depend on what is asked beside it (house rule 4; tested).
    """
    clustered = np.flatnonzero(labels_N >= 0)
    rows = len(vectors_MD)
    nearest, distances = np.full(rows, -1, np.int64), np.full(rows, np.inf, np.float32)
    if len(clustered) == 0:
        return nearest, distances
    clustered_CD = np.ascontiguousarray(fitted_ND[clustered])
    block_SD = np.zeros((_SEARCHED, fitted_ND.shape[1]), np.float32)
    for start in range(0, rows, _SEARCHED):
        asked = slice(start, min(start + _SEARCHED, rows))
        count = asked.stop - start
        block_SD[:count], block_SD[count:] = vectors_MD[asked], 0
        squares, place = faiss().knn(block_SD, clustered_CD, 1)
        nearest[asked] = clustered[place[:count, 0]]
        distances[asked] = np.sqrt(np.maximum(squares[:count, 0], 0))
    return nearest, distances


def members_of(labels_N: npt.NDArray[np.int32], clusters: int) -> list[npt.NDArray[np.int64]]:
    """Per cluster 0, 1, ... the numbers of its members, int64, ascending; O(N log N + C)."""
    order = np.argsort(labels_N, kind="stable")
    ends = np.searchsorted(labels_N[order], np.arange(clusters + 1))
    return [order[start:end] for start, end in itertools.pairwise(ends)]


def medoids(vectors_ND: Vectors, labels_N: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Per cluster the member nearest to the mean of its members (the smaller number on ties), int64 [C]."""
    result = []
    for own in members_of(labels_N, int(labels_N.max(initial=-1)) + 1):
        centre = vectors_ND[own].astype(np.float64).mean(0)
        result.append(own[np.argmin(((vectors_ND[own] - centre) ** 2).sum(1))])
    return np.array(result, np.int64)


@dataclass
class ClusterModel:
    """Sentences, their vectors and clusters, and the farthest a new sentence may be from its nearest clustered one.

    keys: N sentence keys in canonical (sorted) order. vectors: float32 [N, D]. clustering: of these vectors.
    limit: Euclidean distance of unit vectors; cosine c is sqrt(2 - 2c).
    encoder: name or folder of the sentence encoder (None: the packaged one) and its precision.
    """

    keys: list[str]
    vectors: Vectors
    clustering: Clustering
    limit: float
    encoder: str | None = None
    precision: str = "float32"
    information: dict[str, Any] = field(default_factory=dict)
    _loaded: Any = field(default=None, repr=False, compare=False)
    _predictor: Predictor | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is loaded and computed on demand: a model that travels is no larger than its arrays and keys."""
        return self.__dict__ | {"_loaded": None, "_predictor": None}

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 [N], -1 is noise."""
        return self.clustering.labels

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return self.clustering.certificate.clusters

    @property
    def medoids(self) -> npt.NDArray[np.int64]:
        """int64 [C], numbers of the sentences nearest to the mean of their cluster."""
        return medoids(self.vectors, self.labels)

    @property
    def exemplars(self) -> list[npt.NDArray[np.int64]]:
        """Per cluster the numbers of the sentences that persist longest in it, int64; empty for dbscan and kmeans."""
        return self.clustering.exemplars or [np.zeros(0, np.int64) for _ in range(self.clusters)]

    @property
    def condensed_tree(self) -> Any:
        """The tree as `hdbscan.plots.CondensedTree`, with .plot(), .to_pandas(), .to_networkx() and .to_numpy().

        Its clusters are numbered as ours. `.plot()` needs matplotlib, `.to_pandas()` pandas and `.to_networkx()`
        networkx, which raymedlt does not install by itself.

        Raises:
            InputError: the clustering has no condensed tree, or was fitted with weights.
        """
        from hdbscan.plots import CondensedTree

        check_tree(self.clustering.condensed, self.labels, "the condensed tree")
        return CondensedTree(self.clustering.condensed, self.labels)

    def assign(
        self, sentences_or_vectors: Sequence[str] | npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Cluster ids int32 [M] (-1: none within the limit), distances float32 [M] to the nearest clustered sentence.

        This is the view of the nearest sentence: it works for every method, and the limit decides. `predict` is the
        view of density. A sentence that was fitted keeps its own label, and so does a vector that equals a fitted one.

        Raises:
            InputError: vectors of another width than the model's.
        """
        vectors, keys = self._vectors_and_keys(sentences_or_vectors)
        nearest, distances = nearest_clustered(vectors, self.vectors, self.labels)
        ids = np.full(len(vectors), -1, np.int32)
        near = (nearest >= 0) & (distances <= self.limit)
        ids[near] = self.labels[nearest[near]]
        if keys is not None:
            label_of = dict(zip(self.keys, self.labels.tolist(), strict=True))
            for row, key in enumerate(keys):
                ids[row] = label_of.get(key, ids[row])
        elif len(self.keys) and len(vectors):
            squares, place = faiss().knn(vectors, self.vectors, 1)
            fitted = squares[:, 0] <= EXACT_MATCH
            ids[fitted] = self.labels[place[fitted, 0]]
        return ids, distances

    def predict(
        self, sentences_or_vectors: Sequence[str] | npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Cluster ids int32 [M] (-1: noise) and probabilities float32 [M] by density, with no limit on the distance.

        What `hdbscan.approximate_predict` gives on the same fit: a new point joins its nearest fitted point by mutual
        reachability; the probability is how deep in the cluster it would lie, relative to the cluster's densest level.
        A fitted sentence gets its own label.
        O(M N D) exhaustive search; 10,000 new points against 75,000 fitted ones take seconds.

        Raises:
            InputError: vectors of another width, or a model without a condensed tree of its rows (DBSCAN, k-means,
                weighted fits).
        """
        return self._density().predict(self._vectors_and_keys(sentences_or_vectors)[0])

    def membership(self, sentences_or_vectors: Sequence[str] | npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Soft membership float32 [M, C]: how much a new point belongs to each cluster; a row adds up to at most 1.

        What `hdbscan.membership_vector` gives on the same fit, columns in the order of our cluster ids: nearness to the
        cluster's exemplars x how dense the point still is where it would merge with the cluster, scaled by the
        probability of being in any cluster. O(M N D + M C); the result takes 4 M C bytes.

        Raises:
            InputError: as `predict`.
        """
        return self._density().membership(self._vectors_and_keys(sentences_or_vectors)[0])

    def _density(self) -> Predictor:
        if self._predictor is None:
            self._predictor = Predictor(self.vectors, self.clustering)
        return self._predictor

    def _vectors_and_keys(
        self, sentences_or_vectors: Sequence[str] | npt.NDArray[np.floating]
    ) -> tuple[Vectors, list[str] | None]:
        """Checked vectors, and the keys of what was given as sentences."""
        keys = None
        if isinstance(sentences_or_vectors, np.ndarray):
            vectors = check_vectors(sentences_or_vectors)
        else:
            from raymedlt.reports.sentences import sentence_key

            # Fitted sentences were embedded by their key: do the same here.
            keys = [sentence_key(sentence) or sentence for sentence in sentences_or_vectors]
            vectors = self.encode(keys)
        if vectors.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"vectors of width {vectors.shape[1]}", f"width {self.vectors.shape[1]}", "use the model's own encoder"
            )
        return vectors, keys

    def encode(self, keys: list[str]) -> Vectors:
        """Unit vectors of sentence keys as the fitted ones were made, float32 [N, D]; a key's don't depend on the
        others (on a CPU)."""
        from raymedlt.embedding.encoder import Encoder

        if self._loaded is None:
            self._loaded = Encoder(self.encoder, self.precision)  # type: ignore[arg-type]
        vectors: Vectors = self._loaded.encode(keys)
        return vectors

    def save(self, folder: str | Path) -> None:
        """Write the model into a local `folder` (made if missing)."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        exemplar = np.zeros(len(self.keys), np.uint8)
        for members in self.clustering.exemplars:
            exemplar[members] = 1
        arrays = {
            "vectors": self.vectors,
            "labels": self.labels,
            "probabilities": self.clustering.probabilities,
            "persistence": self.clustering.persistence,
            "core_distances": self.clustering.core_distances,
            "exemplar": exemplar,
        }
        for name, kind in _TREE_COLUMNS.items():
            arrays[f"tree_{name}"] = self.clustering.condensed[name].astype(kind)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "arrays.safetensors")
        table = pa.table({"sentence_key": self.keys, "cluster_id": self.labels})
        pq.write_table(table, folder / "sentences.parquet", compression="zstd")
        description = {
            "format": FORMAT_VERSION,
            "limit": self.limit,
            "encoder": self.encoder,
            "precision": self.precision,
            "min_cluster_size": self.clustering.min_cluster_size,
            "min_samples": self.clustering.min_samples,
            "certificate": dataclasses.asdict(self.clustering.certificate),
            "information": self.information,
        }
        (folder / "model.json").write_text(json.dumps(description, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path) -> ClusterModel:
        """Read a model that `save` wrote.

        Args:
            folder: path or URI; a remote folder is copied to this machine while it is read.

        Raises:
            InputError: the folder holds no model, or one of another format version.
        """
        place = Storage.of(str(folder))
        if not place.exists("model.json"):
            raise InputError(
                f"'{place.uri}' holds no cluster model", "a folder with model.json", "give <output>/model/findings"
            )
        with place.on_disk() as local:
            return cls._read(local)

    @classmethod
    def _read(cls, folder: Path) -> ClusterModel:
        from safetensors.numpy import load_file

        description = json.loads((folder / "model.json").read_text())
        if description["format"] != FORMAT_VERSION:
            raise InputError(
                f"the model has format {description['format']}", f"format {FORMAT_VERSION}", "fit it again"
            )
        arrays = load_file(folder / "arrays.safetensors")
        labels, exemplar = arrays["labels"], arrays["exemplar"].astype(bool)
        certificate = Certificate(**description["certificate"])
        condensed = np.empty(len(arrays["tree_child"]), NO_TREE.dtype)
        for name in _TREE_COLUMNS:
            condensed[name] = arrays[f"tree_{name}"]
        clustering = Clustering(
            labels=labels,
            probabilities=arrays["probabilities"],
            persistence=arrays["persistence"],
            exemplars=members_of(np.where(exemplar, labels, -1), certificate.clusters),
            spanning_tree=None,
            certificate=certificate,
            core_distances=arrays["core_distances"],
            condensed=condensed,
            min_cluster_size=int(description["min_cluster_size"]),
            min_samples=int(description["min_samples"]),
        )
        return cls(
            keys=pq.read_table(folder / "sentences.parquet")["sentence_key"].to_pylist(),
            vectors=arrays["vectors"],
            clustering=clustering,
            limit=float(description["limit"]),
            encoder=description["encoder"],
            precision=description["precision"],
            information=description["information"],
        )
