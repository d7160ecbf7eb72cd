"""Enrichment as a job: stages over shards, on Ray or in threads, resumable from the output folder alone.

read -> arrange -> keys -> embed -> cluster -> learn -> write -> finish. A stage is a set of shards whose names follow
from their content; a finished shard is marked in the ledger and never done again. Sentences are gathered on the driver:
O(occurrences) for the keys, O(distinct sentences x width) for clustering; reports are never gathered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.clustering.fit import Clustering, check_vectors, settings_of
from raymedlt.clustering.model import ClusterModel
from raymedlt.config import EnrichConfig, config_hash, hashed_part
from raymedlt.cpus import cpus
from raymedlt.embedding.encoder import PrecisionChoice, choose_precision
from raymedlt.enrichment import finish
from raymedlt.enrichment.corpus import SECTIONS, Section, distinct, study_ids, training_rows
from raymedlt.enrichment.guard.second import fingerprints, second_guards
from raymedlt.enrichment.knowledge import (
    Knowledge,
    SectionFit,
    cluster_section,
    clustering_seed,
    has_second_chances,
    judge_section,
    learn,
)
from raymedlt.enrichment.memory import common_language, model_of
from raymedlt.enrichment.stages import (
    ARRANGE,
    CLUSTER,
    EMBED,
    FINISH,
    KEYS,
    LEARN,
    READ,
    WRITE,
    ArrangeShard,
    EmbedShard,
    ReadShard,
    WriteShard,
    vectors_of,
)
from raymedlt.enrichment.tables import clusters_table, edges_table, sentences_table
from raymedlt.errors import ConfigError, InputError
from raymedlt.ledger import Ledger
from raymedlt.machine import choose_device
from raymedlt.progress import Progress
from raymedlt.reports.readers import Reader, Unit, open_reader
from raymedlt.runtime import Cluster, connect, private_by_default, run_shards, run_shards_locally
from raymedlt.shards import ShardFunction
from raymedlt.storage import Storage, content_hash

_MANY_UNITS = 64  # pieces of input from which reading alone is worth starting Ray
_PAIRS_WORTH_SHARING = 50  # x shard_points^2: 3e9 pairs by default, some five seconds of a core, a worker's start
PAGE = "report.html"


def open_source(config: EnrichConfig) -> tuple[Reader, dict[str, Unit]]:
    """The reader, and its units by shard name (place and content hash)."""
    source = config.reports
    reader = open_reader(source.path, source.format, source.columns, source.language, source.max_chars)
    units = reader.units()
    if not units:
        raise InputError(
            "the source holds no report files", "at least one", "check --reports.path and --reports.format"
        )
    named = {f"{n:05d}-{content_hash(unit.name, unit.fingerprint)}": unit for n, unit in enumerate(units)}
    return reader, named


def describe(config: EnrichConfig) -> str:
    """What `run` would do: source, stages, resources, outputs, and what is done already. Reads no report."""
    private_by_default()
    _, units = open_source(config)
    storage = Storage.of(config.output)
    return finish.description(config, list(units.values()), storage, workers_of(config))


def workers_of(config: EnrichConfig) -> int:
    """Configured workers, else one per CPU of this machine."""
    return config.workers or cpus()


def run(config: EnrichConfig) -> str:
    """Enrich, leave tables, model and page in `config.output`, and return the page's path or URI.

    Raises:
        InputError: nothing to read, nothing valid, or more rejected rows than allowed.
        RunConflictError: the output folder belongs to another run or another driver.
        InterruptedRun: SIGTERM; the same command goes on.
    """
    private_by_default()
    began = time.monotonic()
    reader, units = open_source(config)
    storage = Storage.of(config.output)
    data_hash = content_hash(*units, *fingerprints(config.guard))
    second_guards(config.guard)  # a table or model that can't be used ends the run here, not after the clustering
    with (
        Ledger.open(
            storage,
            config_hash=config_hash(config),
            config=hashed_part(config),
            data_hash=data_hash,
            job="enrich",
            restart=config.restart,
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        return _Run(config, reader, units, storage, ledger, stack, began).work()


class _Run:
    """One run of the job, stage by stage."""

    def __init__(
        self,
        config: EnrichConfig,
        reader: Reader,
        units: dict[str, Unit],
        storage: Storage,
        ledger: Ledger,
        stack: contextlib.ExitStack,
        began: float,
    ) -> None:
        self.config, self.reader, self.units = config, reader, units
        self.storage, self.ledger, self.stack, self.began = storage, ledger, stack, began
        self.progress = Progress()
        self.workers = workers_of(config)
        self.ray: Cluster | None = None
        self.on_ray = config.ray_from == 0 or bool(os.environ.get("RAY_ADDRESS")) or len(units) >= _MANY_UNITS

    def work(self) -> str:
        """All stages in order."""
        read = self._shards(READ, list(self.units), ReadShard(self.ledger.worker(), self.reader, self.units))
        finish.check_phi(read, self.config)
        arranged = self._arrange()
        finish.check_rows(read, arranged, self.config)
        sections, language = self._sections(list(arranged))
        vectors, precision = self._embed(sections)
        fits = self._cluster(sections, vectors, precision, language)
        knowledge = learn(fits[0], fits[1], self.config, language)
        self._learn(fits, knowledge)
        written = self._write(list(arranged), knowledge)
        finish.check_counts(arranged, written)
        return self._finish(read, arranged, written, fits, knowledge, precision)

    def _shards(
        self,
        stage: str,
        shards: Sequence[str],
        function: ShardFunction,
        *,
        unit: str = "shards",
        units: Callable[[str], int] | None = None,
        local_workers: int | None = None,
        gpus_per_worker: float = 0.0,
    ) -> dict[str, dict[str, Any]]:
        if self.on_ray and self.ledger.pending(stage, shards):
            gpus = self._connect().gpus
            workers = min(self.workers, int(gpus / gpus_per_worker)) if gpus_per_worker else self.workers
            return run_shards(
                stage, shards, function, progress=self.progress, workers=workers, ledger=self.ledger,
                unit=unit, units=units, gpus_per_worker=gpus_per_worker,
            )  # fmt: skip
        return run_shards_locally(
            stage, shards, function, progress=self.progress, workers=local_workers or self.workers, ledger=self.ledger,
            unit=unit, units=units,
        )  # fmt: skip

    def _connect(self) -> Cluster:
        if self.ray is None:
            with self.progress.stage("start Ray"):
                self.ray = self.stack.enter_context(connect(self.workers))
        return self.ray

    def _arrange(self) -> dict[str, dict[str, Any]]:
        """Cut the sorted ids into ranges, and gather each range's reports."""
        ids: set[str] = set()
        parts: dict[str, tuple[str, str]] = {}
        for part in self._files(READ, "_work/read/"):
            own = self.storage.read_table(part, ["report_id"])["report_id"].to_pylist()  # sorted
            parts[part] = own[0], own[-1]
            ids.update(own)
        if not ids:
            rejected = sum(sum(m.summary["rejected"].values()) for m in self.ledger.shards(READ).values())
            raise InputError(
                f"no valid report among the {rejected} rows read",
                "at least one report with findings or an impression",
                f"see the reasons in {self.storage.uri}/rejected",
            )
        ordered, size = sorted(ids), self.config.writing.shard_reports
        ranges = {}
        for number, start in enumerate(range(0, len(ordered), size)):
            chunk = ordered[start : start + size]
            ranges[f"{number:05d}-{content_hash(*chunk)}"] = (chunk[0], chunk[-1])
        return self._shards(ARRANGE, list(ranges), ArrangeShard(self.ledger.worker(), parts, ranges))

    def _sections(self, shards: list[str]) -> tuple[list[Section], str]:
        """Distinct sentences of the training reports, per section."""
        with self.progress.stage("gather sentences"):
            names = [f"_work/reports/{shard}.parquet" for shard in shards]
            reports = self.storage.read_tables(names, ["report_id", "study_id", "split", "language"])
            sentences = self.storage.read_tables([f"_work/sentences/{shard}.parquet" for shard in shards])
            rows = training_rows(reports, sentences)
            if rows.num_rows == 0:
                raise InputError(
                    f"{reports.num_rows} valid reports, but none of the training split has a sentence",
                    "training reports to learn from",
                    "check the column `split` of the source",
                )
            studies = study_ids(rows)
            return [distinct(rows, name, studies) for name in SECTIONS], common_language(reports)

    def _embed(self, sections: list[Section]) -> tuple[dict[str, npt.NDArray[np.float32]], PrecisionChoice]:
        """Vectors of every section's keys; a key that both sections hold is embedded once."""
        keys = sorted({key for section in sections for key in section.keys})
        self.on_ray = self.on_ray or len(keys) >= self.config.ray_from
        size, handle = self.config.embedding.shard_sentences, self.ledger.worker()
        chunks = {}
        for number, start in enumerate(range(0, len(keys), size)):
            chunk = keys[start : start + size]
            chunks[f"{number:05d}-{content_hash(*chunk)}"] = chunk
        for shard in self.ledger.pending(KEYS, chunks):
            entry = self.storage.write_table(f"_work/keys/{shard}.parquet", pa.table({"sentence_key": chunks[shard]}))
            self.ledger.commit(KEYS, shard, [entry], {"sentences": len(chunks[shard])})
        precision = self._precision(keys)
        if precision.device == "cuda" and self.ledger.pending(EMBED, chunks):
            self._need_gpu()
        embedding = self.config.embedding
        # In one process batches run side by side inside a shard; a Ray worker has one thread for each shard.
        threads = 1 if self.on_ray else self.workers
        stage = EmbedShard(
            handle, embedding.model, precision.precision, embedding.batch_sentences, threads, precision.device
        )
        self._shards(
            EMBED,
            list(chunks),
            stage,
            unit="sentences",
            units=lambda shard: len(chunks[shard]),
            local_workers=1,
            gpus_per_worker=1.0 if precision.device == "cuda" else 0.0,
        )
        if not keys:
            return {section.name: np.zeros((0, 1), np.float32) for section in sections}, precision
        parts = [vectors_of(self.storage.read_table(f"_work/vectors/{shard}.parquet")) for shard in chunks]
        vectors = np.concatenate(parts)
        place = {key: number for number, key in enumerate(keys)}
        return {section.name: vectors[[place[key] for key in section.keys]] for section in sections}, precision

    def _need_gpu(self) -> None:
        """Of a run that began on a GPU and goes on somewhere else."""
        if choose_device("auto", "embedding", self._connect if self.on_ray else None) == "cpu":
            raise ConfigError(
                "this run began on a GPU, and there is none here",
                "one for the sentences that are still to be embedded: vectors of a CPU differ in their last digits",
                "go on where there is a GPU, or begin in another --output with --embedding.device cpu",
            )

    def _precision(self, keys: list[str]) -> PrecisionChoice:
        """Settled once per run, and kept: a run that goes on elsewhere must not mix precisions."""
        known = self.ledger.done("precision", "choice")
        if known is None:
            sample = keys[:: max(1, len(keys) // 100)]
            embedding = self.config.embedding
            with self.progress.stage("load encoder"):
                device = choose_device(embedding.device, "embedding", self._connect if self.on_ray else None)
                choice = choose_precision(
                    embedding.model, embedding.precision, sample, embedding.batch_sentences, device
                )
            known = dataclasses.asdict(choice)
            self.ledger.commit("precision", "choice", [], known)
        return PrecisionChoice(**known)

    def _cluster(
        self,
        sections: list[Section],
        vectors: dict[str, npt.NDArray[np.float32]],
        precision: PrecisionChoice,
        language: str,
    ) -> list[SectionFit]:
        """Cluster each section, or read its clustering back; judge and vote (again: 20 s at a million)."""
        fits = []
        for section in sections:
            own = vectors[section.name]
            known = self.ledger.done(CLUSTER, section.name) is not None
            if known:
                self.progress.skip(f"cluster {section.name}", "already done")
                clustering = self._saved_clustering(section.name)
            else:
                clustering = self._clustering(section, own)
            nearest = self._nearest(section, own, clustering)
            with self.progress.stage(f"judge {section.name}"):
                fit = judge_section(section, own, clustering, self.config, language, nearest)
                if not known:
                    self._save_model(model_of(fit, self.config, precision.precision), section.name)
            fits.append(fit)
        return fits

    def _clustering(self, section: Section, vectors_KD: npt.NDArray[np.float32]) -> Clustering:
        """On Ray where there are enough points to share; the result is the same."""
        options = self.config.clustering
        if self.on_ray and options.method == "hdbscan" and len(vectors_KD) >= 2 * options.shard_points:
            from raymedlt.clustering.distributed import fit_on_ray

            gpus = int(self._connect().gpus)
            return fit_on_ray(
                check_vectors(vectors_KD),
                settings_of(options, len(vectors_KD), clustering_seed(section, self.config)),
                name=section.name,
                ledger=self.ledger,
                progress=self.progress,
                workers=self.workers,
                shard_points=options.shard_points,
                gpus=gpus,
            )
        with self.progress.stage(f"cluster {section.name}"):
            return cluster_section(section, vectors_KD, self.config)

    def _nearest(
        self, section: Section, vectors_KD: npt.NDArray[np.float32], clustering: Clustering
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
        """For `judge_section`, on Ray where there are enough pairs to share: else None, and it looks itself."""
        asked, among = np.flatnonzero(clustering.labels < 0), np.flatnonzero(clustering.labels >= 0)
        size = self.config.clustering.shard_points
        worth_it = len(asked) >= 2 * size and len(asked) * len(among) >= _PAIRS_WORTH_SHARING * size**2
        if not (self.on_ray and has_second_chances(self.config) and worth_it):
            return None
        from raymedlt.clustering.distributed import nearest_on_ray

        self._connect()
        return nearest_on_ray(
            vectors_KD,
            asked,
            among,
            name=section.name,
            ledger=self.ledger,
            progress=self.progress,
            workers=self.workers,
            shard_points=size,
        )

    def _save_model(self, model: ClusterModel, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            model.save(folder)
            entries = [
                self.storage.write_bytes(f"model/{name}/{file.name}", file.read_bytes())
                for file in sorted(Path(folder).iterdir())
            ]
        self.ledger.commit(CLUSTER, name, entries, {"clusters": model.clusters})

    def _saved_clustering(self, name: str) -> Clustering:
        return ClusterModel.load(self.storage.sub(f"model/{name}").address).clustering

    def _learn(self, fits: list[SectionFit], knowledge: Knowledge) -> None:
        if self.ledger.done(LEARN, "tables") is None:
            with self.progress.stage(LEARN):
                tables = {
                    "sentences": sentences_table(fits),
                    "clusters": clusters_table(fits),
                    "edges": edges_table(knowledge.arcs),
                }
                entries = [self.storage.write_table(f"{name}/all.parquet", table) for name, table in tables.items()]
                self.ledger.commit(LEARN, "tables", entries, {"arcs": len(knowledge.arcs.source)})

    def _write(self, shards: list[str], knowledge: Knowledge) -> dict[str, dict[str, Any]]:
        provide: Callable[[], Knowledge] = lambda: knowledge  # noqa: E731
        if self.on_ray and self.ledger.pending(WRITE, shards):
            import ray

            self._connect()
            shared = ray.put(knowledge)  # once per node, not once per task
            provide = lambda: ray.get(shared)  # noqa: E731
        return self._shards(WRITE, shards, WriteShard(self.ledger.worker(), provide, self.config))

    def _files(self, stage: str, prefix: str) -> list[str]:
        """Files that the stage's finished shards wrote below `prefix`, sorted."""
        markers = self.ledger.shards(stage).values()
        return sorted(entry.name for marker in markers for entry in marker.files if entry.name.startswith(prefix))

    def _finish(
        self,
        read: dict[str, dict[str, Any]],
        arranged: dict[str, dict[str, Any]],
        written: dict[str, dict[str, Any]],
        fits: list[SectionFit],
        knowledge: Knowledge,
        precision: PrecisionChoice,
    ) -> str:
        if self.ledger.done(FINISH, "page") is None:
            with self.progress.stage(FINISH):
                outcome = finish.Outcome(
                    config=self.config,
                    read=finish.total(read),
                    arranged=finish.total(arranged),
                    written=finish.total(written),
                    fits=fits,
                    knowledge=knowledge,
                    precision=precision,
                    timings=dict(self.progress.timings),
                    seconds=time.monotonic() - self.began,
                    workers=self.workers,
                    where="Ray" if self.ray else "threads of one process",
                )
                entries = finish.write_all(self.storage, self.ledger, outcome)
                self.ledger.commit(FINISH, "page", entries, {})
            for warning in finish.warnings_of(outcome):
                self.progress.say(f"warning: {warning}")
        return f"{self.storage.uri.rstrip('/')}/{PAGE}"
