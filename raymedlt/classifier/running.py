"""The classifier as a job: stages over shards and trainings, on Ray or in this process, resumable from the output.

labels -> prepare -> arrange -> settle -> train (one or several) -> score -> finish. Images are decoded in shards, on
Ray Data's workers or in threads; a training runs in this process, or under Ray Train with a process per replica (see
distributed.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

from raymedlt.classifier import finish
from raymedlt.classifier.ablation import other_uses, variants
from raymedlt.classifier.backbone import build_backbone
from raymedlt.classifier.config import ClassifyConfig, data_of
from raymedlt.classifier.distributed import train_on_ray
from raymedlt.classifier.task import TRAINED, Training, do, folder_of
from raymedlt.config import config_hash, hashed_part
from raymedlt.cpus import cpus
from raymedlt.images.arranging import Data
from raymedlt.images.distributed import put_pixels, streamed
from raymedlt.images.examples import Examples
from raymedlt.images.stages import DataStages
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings, refuse_missing_gpu, settle
from raymedlt.progress import Progress
from raymedlt.runtime import (
    Cluster,
    connect,
    private_by_default,
)
from raymedlt.seeds import keyed_seed
from raymedlt.storage import Storage
from raymedlt.watching import watched

_HELD_BYTES = 4 * 1024**3
"""Prepared images up to this size are held by every replica (and by the driver, for scoring)."""


def describe(config: ClassifyConfig) -> str:
    """What `run` would do. Reads the label table's bytes and lists the image files, to name the input; runs nothing.

    Raises:
        ConfigError, InputError: device, network, weights or input that `run` would refuse at once.
    """
    private_by_default()
    _check_device(config)
    build_backbone(config.model)
    return finish.description(config, Storage.of(config.output), workers_of(config))


def workers_of(config: ClassifyConfig) -> int:
    """Configured workers, else one per CPU of this machine."""
    return config.workers or cpus()


def run(config: ClassifyConfig) -> str:
    """Train, evaluate and explain; leave tables, model and page in `config.output`; return the page's path or URI.

    Raises:
        InputError: nothing to read, nothing valid, a patient in two splits, or more rejected rows than allowed.
        RunConflictError: the output folder belongs to another run or another driver.
        InterruptedRun: SIGTERM; the same command goes on.
    """
    private_by_default()
    _check_device(config)
    build_backbone(config.model)  # a network or weights that can't be used end the run here, not after the images
    storage = Storage.of(config.output)
    with (
        Ledger.open(
            storage,
            config_hash=config_hash(config),
            config=hashed_part(config),
            data_hash=finish.data_hash(config),
            job="classify",
            restart=config.restart,
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        return _Run(config, storage, ledger, stack).work()


def _check_device(config: ClassifyConfig) -> None:
    """Refuse a GPU that isn't there, before anything is done; on a cluster the run itself looks."""
    if config.training.replicas == 1 and config.ray_from > 0 and not os.environ.get("RAY_ADDRESS"):
        refuse_missing_gpu(config.training.device, "training")


class _Run:
    """One run of the job, stage by stage."""

    def __init__(self, config: ClassifyConfig, storage: Storage, ledger: Ledger, stack: contextlib.ExitStack) -> None:
        self.config, self.storage, self.ledger, self.stack = config, storage, ledger, stack
        self.progress = Progress()
        self.workers = workers_of(config)
        self.began = time.monotonic()
        self.ray: Cluster | None = None
        self.always_ray = config.ray_from == 0 or bool(os.environ.get("RAY_ADDRESS"))
        self.loaded: Examples | None = None
        self.data = Data((), (), config.images.size)
        self.stages = DataStages(data_of(config), storage, ledger, self.progress, self._connect)

    def work(self) -> str:
        """All stages in order."""
        labels, prepared, arranged = self.stages.run()
        self.data = Data(tuple(arranged["classes"]), tuple(self.stages.image_files()), self.config.images.size)
        settings = self._settle()
        for training in self._trainings():
            self._train(training, settings)
        return self._finish(labels, prepared, arranged, settings)

    def _settle(self) -> Settings:
        own = self.config.training
        return settle(
            self.ledger, device=own.device, precision=own.precision, replicas=own.replicas, key="training",
            connect=self._connect if self._under_ray else None,
        )  # fmt: skip

    @property
    def _under_ray(self) -> bool:
        return self.always_ray or self.config.training.replicas > 1

    def _stream(self) -> bool:
        """Whether the images stay in the object store: where they would fill every replica's memory."""
        return self.stages.prepared_images() * self.data.size**2 > _HELD_BYTES

    def _connect(self) -> Cluster:
        if self.ray is None:
            with self.progress.stage("start Ray"):
                self.ray = self.stack.enter_context(connect(max(self.workers, self.config.training.replicas)))
        return self.ray

    def _trainings(self) -> list[Training]:
        """The members of the ensemble, and the variants of the ablation (of one member)."""
        own, found = self.config, []
        seeds = [keyed_seed(own.seed, "member", n) if n else own.seed for n in range(own.evaluation.members)]
        for number, seed in enumerate(seeds):
            found.append(Training(member_name(number), dataclasses.replace(own, seed=seed)))
        for name, each in other_uses(own).items():
            for number, seed in enumerate(seeds):
                found.append(Training(f"{name}-{number}", dataclasses.replace(each, seed=seed)))
        if own.ablate:
            found += [Training(f"without-{name}", each) for name, each in list(variants(own).items())[1:]]
        return found

    def _train(self, training: Training, settings: Settings) -> None:
        if self.ledger.done(TRAINED, training.name) is not None:
            self.progress.skip(f"train {training.name}", "already done")
            return
        own = training.config.training
        epochs = own.stage1_epochs + own.stage2_epochs
        if training.config.synthetic.path is not None and training.config.synthetic.use == "pretrain":
            epochs += training.config.synthetic.pretrain_epochs
        with self.progress.stage(f"train {training.name}", total=epochs, unit="epochs") as advance:
            if self._under_ray:
                self._connect()
                with watched(self.storage.sub(folder_of(training.name)), advance):
                    train_on_ray(
                        training, self.data, settings, self.ledger.worker(), stream=self._stream(), storage=self.storage
                    )
                self.ledger.check_lock()
                self.storage.delete_folder("_work/ray_train")
                self.storage.delete_folder(folder_of(training.name))
                return

            def said(entry: Mapping[str, Any]) -> None:
                self.ledger.check_lock()
                advance(1)

            do(training, self.data, settings, self.ledger.worker(), said=said, examples=self.examples())
            self.storage.delete_folder(folder_of(training.name))  # the network is kept, its checkpoints are not

    def examples(self) -> Examples:
        """All examples; read once. Their images are in this process's memory, or in Ray's where they are streamed."""
        if self.loaded is None:
            with self.progress.stage("load images"):
                if self._under_ray and self._stream():
                    self._connect()
                    self.loaded = streamed(self.data, *put_pixels(self.data, self.storage), self.storage)
                else:
                    self.loaded = self.data.load(self.storage)
        return self.loaded

    def _finish(
        self,
        labels: dict[str, Any],
        prepared: dict[str, dict[str, Any]],
        arranged: dict[str, Any],
        settings: Settings,
    ) -> str:
        if self.ledger.done(finish.FINISH, "page") is None:
            finish.finish(
                finish.Outcome(
                    config=self.config,
                    labels=labels,
                    prepared=prepared,
                    arranged=arranged,
                    settings=settings,
                    members=[member_name(number) for number in range(self.config.evaluation.members)],
                    workers=self.workers,
                    where="Ray" if self._under_ray else "one process",
                ),
                self.examples(),
                self.storage,
                self.ledger,
                self.progress,
                self.began,
            )
        return f"{self.storage.uri.rstrip('/')}/{finish.PAGE}"


def member_name(number: int) -> str:
    """Of a member of the ensemble."""
    return f"member-{number}"
