"""The same clustering with lists and searches on Ray workers, resumable from the output folder.

The index goes into the object store once (a node's workers share it); actors search it, one thread each, or a GPU each
where the cluster has them. A shard is a block of points: its lists are written, committed in the ledger and kept by one
actor, which answers in every round with one edge per component. Component numbers travel as one int32 array a round.
Every pass of second searches is committed under a name that follows from its question, so a run that goes on asks
again only what has no answer yet. A worker that dies is replaced and reads its lists back.

Results are those of one process: what an actor answers depends on the question alone. The driver holds O(N) numbers
beside vectors and codes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.clustering.fit import Clustering, Settings, build_index, grow
from raymedlt.clustering.neighbours import Index, NearestAmong, Neighbours, Outside, core_distances
from raymedlt.clustering.partition import Partition
from raymedlt.clustering.repair import Part, in_rows, mutual_cores, sparsest
from raymedlt.clustering.screening import ROWS, Distances, Ids, Vectors
from raymedlt.clustering.spanning_tree import Components, Contraction, Edges, Lists, list_edges
from raymedlt.cpus import use_threads
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.progress import Progress
from raymedlt.runtime import ATTEMPTS, run_shards, worker_deaths, worker_environment
from raymedlt.storage import content_hash
from raymedlt.versions import check_worker

CELLS, NEIGHBOURS, SEARCH, NEAREST = "cells", "neighbours", "second-search", "nearest"


def fit_on_ray(
    vectors_ND: Vectors,
    settings: Settings,
    *,
    name: str,
    ledger: Ledger,
    progress: Progress,
    workers: int,
    shard_points: int,
    gpus: int = 0,
) -> Clustering:
    """`hdbscan_fit` on `workers` actors of the Ray that is connected, every step committed in the ledger.

    Args:
        vectors_ND: float32 [N, D], finite.
        name: of these vectors within the run; part of shard names.
        shard_points: points whose lists are one shard.
        gpus: actors that get a GPU; 0: all search on CPUs.

    Raises:
        RaymedltError: workers died more often than `ATTEMPTS` at one task.
        RunConflictError: another driver took the folder over.
    """
    began = time.perf_counter()
    index = _remembered_index(vectors_ND, settings, name, ledger)
    with (
        worker_deaths(f"clustering of {name}"),
        RayFleet(index, settings, name, ledger, progress, workers, shard_points, gpus) as fleet,
    ):
        fleet.search()
        seconds = time.perf_counter() - began
        with progress.stage(f"spanning tree of {name}"):
            return grow(index, fleet, settings, seconds_neighbours=seconds)


def _remembered_index(vectors_ND: Vectors, settings: Settings, name: str, ledger: Ledger) -> Index:
    """The index; its cells are committed, since another machine's k-means may round differently, and so is what it
    screens in: a search of some cells is only as exact as that."""
    if settings.mode == "exact":
        return build_index(vectors_ND, settings)
    handle = ledger.worker()
    known = ledger.done(CELLS, name)
    if known is None:
        index = build_index(vectors_ND, settings)
        files = []
        if index.partition is not None:
            partition = index.partition
            tables = {
                "order": pa.table({"point": partition.order_N}),
                "cells": pa.table({"start": partition.starts[:-1], "centre": list(partition.centres_CD)}),
            }
            files = [handle.storage.write_table(f"_work/cells/{name}/{key}.parquet", t) for key, t in tables.items()]
        ledger.commit(CELLS, name, files, {"probes": index.probes, "precision": index.precision})
        return index
    if not ledger.shards(CELLS)[name].files:  # too few points for cells
        return Index(vectors_ND, precision=known.get("precision"))
    order_N = handle.storage.read_table(f"_work/cells/{name}/order.parquet")["point"].to_numpy()
    cells = handle.storage.read_table(f"_work/cells/{name}/cells.parquet")
    centres_CD = np.array(cells["centre"].to_pylist(), np.float32)
    starts = np.append(cells["start"].to_numpy(), len(vectors_ND))
    return Index(vectors_ND, Partition(order_N, starts, centres_CD), known["probes"], known.get("precision"))


def nearest_on_ray(
    vectors_ND: Vectors,
    asked_M: Ids,
    among_C: Ids,
    *,
    name: str,
    ledger: Ledger,
    progress: Progress,
    workers: int,
    shard_points: int,
) -> tuple[Ids, Distances]:
    """`nearest_among` on workers of the Ray that is connected, `shard_points` of the asked points at a time.

    Every shard is committed in the ledger under a name that follows from its question. Each worker holds rounded forms
    of both kinds of points, 2 (M + C) (D + 32) bytes; a node has the vectors once.

    Args:
        vectors_ND: all vectors, float32 [N, D].
        asked_M, among_C: points as in `nearest_among`, int64.
        name: of these vectors within the run; part of shard names.

    Raises:
        RaymedltError: workers died more often than `ATTEMPTS` at one shard.
        RunConflictError: another driver took the folder over.
    """
    import ray

    question = content_hash(asked_M.tobytes(), among_C.tobytes())
    starts = range(0, len(asked_M), shard_points)
    shards = {f"{name}-{question}-{n:05d}": (at, min(at + shard_points, len(asked_M))) for n, at in enumerate(starts)}
    shared = ray.put((vectors_ND, asked_M, among_C)) if ledger.pending(NEAREST, list(shards)) else None
    run_shards(
        NEAREST,
        list(shards),
        None,
        progress=progress,
        workers=workers,
        ledger=ledger,
        actor_factory=functools.partial(_NearestShard, ledger.worker(), [shared], shards),
        unit="sentences",
        units=lambda shard: shards[shard][1] - shards[shard][0],
    )
    tables = [ledger.storage.read_table(_nearest_file(shard)) for shard in shards]
    found = pa.concat_tables(tables)
    return found["nearest"].to_numpy(), found["distance"].to_numpy()


class _NearestShard:
    """One worker: the nearest point for each of a shard's rows. `shared`: a reference to the three arrays."""

    def __init__(self, handle: LedgerHandle, shared: list[Any], shards: dict[str, tuple[int, int]]) -> None:
        import ray

        self._handle, self._shards = handle, shards
        self._search = NearestAmong(*ray.get(shared[0]))

    def __call__(self, shard: str) -> dict[str, Any]:
        nearest, distances = self._search(np.arange(*self._shards[shard]))
        table = pa.table({"nearest": nearest, "distance": distances})
        summary = {"points": len(nearest)}
        self._handle.commit(NEAREST, shard, [self._handle.storage.write_table(_nearest_file(shard), table)], summary)
        return summary


class RayFleet:
    """`spanning_tree.Fleet` on Ray actors. To be entered (starts the actors), then `search`ed."""

    def __init__(
        self,
        index: Index,
        settings: Settings,
        name: str,
        ledger: Ledger,
        progress: Progress,
        workers: int,
        shard_points: int,
        gpus: int = 0,
    ) -> None:
        self.index, self.settings, self.name = index, settings, name
        self.ledger, self.progress = ledger, progress
        blocks = index.blocks(shard_points)
        self.shards = {f"{name}-{number:05d}": points for number, points in enumerate(blocks)}
        self.workers = min(gpus or workers, len(blocks))
        self.gpus = gpus
        n = len(index.vectors_ND)
        self.core_N, self.floor_N = np.zeros(n), np.zeros(n)
        self._components: tuple[Components, Any] | None = None
        self.seconds_starting = 0.0  # until the first worker had its libraries and the index

    def __enter__(self) -> RayFleet:
        import ray

        # Held here, and given with every call: an actor that is started again needs them. As arguments of its
        # constructor they would do too, but Ray prints an error for each actor that has such.
        self._shared = [ray.put(self.index), ray.put(self.shards)]
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 1 if self.gpus else 0,
            "max_restarts": -1,
            "max_task_retries": ATTEMPTS - 1,
            "runtime_env": {"env_vars": worker_environment()},
        }
        actor = ray.remote(**options)(_Searcher)
        self._actors = [actor.remote(self.ledger.worker(), self.settings) for _ in range(self.workers)]
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def search(self) -> None:
        """Every shard's lists that are not committed yet; then the core distances and floors of all points."""
        import ray

        pending = self.ledger.pending(NEIGHBOURS, list(self.shards))
        began = time.perf_counter()
        ray.wait([actor.ready.remote(self._shared) for actor in self._actors], num_returns=1)
        self.seconds_starting = time.perf_counter() - began
        if pending:
            with self.progress.stage(
                f"neighbours of {self.name}", total=sum(len(self.shards[s]) for s in pending), unit="sentences"
            ) as advance:
                for shard, _ in self._spread(
                    pending, lambda actor, shard: actor.neighbours.remote(self._shared, shard)
                ):
                    self.ledger.check_lock()
                    advance(len(self.shards[shard]))
        storage = self.ledger.storage
        bound_N = np.zeros(len(self.core_N))

        def read(shards: Iterable[str]) -> None:
            for shard in shards:
                table = storage.read_table(_lists_file(shard), ["core", "bound"])
                self.core_N[self.shards[shard]] = table["core"].to_numpy()
                bound_N[self.shards[shard]] = table["bound"].to_numpy()

        read(self.shards)
        if self.index.partial:
            groups = in_rows(sparsest(self.core_N))
            sparse = {f"{self.name}-sparse-{number:05d}": points for number, points in enumerate(groups)}
            pending = self.ledger.pending(NEIGHBOURS, list(sparse))
            for _ in self._spread(
                pending, lambda actor, shard: actor.neighbours.remote(self._shared, shard, sparse[shard])
            ):
                self.ledger.check_lock()
            self.shards |= sparse
            read(sparse)
            self.core_N = mutual_cores(self._parts, self.core_N, self.settings.min_samples)
        self.floor_N = np.maximum(self.core_N, bound_N)
        self._core = ray.put(self.core_N)

    def _parts(self) -> Iterator[Part]:
        for shard, points in self.shards.items():
            yield points, _listed(self.ledger.storage.read_table(_lists_file(shard)))

    def minima(self, component_N: Components, contraction: Contraction | None) -> tuple[Edges, Edges]:
        """See `spanning_tree.Fleet`. Each actor answers for its own shards."""
        import ray

        before = self._components
        current = self._share(component_N)
        ended = None
        if contraction is not None:
            earlier = before[1] if before is not None and before[0] is contraction.component_N else None
            ended = [earlier or ray.put(contraction.component_N), ray.put(contraction.chosen_C)]
        names = list(self.shards)
        actors = self._ready()
        answers = ray.get(
            [
                actor.minima.remote(names[number :: len(actors)], [self._core], [current], ended)
                for number, actor in enumerate(actors)
            ]
        )
        return Edges.concatenate([best for best, _ in answers]), Edges.concatenate([ties for _, ties in answers])

    def outside(self, points_B: Ids, component_N: Components, exhaustive: bool) -> Outside:
        """See `spanning_tree.Fleet`. The answer is committed, or read back if the question was asked before."""
        question = content_hash(points_B.tobytes(), component_N.tobytes(), int(exhaustive))
        shard, storage = f"{self.name}-{question}", self.ledger.storage
        file = f"_work/second/{self.name}/{question}.parquet"
        if self.ledger.done(SEARCH, shard) is None:
            current = self._share(component_N)
            size = max(64, min(ROWS, -(-len(points_B) // (2 * self.workers))))
            parts = [points_B[start : start + size] for start in range(0, len(points_B), size)]
            answers = dict(
                self._spread(
                    range(len(parts)),
                    lambda actor, part: actor.outside.remote(
                        self._shared, parts[part], [current], [self._core], exhaustive
                    ),
                )
            )
            answer = Outside(
                *(np.concatenate(arrays) for arrays in zip(*(answers[p] for p in sorted(answers)), strict=True))
            )
            entry = storage.write_table(file, pa.table(answer._asdict()))
            self.ledger.commit(SEARCH, shard, [entry], {"points": len(points_B), "everywhere": exhaustive})
            return answer
        table = storage.read_table(file)
        return Outside(*(table[column].to_numpy() for column in Outside._fields))

    def _share(self, component_N: Components) -> Any:
        """The component numbers in the object store, put there once."""
        import ray

        if self._components is None or self._components[0] is not component_N:
            self._components = (component_N, ray.put(component_N))
        return self._components[1]

    def _ready(self) -> list[Any]:
        """Actors that have a place. One that still waits for a machine gets no work, and holds nobody up."""
        import ray

        greetings = {actor.ready.remote(self._shared): actor for actor in self._actors}
        done, _ = ray.wait(list(greetings), num_returns=1)
        done, _ = ray.wait(list(greetings), num_returns=len(greetings), timeout=5.0)
        return [greetings[greeting] for greeting in done]

    def _spread(self, items: Sequence[Any], call: Callable[[Any, Any], Any]) -> Iterator[tuple[Any, Any]]:
        """Answers as they come, one item at a time per actor; actors join when they are ready."""
        import ray

        waiting = list(items)[::-1]
        greetings = {actor.ready.remote(self._shared): actor for actor in self._actors}
        running: dict[Any, tuple[Any, Any]] = {}
        while waiting or running:
            done, _ = ray.wait([*running, *(greetings if waiting else {})], num_returns=1)
            for reference in done:
                if reference in greetings:
                    actor = greetings.pop(reference)
                else:
                    actor, item = running.pop(reference)
                    yield item, ray.get(reference)
                if waiting:
                    item = waiting.pop()
                    running[call(actor, item)] = (actor, item)


def _nearest_file(shard: str) -> str:
    return f"_work/nearest/{shard}.parquet"


def _lists_file(shard: str) -> str:
    return f"_work/neighbours/{shard}.parquet"


def _listed(table: pa.Table) -> Neighbours:
    """A shard's lists, as they were written."""
    rows = table.num_rows
    return Neighbours(
        table["ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(rows, -1).astype(np.int64),
        table["distances"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(rows, -1),
        table["bound"].to_numpy(),
    )


class _Searcher:
    """One worker: searches the shared index, and keeps the lists of the shards it was asked about.

    `shared`: references to the index and to the points of each shard.
    """

    def __init__(self, handle: LedgerHandle, settings: Settings) -> None:
        self._handle, self._settings = handle, settings
        self._opened: tuple[Index, dict[str, Ids]] | None = None
        self._lists: dict[str, Lists] = {}

    def ready(self, shared: list[Any]) -> int:
        """Answers with its process id once it runs and has what it needs."""
        self._open(shared)
        return os.getpid()

    def _open(self, shared: list[Any]) -> tuple[Index, dict[str, Ids]]:
        import ray
        import torch

        if self._opened is None:
            check_worker()
            use_threads(1)
            index, shards = ray.get(shared)
            self._opened = (index.on("cuda") if torch.cuda.is_available() else index), shards
        return self._opened

    @functools.cached_property
    def _everywhere(self) -> Index:
        assert self._opened is not None
        return self._opened[0].exhaustive()

    def neighbours(self, shared: list[Any], shard: str, everywhere: Ids | None = None) -> None:
        """Search, write and commit one shard's lists: its points near themselves, or these points everywhere."""
        if self._handle.done(NEIGHBOURS, shard) is not None:
            return  # the attempt before committed, then its worker died
        index, shards = self._open(shared)
        points = shards[shard] if everywhere is None else everywhere
        index = index if everywhere is None else self._everywhere
        found = index.neighbours(points, self._settings.listed, self._settings.min_samples)
        width = found.ids_BK.shape[1]
        table = pa.table(
            {
                "point": points,
                "ids": _lists(found.ids_BK.astype(np.int32), width),
                "distances": _lists(found.distances_BK, width),
                "bound": found.bound_B,
                "core": core_distances(found, self._settings.min_samples),
            }
        )
        entry = self._handle.storage.write_table(_lists_file(shard), table)
        self._handle.commit(NEIGHBOURS, shard, [entry], {"points": len(points)})

    def minima(
        self, shards: Sequence[str], core: list[Any], component: list[Any], ended: list[Any] | None
    ) -> tuple[Edges, Edges]:
        """The best edge of each component in these shards, and the ties of the round that ended."""
        import ray

        component_N = ray.get(component[0])
        contraction = Contraction(*ray.get(ended)) if ended is not None else None
        best, ties = [], []
        for shard in shards:
            lists = self._lists.get(shard) or self._read(shard, ray.get(core[0]))
            self._lists[shard] = lists
            if contraction is not None:
                ties.append(lists.after(contraction, component_N))
            best.append(lists.minima(component_N))
        return Edges.concatenate(best), Edges.concatenate(ties)

    def _read(self, shard: str, core_N: npt.NDArray[np.float64]) -> Lists:
        table = self._handle.storage.read_table(_lists_file(shard))
        return Lists(list_edges(table["point"].to_numpy(), _listed(table), core_N))

    def outside(
        self, shared: list[Any], points_B: Ids, component: list[Any], core: list[Any], exhaustive: bool
    ) -> Outside:
        """See `Index.outside`."""
        import ray

        index, _ = self._open(shared)
        index = self._everywhere if exhaustive else index
        return index.outside(points_B, ray.get(component[0]), ray.get(core[0]))


def _lists(array_BK: npt.NDArray[Any], width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(array_BK.ravel()), width)
