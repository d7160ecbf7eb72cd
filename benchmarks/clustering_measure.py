"""One method on one set of vectors in a fresh process: result, seconds, memory.

Memory is the peak of the resident set during the fit (Linux: VmHWM, set back before it) less the resident set just
before it, when imports are done and the vectors are loaded. `ru_maxrss` would not do: a child process inherits the
peak of the process that started it.

A method takes vectors [N, D] and returns its result (labels or neighbour ids) and whatever else it has to say.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from clustering_sets import Vectors

from raymedlt.clustering import hdbscan_fit
from raymedlt.clustering.faiss_import import faiss
from raymedlt.clustering.fit import Settings, build_index
from raymedlt.clustering.hierarchy import flat_clusters
from raymedlt.clustering.local import side_by_side
from raymedlt.clustering.neighbours import Neighbours, core_distances, pair_distances
from raymedlt.clustering.spanning_tree import Edges, list_edges

Result = npt.NDArray[np.integer[Any]]
Said = dict[str, Any]
Method = Callable[..., tuple[Result, Said]]

WARM_UP = 2000  # points of the fit before the one that is timed
NEIGHBOURS = 16
CLUSTERS: Said = {"min_cluster_size": 5, "min_samples": 5}
CPUS = os.cpu_count() or 1
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For whoever multiplies all vectors with all vectors in NumPy: its OpenBLAS may crash at 20,000 x 20,000 otherwise."""


class Measured(NamedTuple):
    """What a method returned (the run of median time, where there were several) and what it took."""

    result: Result
    said: Said
    seconds: list[float]
    megabytes: float
    megabytes_before: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def cost(self) -> Said:
        """Seconds and memory, for a report."""
        repeats = {"seconds_each": [round(s, 2) for s in self.seconds]} if len(self.seconds) > 1 else {}
        return {
            "seconds": round(self.median, 3),
            **repeats,
            "megabytes_beyond_the_vectors": round(self.megabytes),
            "megabytes_before_the_fit": round(self.megabytes_before),
        }


def measure(
    method: Method,
    vectors: Vectors | Path,
    repeats: int = 1,
    rows: int | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Measured:
    """Run a method in a fresh process, on the first rows of an array or of a .npy file, after a small warm-up."""
    if not isinstance(vectors, Path):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.npy"
            np.save(path, vectors)
            return measure(method, path, repeats, rows, environment, **options)
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            return child.submit(_measured, method, vectors, repeats, rows, options).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measured(method: Method, path: Path, repeats: int, rows: int | None, options: Said) -> Measured:
    vectors = np.array(np.load(path, mmap_mode="r")[:rows])
    few = {name: value[:WARM_UP] if isinstance(value, np.ndarray) else value for name, value in options.items()}
    method(vectors[:WARM_UP], **few)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    runs = []
    for _ in range(repeats):
        started = time.perf_counter()
        result, said = method(vectors, **options)
        runs.append((time.perf_counter() - started, result, said))
    seconds = [run[0] for run in runs]
    _, result, said = runs[seconds.index(statistics.median_low(seconds))]
    return Measured(result, said, seconds, _resident("VmHWM") - before, before)


def _resident(field: str) -> float:
    """Megabytes (2^20 bytes) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def ours(vectors: Vectors, **options: Any) -> tuple[Result, Said]:
    """`raymedlt.clustering.hdbscan_fit`."""
    fit = hdbscan_fit(vectors, **CLUSTERS, **options)
    said = {**dataclasses.asdict(fit.certificate), "sound": fit.certificate.sound}
    return fit.labels, said | {"core_distances": fit.core_distances}


def ours_search_alone(vectors: Vectors, mode: str) -> tuple[Result, Said]:
    """All neighbours from the index that our fit would use; ids [N, K]."""
    settings = Settings(mode=mode)  # type: ignore[arg-type]
    started = time.perf_counter()
    index = build_index(vectors, settings)
    built = time.perf_counter()
    blocks = index.blocks()
    k, needed = settings.listed, settings.min_samples
    found = side_by_side(lambda points: index.neighbours(points, k, needed), blocks, CPUS)
    searched = time.perf_counter()
    ids = np.empty((len(vectors), min(k, len(vectors) - 1)), np.int32)
    for points, lists in zip(blocks, found, strict=True):
        ids[points] = lists.ids_BK
    return ids, {
        "search": index.description,
        "seconds_index": built - started,
        "seconds_search": searched - built,
    }


def hdbscan_library(vectors: Vectors, algorithm: str = "best", metric: str = "euclidean") -> tuple[Result, Said]:
    """`hdbscan.HDBSCAN`; "best" is its default."""
    import hdbscan

    power = {"p": 2} if metric == "minkowski" else {}
    fit = hdbscan.HDBSCAN(
        **CLUSTERS, algorithm=algorithm, metric=metric, gen_min_span_tree=algorithm == "generic", **power
    )
    fit.fit(vectors.astype(np.float64))
    if algorithm != "generic":
        return fit.labels_, {}
    return fit.labels_, {"tree_weight": float(fit.minimum_spanning_tree_.to_numpy()[:, 2].sum())}


def scikit_learn(vectors: Vectors) -> tuple[Result, Said]:
    """`sklearn.cluster.HDBSCAN`; a point counts among its own min_samples."""
    from sklearn.cluster import HDBSCAN

    fit = HDBSCAN(min_cluster_size=5, min_samples=6, algorithm="brute", n_jobs=CPUS, copy=True).fit(vectors)
    return fit.labels_, {}


def fast_hdbscan(vectors: Vectors) -> tuple[Result, Said]:
    """`fast_hdbscan.HDBSCAN`; a point does not count among its own min_samples.

    Above 30 dimensions it takes its neighbours from pynndescent (its extra `nndescent`), not from its tree.
    """
    from fast_hdbscan import HDBSCAN  # type: ignore[import-untyped]

    return HDBSCAN(**CLUSTERS).fit(vectors).labels_, {}


def without_themselves(ids_NK: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Neighbour lists [N, K - 1] without the point, or without the last entry where duplicates crowded it out."""
    own = ids_NK == np.arange(len(ids_NK))[:, None]
    own[~own.any(1), -1] = True
    return ids_NK[~own].reshape(len(ids_NK), -1)


def faiss_search(vectors: Vectors, lists: int = 0, probes: int = 0) -> tuple[Result, Said]:
    """All neighbours from FAISS, ids [N, 16]: IndexFlat, or IVF-Flat with so many lists."""
    width = vectors.shape[1]
    if lists == 0:
        index = faiss().IndexFlatL2(width)
    else:
        index = faiss().IndexIVFFlat(faiss().IndexFlatL2(width), width, min(lists, len(vectors)), faiss().METRIC_L2)
        index.train(vectors)
        index.nprobe = probes
    index.add(vectors)
    return without_themselves(index.search(vectors, NEIGHBOURS + 1)[1]), {}


def knn_graph(vectors: Vectors) -> tuple[Result, Said]:
    """The spanning tree of the graph of 16 nearest neighbours, its components joined by edges of infinite length.

    Neighbours are FAISS's, distances, hierarchy and the order of ties raymedlt's: what differs is the tree.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    n = len(vectors)
    ids_NK = faiss_search(vectors)[0].astype(np.int64)
    distances_NK = pair_distances(vectors, np.repeat(np.arange(n), ids_NK.shape[1]), ids_NK.ravel()).reshape(
        ids_NK.shape
    )
    order = np.lexsort((ids_NK, distances_NK), axis=1)
    lists = Neighbours(
        np.take_along_axis(ids_NK, order, 1), np.take_along_axis(distances_NK, order, 1), np.full(n, np.inf)
    )
    core_N = core_distances(lists, CLUSTERS["min_samples"])
    graph = list_edges(np.arange(n), lists, core_N)
    # SciPy takes a length of zero for no edge; so an edge's length is its rank in the canonical order.
    ranks = coo_array((np.arange(1, len(graph.low) + 1), (graph.low, graph.high)), shape=(n, n))
    forest = graph.take(np.sort(minimum_spanning_tree(ranks.tocsr()).data.astype(np.int64)) - 1)
    count, of_point = connected_components(ranks, directed=False)
    firsts = np.sort(np.unique(of_point, return_index=True)[1])
    endless = np.full(count - 1, np.finfo(float).max)  # the walk through the tree asks for less than infinity
    tree = Edges.concatenate([forest, Edges(firsts[:-1], firsts[1:], endless, endless)])
    ties = graph.take(np.isin(graph.weight, forest.weight))
    return flat_clusters(tree, core_N, CLUSTERS["min_cluster_size"], None, ties).labels_N, {"components": int(count)}
