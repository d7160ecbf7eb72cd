"""Alignment as a job: clusters, one GRPO training, the best checkpoint's reports; resumable from the output.

(fine-tune) -> cluster -> settle -> learn -> export -> write -> finish. The training runs in this process, or under Ray
Train with a process per replica (see distributed.py).

model/             the aligned model, LoRA merged (see finetuning/predictor.py)
clusters/          where the job made them itself: cluster models of findings and impressions
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from peft import PeftConfig, get_peft_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load

from raymedlt.alignment import finish
from raymedlt.alignment.account import FOLDER, Line
from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.distributed import learn_on_ray
from raymedlt.alignment.learning import LEARN, NAME, PolicyTask, learn, quiet
from raymedlt.alignment.monitors import unmapped_share
from raymedlt.alignment.pool import PoolSettings, RayRewardPool, ThreadRewardPool
from raymedlt.alignment.rewards import SECTIONS, load_reward
from raymedlt.alignment.scoring import Rewards
from raymedlt.config import ClusteringConfig, EnrichConfig, config_hash, hashed_part
from raymedlt.cpus import cpus
from raymedlt.enrichment import enrich
from raymedlt.errors import InputError, RunConflictError
from raymedlt.finetuning import running as finetuning
from raymedlt.finetuning.config import FinetuneConfig, data_of
from raymedlt.finetuning.export import MODEL, save_model
from raymedlt.finetuning.finished import FinishedRun, open_finished
from raymedlt.finetuning.generation import WRITE, MakeShardWriter, Writing, plan_writing
from raymedlt.finetuning.predictor import open_writer, read_about
from raymedlt.finetuning.studies import phantom_reports
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings, settle
from raymedlt.progress import Progress
from raymedlt.runreport.words import counted
from raymedlt.runtime import Cluster, connect, private_by_default, run_shards, run_shards_locally
from raymedlt.schema import REPORTS, TRAIN
from raymedlt.storage import Storage, below, content_hash

CLUSTER, EXPORT = "cluster", "export"
CLUSTERS = "clusters"
PHANTOM_CLUSTERING = ClusteringConfig(min_cluster_size=2, min_samples=1)
"""A phantom has few hundred distinct sentences: with the defaults three fifths of what it says is in no cluster."""
MONITOR = f"{unmapped_share.__module__}:{unmapped_share.__name__}"


def describe(config: AlignConfig) -> str:
    """What `run` would do; runs nothing."""
    completions = config.rollouts.prompts * config.rollouts.generations
    own, made = config.training, config.finetuned is None
    lines = [
        f"model     {config.base}" + (" (made first, on the phantom, where it isn't there)" if made else ""),
        f"rewards   {', '.join(config.rewards.use)}, {config.rewards.least} to {config.rewards.most} workers a replica",
        f"a step    {completions} completions: {config.rollouts.generations} of {config.rollouts.prompts} studies each",
        f"training  {own.steps} steps, {counted(own.replicas, 'replica')}, LoRA of rank {own.lora_rank},"
        f" beta {own.beta:g}",
        f"judged    every {own.checkpoint_steps} steps on {own.validation} validation studies; the best one is kept",
        f"output    {config.output}",
    ]
    return "\n".join(lines)


def run(config: AlignConfig) -> str:
    """Align, write reports and compare them with the fine-tuned model's; return the page's path.

    Raises:
        InputError: no finished fine-tuning run, no clusters.
        RunConflictError: the output folder belongs to another run or another driver.
        InterruptedRun: SIGTERM; the same command goes on.
    """
    private_by_default()
    for name in config.rewards.use:
        load_reward(name)
    if config.finetuned is None and not Storage.of(config.base).exists("manifest.json"):
        _make(config.base, config.seed)
    base = open_finished(config.base)
    storage = Storage.of(config.output)
    with (
        Ledger.open(
            storage,
            config_hash=config_hash(config),
            config=hashed_part(config),
            data_hash=content_hash(base.content, *_clusters_content(config)),
            job="align",
            restart=config.restart,
        ) as ledger,
        contextlib.ExitStack() as stack,
    ):
        return _Run(config, base, storage, ledger, stack).work()


def _make(base: str, seed: int) -> None:
    """Fine-tune on the phantom into the folder `base`, or go on with that."""
    Progress().say(f"no finished run of jobs/finetune.py in '{base}': fine-tuning there first, on the phantom")
    try:
        finetuning.run(FinetuneConfig(output=base, seed=seed))
    except RunConflictError as error:
        raise RunConflictError(
            f"no finished run of jobs/finetune.py, and none can be made there: {error.got}",
            error.expected,
            "let that run finish first, or name a finished one by --finetuned",
        ) from error


class _Run:
    """One run of the job, stage by stage."""

    def __init__(
        self, config: AlignConfig, base: FinishedRun, storage: Storage, ledger: Ledger, stack: contextlib.ExitStack
    ) -> None:
        self.config, self.base, self.storage, self.ledger, self.stack = config, base, storage, ledger, stack
        self.progress = Progress()
        self.began = time.monotonic()
        self.ray: Cluster | None = None

    def work(self) -> str:
        """All stages in order."""
        clusters = self._clusters()
        own = self.config.training
        settings = settle(
            self.ledger, device=own.device, precision=own.precision, replicas=own.replicas, key="training",
            connect=self._connect if self._under_ray else None,
        )  # fmt: skip
        self._learn(clusters, settings)
        self._export(settings)
        shards = self._write(settings)
        outcome = finish.Outcome(
            config=self.config, base=self.base, settings=settings, shards=shards, clusters=clusters,
            training=self.ledger.done(LEARN, NAME) or {}, where="Ray" if self._under_ray else "one process",
        )  # fmt: skip
        return finish.finish(outcome, self.storage, self.ledger, self.progress, self.began)

    def _clusters(self) -> str:
        """The folder with the cluster models of findings and impressions."""
        given = self.config.rewards.clusters or _clusters_of(self.base.config)
        if given is not None:
            return given
        if self.ledger.done(CLUSTER, "models") is not None:
            self.progress.skip(CLUSTER, "already done")
            return self.storage.sub(CLUSTERS).address
        with self.progress.stage(CLUSTER), tempfile.TemporaryDirectory() as folder:
            counts = cluster_phantom(self.base, Path(folder))
            entries = [
                self.storage.write_bytes(f"{CLUSTERS}/{path.relative_to(folder).as_posix()}", path.read_bytes())
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file()
            ]
            self.ledger.commit(CLUSTER, "models", entries, counts)
        return self.storage.sub(CLUSTERS).address

    def _learn(self, clusters: str, settings: Settings) -> None:
        if self.ledger.done(LEARN, NAME) is not None:
            self.progress.skip(LEARN, "already done")
            return
        own = self.config.training
        rewards = Rewards((*self.config.rewards.use, MONITOR), clusters, self.config.rewards.severity)
        task = PolicyTask(self.config, self.base, self._pool(rewards), settings)
        with self.progress.stage(LEARN, total=own.steps, unit="steps") as advance:
            if self._under_ray:
                self._connect()
                learn_on_ray(task, self.ledger.worker(), advance)
                self.ledger.check_lock()
                self.storage.delete_folder("_work/ray_train")
                return

            def said(line: Line) -> None:
                self.ledger.check_lock()
                advance(1)

            learn(task, self.ledger.worker(), said=said)

    def _pool(self, rewards: Rewards) -> Any:
        own = self.config.rewards
        settings = PoolSettings(hung_seconds=own.deadline)
        if own.pool == "actors" or (own.pool == "auto" and self._under_ray):
            if not self._under_ray:
                self._connect()
            return functools.partial(RayRewardPool, rewards, own.least, own.most, settings=settings)
        return functools.partial(ThreadRewardPool, rewards, own.least, settings)

    def _export(self, settings: Settings) -> None:
        """The fine-tuned model with the best checkpoint's LoRA merged."""
        if self.ledger.done(EXPORT, NAME) is not None:
            self.progress.skip(EXPORT, "already done")
            return
        done = self.ledger.done(LEARN, NAME) or {}
        with self.progress.stage(EXPORT), quiet("cpu"):
            writer = self.base.writer("cpu")
            folder = self.storage.sub(f"{FOLDER}/best-{done['best_step']}")
            with tempfile.TemporaryDirectory() as local:
                for name in ("adapter_config.json", "adapter_model.safetensors"):
                    Path(local, name).write_bytes(folder.read_bytes(name))
                policy = get_peft_model(writer.model, PeftConfig.from_pretrained(local))
                set_peft_model_state_dict(policy, load(Path(local, "adapter_model.safetensors").read_bytes()))
            model = policy.merge_and_unload()
            _, about = read_about(self.base.storage.sub(MODEL))
            about |= {"configuration": config_hash(self.config), "aligned": True}
            about["generation"] |= {"precision": settings.precision}
            saved = save_model(model, writer.processing, about, self.storage.sub(MODEL))
            entries = [type(each)(f"{MODEL}/{each.name}", each.sha256, each.bytes) for each in saved]
            self.ledger.commit(EXPORT, NAME, entries, {})

    def _write(self, settings: Settings) -> dict[str, int]:
        """Reports of the studies that the fine-tuned model wrote for; the shards and how many each holds."""
        own = self.base.config.generation
        how = Writing(batch=own.batch, max_tokens=own.max_tokens, precision=settings.precision)
        before = finish.base_generations(self.base)
        studies = self.base.studies().table()
        asked = studies.filter(pc.is_in(studies["report_id"], before["report_id"].combine_chunks()))
        shards = plan_writing(asked.select(["report_id", "image_id", "image_row"]), how, self.ledger)
        factory = MakeShardWriter(
            self.ledger.worker(), functools.partial(open_writer, self.storage.sub(MODEL), settings.device),
            self.base.pixels, how, settings.threads,
        )  # fmt: skip
        more: Mapping[str, Any] = {
            "progress": self.progress, "ledger": self.ledger, "actor_factory": factory, "unit": "reports",
            "units": shards.__getitem__,
        }  # fmt: skip
        if self._under_ray and self.ledger.pending(WRITE, shards):
            self._connect()
            run_shards(
                WRITE, list(shards), None, workers=max(1, cpus() // settings.threads),
                cpus_per_worker=float(settings.threads), gpus_per_worker=1.0 if settings.device == "cuda" else 0.0,
                **more,
            )  # fmt: skip
        else:
            run_shards_locally(WRITE, list(shards), None, workers=1, **more)
        return shards

    @property
    def _under_ray(self) -> bool:
        return self.config.training.replicas > 1 or bool(os.environ.get("RAY_ADDRESS"))

    def _connect(self) -> Cluster:
        if self.ray is None:
            with self.progress.stage("start Ray"):
                needed = self.config.training.replicas * (1 + self.config.rewards.most)
                self.ray = self.stack.enter_context(connect(max(cpus(), needed)))
        return self.ray


def cluster_phantom(base: FinishedRun, folder: Path) -> dict[str, int]:
    """Cluster models of a phantom's training reports into a local folder; section -> clusters."""
    studies = base.studies()
    splits = dict(zip(studies.report_ids.tolist(), studies.splits.tolist(), strict=True))
    reports = phantom_reports(data_of(base.config))
    learnt = [splits.get(name) == TRAIN for name in reports["report_id"].to_pylist()]
    config = EnrichConfig(clustering=PHANTOM_CLUSTERING)
    models = enrich(reports.filter(pa.array(learnt)).select(REPORTS.names), config).models
    for name in SECTIONS:
        models[name].save(folder / name)
    return {name: int(models[name].clusters) for name in SECTIONS}


def _clusters_of(config: FinetuneConfig) -> str | None:
    """Those of the reports that the model was fine-tuned with; None: of a phantom."""
    if config.text.enriched is not None:
        return below(config.text.enriched, "model")
    return None


def _clusters_content(config: AlignConfig) -> list[str]:
    """Names the clusters that are given."""
    if config.rewards.clusters is None:
        return []
    folder = Storage.of(config.rewards.clusters)
    sizes = [f"{name}:{size}" for name, size in folder.sizes()]
    if not sizes:
        raise InputError(
            f"no cluster models in '{folder.uri}' (rewards.clusters)",
            "the folder `model` of a finished run of jobs/enrich.py",
            "correct the path",
        )
    return sizes
