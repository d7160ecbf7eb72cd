"""Fine-tuning as a job: stages over shards, one training, written reports; resumable from the output.

labels -> prepare -> arrange -> studies -> settle -> see -> train -> export -> write -> finish. Images are prepared and
reports written in shards, on Ray Data's workers or in this process; the training runs in this process, or under Ray
Train with a process per replica (see distributed.py).

model/     the finished model (see predictor.py)
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import safetensors.torch

from raymedlt.checkpoint import Checkpoints
from raymedlt.config import config_hash, hashed_part
from raymedlt.cpus import cpus
from raymedlt.finetuning import finish
from raymedlt.finetuning.arranging import arrange_studies, read_studies
from raymedlt.finetuning.build import refuse_bad_model, vision_part
from raymedlt.finetuning.config import FinetuneConfig, data_of
from raymedlt.finetuning.describing import description
from raymedlt.finetuning.distributed import see_on_ray, train_on_ray
from raymedlt.finetuning.export import EXPORT, MODEL, export_model
from raymedlt.finetuning.feed import Blind
from raymedlt.finetuning.generation import WRITE, MakeShardWriter, StoredPixels, Writing, plan_writing
from raymedlt.finetuning.making import CHANGES, SEEN_FILE, Making, built_of
from raymedlt.finetuning.predictor import open_writer
from raymedlt.finetuning.report_runs import ReportRun, open_reports
from raymedlt.finetuning.seeing import see
from raymedlt.finetuning.task import TRAINED, Task, do, folder_of, trained_model
from raymedlt.images.arranging import Data
from raymedlt.images.distributed import put_pixels
from raymedlt.images.stages import DataStages, image_sizes, rejected_reasons
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings, refuse_missing_gpu, settle
from raymedlt.progress import Progress
from raymedlt.runtime import Cluster, connect, private_by_default, run_shards, run_shards_locally
from raymedlt.seeds import keyed_seed
from raymedlt.storage import Storage
from raymedlt.watching import watched

SEE = "see"
NAME = "model"
"""Of the training in the run."""
_HELD_BYTES = 4 * 1024**3
"""Prepared images up to this size are held by every replica."""


def describe(config: FinetuneConfig) -> str:
    """What `run` would do; runs nothing. Raises ConfigError, InputError: what `run` would refuse at once."""
    private_by_default()
    return description(config, checked(config))


def run(config: FinetuneConfig) -> str:
    """Train, write reports and score them; leave model, tables and page in `config.output`; return the page's path.

    Raises:
        InputError: nothing to read, nothing valid, a model or reports that can't be used.
        RunConflictError: the output folder belongs to another run or another driver.
        InterruptedRun: SIGTERM; the same command goes on.
    """
    private_by_default()
    reports = checked(config)
    storage = Storage.of(config.output)
    with (
        Ledger.open(
            storage,
            config_hash=config_hash(config),
            config=hashed_part(config),
            data_hash=finish.data_hash(config, reports),
            job="finetune",
            restart=config.restart,
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        return _Run(config, reports, storage, ledger, stack).work()


def checked(config: FinetuneConfig) -> ReportRun | None:
    """Refuse at once what would end the run after hours; the reports, if they aren't the phantom's."""
    if config.training.replicas == 1 and config.ray_from > 0 and not os.environ.get("RAY_ADDRESS"):
        refuse_missing_gpu(config.training.device, "training")
    refuse_bad_model(config.model, image_size=config.images.size)
    if config.text.enriched is None:
        return None
    return open_reports(config.text.enriched, config.text.use)


class _Run:
    """One run of the job, stage by stage."""

    def __init__(
        self,
        config: FinetuneConfig,
        reports: ReportRun | None,
        storage: Storage,
        ledger: Ledger,
        stack: contextlib.ExitStack,
    ) -> None:
        self.config, self.reports, self.storage, self.ledger, self.stack = config, reports, storage, ledger, stack
        self.progress = Progress()
        self.workers = config.workers or cpus()
        self.began = time.monotonic()
        self.ray: Cluster | None = None
        self.always_ray = config.ray_from == 0 or bool(os.environ.get("RAY_ADDRESS"))
        source: dict[str, Any] = {}
        if reports is not None:
            source["source"] = self._images_of_reports
        self.stages = DataStages(data_of(config), storage, ledger, self.progress, self._connect, **source)

    def work(self) -> str:
        """All stages in order."""
        labels, prepared, arranged = self.stages.run()
        data = Data(tuple(arranged["classes"]), tuple(self.stages.image_files()), self.config.images.size)
        rejected = rejected_reasons(labels, prepared)
        studies = self._studies(data, sum(rejected.values()))
        own = self.config.training
        settings = settle(
            self.ledger, device=own.device, precision=own.precision, replicas=own.replicas, key="training",
            connect=self._connect if self._under_ray else None,
        )  # fmt: skip
        making = Making(self.config, data, self.storage)
        seen = self._see(making, settings)
        self._train(making, settings)
        self._export(making, settings)
        shards = self._write(settings)
        return finish.finish(
            finish.Outcome(
                config=self.config, rejected=rejected, studies=studies, seen=seen, settings=settings, shards=shards,
                training=self.ledger.done(TRAINED, NAME) or {}, export=self.ledger.done(EXPORT, NAME) or {},
                workers=self.workers, where="Ray" if self._under_ray else "one process",
            ),
            data, self.storage, self.ledger, self.progress, self.began,
        )  # fmt: skip

    def _images_of_reports(self, config: Any) -> Any:
        assert self.reports is not None
        return self.reports.source(name for name, _ in image_sizes(str(config.images.path), self.config.output))

    def _studies(self, data: Data, rejected: int) -> dict[str, Any]:
        with self.progress.stage("studies"):
            return arrange_studies(
                self.config, data.labels(self.storage), self.reports, self.ledger,
                lambda texts: built_of(self.config, list(texts)).processing.token_length, rejected,
            )  # fmt: skip

    def _see(self, making: Making, settings: Settings) -> dict[str, Any]:
        """Teach the encoder to see, unless it comes with weights or is done."""
        if not self.config.sees_first:
            return {}
        known = self.ledger.done(SEE, NAME)
        if known is not None:
            self.progress.skip(SEE, "already done")
            return known
        folder = "_work/see"
        with self.progress.stage(SEE, total=self.config.training.seeing_epochs, unit="epochs") as advance:
            if self._under_ray:
                self._connect()
                with watched(self.storage.sub(folder), advance):
                    see_on_ray(
                        functools.partial(teach_to_see, making, settings, folder, self.ledger.worker()),
                        settings, self.storage, folder,
                    )  # fmt: skip
                self.ledger.check_lock()
                self.storage.delete_folder("_work/ray_train")
            else:

                def said(entry: Mapping[str, Any]) -> None:
                    self.ledger.check_lock()
                    advance(1)

                teach_to_see(making, settings, folder, self.ledger.worker(), said)
        self.storage.delete_folder(folder)
        return self.ledger.done(SEE, NAME) or {}

    def _train(self, making: Making, settings: Settings) -> None:
        if self.ledger.done(TRAINED, NAME) is not None:
            self.progress.skip(TRAINED, "already done")
            return
        own = self.config.training
        with self.progress.stage(TRAINED, total=own.epochs, unit="epochs") as advance:
            if not self._under_ray:

                def said(entry: Mapping[str, Any]) -> None:
                    self.ledger.check_lock()
                    advance(1)

                do(self._task(making), settings, self.ledger.worker(), said=said)
                return
            self._connect()
            if self.stages.prepared_images() * making.data.size**2 > _HELD_BYTES:
                making = Making(self.config, making.data, self.storage, put_pixels(making.data, self.storage))
            with watched(self.storage.sub(folder_of(NAME)), advance):
                train_on_ray(self._task(making), settings, self.ledger.worker(), storage=self.storage)
            self.ledger.check_lock()
            self.storage.delete_folder("_work/ray_train")

    def _task(self, making: Making) -> Task:
        own = self.config
        return Task(NAME, own.settled_training, keyed_seed(own.seed, "train"), making.model, making.batches)

    def _export(self, making: Making, settings: Settings) -> None:
        """The model with the weights of the epoch that is kept, LoRA merged."""
        if self.ledger.done(EXPORT, NAME) is not None:
            self.progress.skip(EXPORT, "already done")
            return
        with self.progress.stage(EXPORT):
            processing = making.processing()
            model = trained_model(self._task(making), self.storage)
            export_model(model, processing, self.config, settings, NAME, self.ledger)

    def _write(self, settings: Settings) -> dict[str, int]:
        """Reports for the held-out images; the shards and how many reports each holds."""
        own = self.config.generation
        how = Writing(
            batch=own.batch, max_tokens=own.max_tokens, temperature=own.temperature,
            seed=keyed_seed(self.config.seed, "write"), precision=settings.precision,
        )  # fmt: skip
        shards = plan_writing(self._rows(), how, self.ledger)
        files, counts = self.stages.image_files(), self.stages.image_counts()
        size = self.config.images.size
        pixels = functools.partial(Blind, size) if self.config.blind else functools.partial(
            StoredPixels, self.storage, files, counts, size
        )  # fmt: skip
        factory = MakeShardWriter(
            self.ledger.worker(), functools.partial(open_writer, self.storage.sub(MODEL), settings.device),
            pixels, how, settings.threads,
        )  # fmt: skip
        more: dict[str, Any] = {
            "progress": self.progress, "ledger": self.ledger, "actor_factory": factory, "unit": "reports",
            "units": shards.__getitem__,
        }  # fmt: skip
        if self._under_ray and self.ledger.pending(WRITE, shards):
            self._connect()
            run_shards(
                WRITE, list(shards), None, workers=max(1, self.workers // settings.threads),
                cpus_per_worker=float(settings.threads), gpus_per_worker=1.0 if settings.device == "cuda" else 0.0,
                **more,
            )  # fmt: skip
        else:  # in one thread: torch's number of threads is one for the whole process
            run_shards_locally(WRITE, list(shards), None, workers=1, **more)
        return shards

    def _rows(self) -> pa.Table:
        """Which studies reports are written for: of each split the first ones by the hashes of their ids."""
        studies, own = read_studies(self.storage), self.config.generation
        chosen: list[int] = []
        for split in own.splits:
            rows = studies.of(split).tolist()
            rows.sort(key=lambda row: keyed_seed(0, "written", str(studies.report_ids[row])))
            chosen += rows[: own.limit]
        return studies.table().take(pa.array(sorted(chosen), pa.int64())).select(["report_id", "image_id", "image_row"])

    @property
    def _under_ray(self) -> bool:
        return self.always_ray or self.config.training.replicas > 1

    def _connect(self) -> Cluster:
        if self.ray is None:
            with self.progress.stage("start Ray"):
                self.ray = self.stack.enter_context(connect(max(self.workers, self.config.training.replicas)))
        return self.ray


def teach_to_see(making: Making, settings: Settings, folder: str, handle: Any, said: Any = lambda entry: None) -> None:
    """Teach the run's encoder and commit it; `folder` of the run holds its checkpoints."""
    config, storage = making.config, making.storage
    encoder: Any = vision_part(making.model())
    studies = read_studies(storage)
    history = see(
        encoder, studies, making.pixels(), config.training, CHANGES, settings, Checkpoints(storage.sub(folder)),
        seed=config.seed, said=said,
    )  # fmt: skip
    tensors = {name: each.detach().cpu().contiguous() for name, each in encoder.state_dict().items()}
    entry = storage.write_bytes(SEEN_FILE, safetensors.torch.save(tensors))
    timeless = [{name: value for name, value in line.items() if name != "seconds"} for line in history]
    handle.commit(SEE, NAME, [entry], {"history": timeless})
