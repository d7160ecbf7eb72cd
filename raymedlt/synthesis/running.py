"""Synthesis as a job: stages over shards and trainings, on Ray or in this process, resumable from the output.

labels -> prepare -> arrange -> classifier -> gate -> learn -> plan -> draw -> judge -> accept -> finish
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from raymedlt.classifier import ClassifyConfig, train_classifier
from raymedlt.classifier.config import EvaluationConfig, ModelConfig, TrainingConfig
from raymedlt.config import config_hash, hashed_part
from raymedlt.cpus import cpus
from raymedlt.errors import ConfigError, InputError
from raymedlt.images.arranging import Data
from raymedlt.images.stages import DataStages, data_parts
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings, refuse_missing_gpu, settle
from raymedlt.progress import Progress
from raymedlt.runtime import Cluster, connect, private_by_default, run_shards, run_shards_locally
from raymedlt.schema import TRAIN
from raymedlt.shards import ShardFunction
from raymedlt.storage import Storage, below, content_hash, sha256_of
from raymedlt.synthesis import finish
from raymedlt.synthesis.agreement import Agreement
from raymedlt.synthesis.config import SynthesizeConfig, data_of
from raymedlt.synthesis.describing import description
from raymedlt.synthesis.distributed import teach_on_ray
from raymedlt.synthesis.drawing import DRAW, MakeDrawer, write_plan
from raymedlt.synthesis.folder import generator_hash, generator_size
from raymedlt.synthesis.gate import Gate
from raymedlt.synthesis.gate_folder import classifier_files
from raymedlt.synthesis.judging import GATE, JUDGE, MakeJudge, accept, fit_gate
from raymedlt.synthesis.plan import Plan, make_plan
from raymedlt.synthesis.teaching import CHECKPOINTS, LEARN, Teach, learning_of, paths_of
from raymedlt.synthesis.texts import findings_of

CLASSIFIER = "classifier"


def describe(config: SynthesizeConfig) -> str:
    """What `run` would do and what it costs, from a measured step. Draws nothing and writes nothing.

    Raises:
        ConfigError, InputError: what `run` would refuse at once.
    """
    private_by_default()
    _check(config)
    return description(config)


def run(config: SynthesizeConfig) -> str:
    """Learn, plan, draw and judge; leave generator, images and page in `config.output`; return the page's path.

    Raises:
        InputError: nothing to read, nothing to plan, a generator or classifier that can't be used.
        RunConflictError: the output folder belongs to another run or another driver.
        InterruptedRun: SIGTERM; the same command goes on.
    """
    private_by_default()
    _check(config)
    storage = Storage.of(config.output)
    with (
        Ledger.open(
            storage,
            config_hash=config_hash(config),
            config=hashed_part(config),
            data_hash=data_hash(config),
            job="synthesize",
            restart=config.restart,
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        return _Run(config, storage, ledger, stack).work()


def data_hash(config: SynthesizeConfig) -> str:
    """Names the input: labels, images, generator and adapters; the classifier by its model's files."""
    parts = list(data_parts(data_of(config), config.output))
    if config.generator.path is not None:
        parts.append(generator_hash(config.generator.path, config.generator.adapters))
    if config.classifier.path is not None:
        model = Storage.of(config.classifier.path).sub("model")
        parts += [f"{name}:{sha256_of(model.read_bytes(name))}" for name in model.list_files()]
    return content_hash(*parts)


def _check(config: SynthesizeConfig) -> None:
    """Refuse at once what would end the run after hours."""
    if config.machine.replicas == 1 and config.ray_from > 0 and not os.environ.get("RAY_ADDRESS"):
        refuse_missing_gpu(config.machine.device, "machine")
    if config.classifier.path is not None:
        classifier_files(config.classifier.path)
    if config.generator.path is not None:
        size = generator_size(config.generator.path)
        if size != config.images.size:
            raise ConfigError(
                f"images.size is {config.images.size}, and the generator draws {size} pixels",
                "the same size",
                f"give --images.size {size}",
            )


class _Run:
    """One run of the job, stage by stage."""

    def __init__(self, config: SynthesizeConfig, storage: Storage, ledger: Ledger, stack: contextlib.ExitStack) -> None:
        self.config, self.storage, self.ledger, self.stack = config, storage, ledger, stack
        self.progress = Progress()
        self.workers = config.workers or cpus()
        self.began = time.monotonic()
        self.ray: Cluster | None = None
        self.always_ray = config.ray_from == 0 or bool(os.environ.get("RAY_ADDRESS"))
        self.stages = DataStages(data_of(config), storage, ledger, self.progress, self._connect)

    def work(self) -> str:
        """All stages in order."""
        labels, prepared, arranged = self.stages.run()
        data = Data(tuple(arranged["classes"]), tuple(self.stages.image_files()), self.config.images.size)
        machine = settle(
            self.ledger, device=self.config.machine.device, precision=self.config.machine.precision,
            replicas=self.config.machine.replicas, key="machine", connect=self._connect if self._under_ray else None,
        )  # fmt: skip
        self._plan(data, "")  # a plan that can't be made ends the run here, not after the training
        classifier = self._classifier()
        with self.progress.stage("fit the gate"):
            fit_gate(self.config, data, machine, classifier, self.ledger)
        gate = Gate.load(below(self.config.output, GATE), "cpu")
        self._check_gate(gate, self._plan(data, ""))
        self._learn(data, machine)
        plan = self._plan(data, self._checkpoint_hash())
        shards = write_plan(plan, self.config.sampling.batch * self.config.sampling.shard_batches, self.ledger)
        generator, adapters = paths_of(self.config)
        handle, threads = self.ledger.worker(), self.config.machine.threads
        drawn_now = self._over_shards(
            DRAW, shards, MakeDrawer(handle, generator, adapters, self.config.sampling, machine, threads), machine
        )
        self._over_shards(JUDGE, shards, MakeJudge(handle, self.config.output, machine, threads), machine)
        accepted = accept(list(shards), gate, self.ledger)
        gate = dataclasses.replace(gate, agreement=Agreement.from_json(accepted["agreement"]))
        return finish.finish(
            finish.Outcome(
                config=self.config, labels=labels, prepared=prepared, arranged=arranged, machine=machine, data=data,
                plan=plan, shards=list(shards), accepted=accepted, classifier=classifier, drawn_now=drawn_now,
                drawers=self._drawers(machine, shards), workers=self.workers,
                where="Ray" if self._under_ray or len(plan) >= self.config.ray_from else "one process",
            ),
            gate, self.storage, self.ledger, self.progress, self.began,
        )  # fmt: skip

    def _classifier(self) -> str:
        """The folder of the classifier's run; trained now unless one is given."""
        own = self.config.classifier
        if own.path is not None:
            return own.path
        folder = below(self.config.output, CLASSIFIER)
        machine = self.config.machine
        train_classifier(
            ClassifyConfig(
                images=self.config.images, phantom=self.config.phantom, labels=self.config.labels,
                split=self.config.split, seed=self.config.seed, output=folder, workers=self.config.workers,
                ray_from=self.config.ray_from, evaluation=EvaluationConfig(bootstrap=100, maps=0),
                model=ModelConfig(backbone=own.backbone, weights=own.weights),
                training=TrainingConfig(
                    stage2_epochs=own.epochs, backbone_rate=own.rate, rate=own.rate, device=machine.device,
                    precision=machine.precision, replicas=machine.replicas,
                ),
            )
        )  # fmt: skip
        return folder

    def _learn(self, data: Data, machine: Settings) -> None:
        """The generator's training, unless there is nothing to learn or it is done."""
        given = self.config.generator.adapters is not None
        if given or self.ledger.done(LEARN, "generator") is not None:
            self.progress.skip(LEARN, "adapters are given" if given else "already done")
            self.storage.delete_folder(CHECKPOINTS)  # left by a run that died at this point
            return
        teach = Teach(self.config, data, machine, self.ledger.worker())
        own, scratch = learning_of(self.config, data.classes), self.config.generator.path is None
        autoencoder = self.config.generator.autoencoder
        total = own.steps + (autoencoder.all_steps if scratch else 0)
        before = {"autoencoder": 0, "decoder": autoencoder.steps, "denoiser": total - own.steps}
        with self.progress.stage(LEARN, total=total, unit="steps") as advance:
            if self._under_ray:
                self._connect()
                teach_on_ray(teach, self.storage)
                self.ledger.check_lock()
                self.storage.delete_folder("_work/ray_train")
            else:
                teach(said=_steps(advance, self.ledger, before))
        self.storage.delete_folder(CHECKPOINTS)  # the generator is kept, its checkpoints are not

    def _checkpoint_hash(self) -> str:
        own = self.config.generator
        if own.adapters is not None:
            return generator_hash(str(own.path), own.adapters)
        return str((self.ledger.done(LEARN, "generator") or {})["checkpoint_hash"])

    def _check_gate(self, gate: Gate, plan: Plan) -> None:
        """Say before anything is drawn which classes the gate can't judge; refuse where it can judge none."""
        judged = dict(zip(gate.agreement.classes, gate.agreement.shown_C.tolist(), strict=True))
        lost = [name for name in plan.rows_of() if math.isnan(judged[name])]
        if not lost:
            return
        told = f"{len(lost)} of {len(plan.rows_of())} planned classes have fewer than "
        told += f"{self.config.gate.least_positives} real validation images, so that the gate would refuse all of them"
        if len(lost) == len(plan.rows_of()):
            raise InputError(
                told,
                "at least one class that can be judged",
                "raise --split.validation, plan commoner classes (--plan.groups tail_medium), or lower "
                "--gate.least_positives",
            )
        self.progress.say(f"warning: {told}: {', '.join(lost)}")

    def _plan(self, data: Data, checkpoint: str) -> Plan:
        examples = data.labels(self.storage)
        rows = examples.rows(TRAIN)
        return make_plan(
            examples.labels_NC[rows], examples.known_NC[rows], examples.classes, self.config.plan,
            seed=self.config.seed, checkpoint_hash=checkpoint, findings=findings_of(self.storage, examples, rows),
        )  # fmt: skip

    def _over_shards(
        self, stage: str, shards: dict[str, int], factory: Callable[[], ShardFunction], machine: Settings
    ) -> int:
        """The number of images that were still to be done."""
        on_ray = self._under_ray or sum(shards.values()) >= self.config.ray_from
        left = sum(shards[name] for name in self.ledger.pending(stage, shards))
        if on_ray and left:
            self._connect()
            threads = self.config.machine.threads
            run_shards(
                stage, list(shards), None, progress=self.progress, workers=max(1, self.workers // threads),
                ledger=self.ledger, cpus_per_worker=float(threads), actor_factory=factory,
                gpus_per_worker=1.0 if machine.device == "cuda" else 0.0, unit="images", units=shards.__getitem__,
            )  # fmt: skip
            return left
        run_shards_locally(  # in one thread: torch's number of threads is one for the whole process
            stage, list(shards), None, progress=self.progress, workers=1, ledger=self.ledger, actor_factory=factory,
            unit="images", units=shards.__getitem__,
        )  # fmt: skip
        return left

    def _drawers(self, machine: Settings, shards: dict[str, int]) -> int:
        """Processes that draw at a time."""
        if self.ray is None:
            return 1
        most = self.workers // self.config.machine.threads
        return max(1, min(int(self.ray.gpus) if machine.device == "cuda" else most, most, len(shards)))

    @property
    def _under_ray(self) -> bool:
        return self.always_ray or self.config.machine.replicas > 1

    def _connect(self) -> Cluster:
        """Ray. Its processes work on the GPUs from here on: this one gives back what it keeps of them."""
        gc.collect()
        torch.cuda.empty_cache()
        if self.ray is None:
            with self.progress.stage("start Ray"):
                self.ray = self.stack.enter_context(connect(max(self.workers, self.config.machine.replicas)))
        return self.ray


def _steps(
    advance: Callable[[int], None], ledger: Ledger, before: dict[str, int]
) -> Callable[[str, dict[str, Any]], None]:
    """Advance the progress as the loops report; so many steps come before each part's."""
    seen = 0

    def said(part: str, entry: dict[str, Any]) -> None:
        nonlocal seen
        ledger.check_lock()
        at = before[part] + entry["step"]
        advance(at - seen)
        seen = at

    return said
