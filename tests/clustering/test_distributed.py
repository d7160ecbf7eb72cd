"""Clustering on Ray actors: the same result as in one process, whatever dies and wherever a run was cut."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clustering_reference import blobs

from raymedlt.clustering import distributed
from raymedlt.clustering import fit as fit_module
from raymedlt.clustering.distributed import NEAREST, NEIGHBOURS, SEARCH, RayFleet, fit_on_ray, nearest_on_ray
from raymedlt.clustering.fit import Clustering, Settings, build_index, grow, hdbscan_fit
from raymedlt.clustering.neighbours import nearest_among
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.runtime import Cluster
from raymedlt.storage import Storage

POINTS = 1500
EXACT = Settings()


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clusters and, between them, points that need second searches."""
    noise = np.random.default_rng(1).normal(size=(300, 12)) * 2
    return np.concatenate([blobs(POINTS - 300, 12, 15, 3), noise]).astype(np.float32)


@pytest.fixture(scope="module")
def alone(vectors: np.ndarray) -> Clustering:
    return hdbscan_fit(vectors)


def opened(folder: Path) -> Ledger:
    return Ledger.open(Storage.of(str(folder)), config_hash="c", config={}, data_hash="d")


def on_ray(vectors: np.ndarray, ledger: Ledger, settings: Settings = EXACT, shard_points: int = 256) -> Clustering:
    return fit_on_ray(
        vectors, settings, name="findings", ledger=ledger, progress=Progress(io.StringIO()), workers=2,
        shard_points=shard_points,
    )  # fmt: skip


def same(one: Clustering, other: Clustering) -> None:
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.probabilities, other.probabilities)
    assert np.array_equal(one.core_distances, other.core_distances)
    assert one.spanning_tree is not None
    assert other.spanning_tree is not None
    for ours, theirs in zip(one.spanning_tree, other.spanning_tree, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_the_number_of_shards_changes_nothing(
    shards: int, vectors: np.ndarray, alone: Clustering, local_ray: Cluster, tmp_path: Path
):
    with opened(tmp_path) as ledger:
        found = on_ray(vectors, ledger, shard_points=-(-POINTS // shards))
        assert len(ledger.shards(NEIGHBOURS)) == shards
        assert len(ledger.shards(SEARCH)) > 0
    assert alone.certificate.second_searches == found.certificate.second_searches > 0
    same(found, alone)


def test_a_partial_index_is_shared_too(
    vectors: np.ndarray, local_ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fit_module, "_FEW", 0)
    monkeypatch.setattr(fit_module, "_WORTH_IT", 1.0)
    monkeypatch.setattr("raymedlt.clustering.partition.make_partition.__defaults__", (64,))
    settings = Settings(mode="certified", recall=0.9)
    single = hdbscan_fit(vectors, mode="certified", recall=0.9)
    with opened(tmp_path) as ledger:
        found = on_ray(vectors, ledger, settings)
    assert "cells" in found.certificate.search
    assert found.certificate.checked_splits == single.certificate.checked_splits > 0
    assert found.certificate.repaired_edges == single.certificate.repaired_edges
    same(found, single)
    with opened(tmp_path) as ledger:
        monkeypatch.setattr(fit_module, "make_partition", None)  # cells are read back, not made again
        monkeypatch.setattr("raymedlt.clustering.neighbours.quickest_precision", None)  # nor is this asked again
        same(on_ray(vectors, ledger, settings), single)


def test_certified_mode_without_cells_goes_on_too(
    vectors: np.ndarray, alone: Clustering, local_ray: Cluster, tmp_path: Path
):
    """So few points are all looked at in any mode: there are no cells to read back."""
    for _ in range(2):
        with opened(tmp_path) as ledger:
            same(on_ray(vectors, ledger, Settings(mode="certified")), alone)


class _Cut(Exception):
    pass


@pytest.mark.parametrize("phase", ["neighbours", "search"])
def test_a_run_goes_on_where_it_was_cut(
    phase: str, vectors: np.ndarray, alone: Clustering, local_ray: Cluster, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def stop(*arguments: object) -> None:
        raise _Cut

    with opened(tmp_path) as ledger:
        if phase == "neighbours":
            ledger.check_lock = stop  # type: ignore[method-assign]
        else:
            commit = ledger.commit
            answers = []

            def once(stage: str, *rest: object) -> None:
                commit(stage, *rest)  # type: ignore[arg-type]
                answers.append(stage)
                if answers.count(SEARCH) == 2:
                    raise _Cut

            ledger.commit = once  # type: ignore[method-assign]
        with pytest.raises(_Cut):
            on_ray(vectors, ledger)
    with opened(tmp_path) as ledger:  # an actor may have written a file that it could no longer mark
        done = [tmp_path / entry.name for entry in ledger.manifest() if entry.name.startswith("_work/")]
        before = {path: path.stat().st_mtime_ns for path in done}
        assert before
        same(on_ray(vectors, ledger), alone)
    assert {path: path.stat().st_mtime_ns for path in before} == before


class _Dying(RayFleet):
    """Its workers are killed in the phase given, the way machines vanish: in the middle of their work."""

    phase = ""
    killed = 0

    def begin(self, phase: str) -> threading.Timer | None:
        import ray

        if phase != self.phase or self.killed:
            return None
        workers = ray.get([actor.ready.remote(self._shared) for actor in self._actors])

        def kill() -> None:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
                self.killed += 1

        timer = threading.Timer(0.02, kill)
        timer.start()
        return timer

    def search(self) -> None:
        timer = self.begin("neighbours")
        super().search()
        if timer:
            timer.join()

    def minima(self, *arguments):  # type: ignore[no-untyped-def]
        timer = self.begin("minima")
        answer = super().minima(*arguments)
        if timer:
            timer.join()
        return answer

    def outside(self, *arguments):  # type: ignore[no-untyped-def]
        timer = self.begin("outside")
        answer = super().outside(*arguments)
        if timer:
            timer.join()
        return answer


@pytest.mark.parametrize("phase", ["neighbours", "minima", "outside"])
def test_workers_killed_in_each_phase_change_nothing(
    phase: str, vectors: np.ndarray, alone: Clustering, local_ray: Cluster, tmp_path: Path
):
    index = build_index(vectors, EXACT)
    with opened(tmp_path) as ledger:
        fleet = _Dying(index, EXACT, "findings", ledger, Progress(io.StringIO()), 2, 256)
        fleet.phase = phase
        with fleet:
            fleet.search()
            found = grow(index, fleet, EXACT)
    assert fleet.killed == 2
    same(found, alone)


def test_nearest_on_ray_is_that_of_one_process_and_is_not_sought_again(
    vectors: np.ndarray, local_ray: Cluster, tmp_path: Path
):
    asked = np.arange(0, POINTS, 3)
    among = np.setdiff1d(np.arange(POINTS), asked)
    nearest, distances = nearest_among(vectors, asked, among)
    written = []
    for _ in range(2):
        with opened(tmp_path) as ledger:
            found = nearest_on_ray(
                vectors, asked, among, name="findings", ledger=ledger, progress=Progress(io.StringIO()), workers=2,
                shard_points=120,
            )  # fmt: skip
            assert len(ledger.shards(NEAREST)) == 5
        assert np.array_equal(found[0], nearest)
        assert np.array_equal(found[1], distances)
        written.append([path.stat().st_mtime_ns for path in sorted((tmp_path / "_work/nearest").iterdir())])
    assert written[0] == written[1]


@pytest.mark.parametrize("committed", [False, True])
def test_a_worker_killed_while_it_seeks_the_nearest_is_replaced(
    committed: bool, vectors: np.ndarray, local_ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = np.arange(0, POINTS, 3)
    among = np.setdiff1d(np.arange(POINTS), asked)
    folder, calls = tmp_path / "run", tmp_path / "calls"

    class Dying(distributed._NearestShard):
        """The first worker that comes to the second shard is killed there, once."""

        def __call__(self, shard: str) -> dict[str, Any]:
            with calls.open("a") as file:
                file.write(f"{shard}\n")
            dies = shard.endswith("1") and calls.read_text().count(shard) == 1
            if dies and not committed:
                os.kill(os.getpid(), signal.SIGKILL)
            summary = super().__call__(shard)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return summary

    monkeypatch.setattr(distributed, "_NearestShard", Dying)
    with opened(folder) as ledger:
        found = nearest_on_ray(
            vectors, asked, among, name="findings", ledger=ledger, progress=Progress(io.StringIO()), workers=2,
            shard_points=120,
        )  # fmt: skip
        shards = sorted(ledger.shards(NEAREST))
    for ours, theirs in zip(found, nearest_among(vectors, asked, among), strict=True):
        assert np.array_equal(ours, theirs)
    begun = calls.read_text().split()
    assert sorted(begun) == sorted(shards if committed else [*shards, shards[1]])  # again only what wasn't committed
