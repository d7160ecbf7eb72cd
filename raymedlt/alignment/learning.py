"""GRPO of one policy as a replica does it: TRL's trainer, a reward pool, checkpoints in the run's folder. No Ray here.

_work/policy/checkpoint-<step>/...   what TRL's trainer keeps: LoRA, optimizer, random states, its own account
_work/policy/best-<step>/...         the LoRA of the checkpoint with the highest reward on validation studies
_work/policy/latest.json             which files count (names, sha256), where the training stands, a line per step

`latest.json` is written after the files that it names; files of earlier checkpoints go after that. TRL's files are
pickles in part: none is read whose sha256 isn't the one written there.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging
from trl.trainer.grpo_config import GRPOConfig

from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.monitors import signs
from raymedlt.alignment.policy import IMAGE, PROMPT, REFERENCE, PolicyProcessor
from raymedlt.alignment.reading import Reference
from raymedlt.alignment.trainer import OverlappedGRPOTrainer, Rollouts
from raymedlt.cpus import use_threads
from raymedlt.errors import ConfigError, ConsistencyError
from raymedlt.evaluation.findings import claims_of
from raymedlt.finetuning.finished import FinishedRun
from raymedlt.finetuning.generation import Writer
from raymedlt.finetuning.lora import language_part
from raymedlt.finetuning.studies import Studies
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.seeds import keyed_seed
from raymedlt.storage import FileEntry, Storage, sha256_of

LEARN, NAME = "learn", "policy"
FOLDER = "_work/policy"
LATEST = "latest.json"
Line = dict[str, Any]
MakePool = Callable[[], Any]
"""Makes a replica's reward pool."""


@dataclass(frozen=True)
class PolicyTask:
    """A training: small and picklable."""

    config: AlignConfig
    base: FinishedRun
    pool: MakePool
    settings: Settings


def learn(
    task: PolicyTask,
    handle: LedgerHandle,
    *,
    said: Callable[[Line], None] = lambda line: None,
    kept: Callable[[int], None] = lambda step: None,
) -> None:
    """Train, going on from the last checkpoint, and commit the best LoRA; every replica runs it.

    Args:
        said: called with each step's line, on the first replica.
        kept: called after each checkpoint, on every replica.

    Raises:
        RaymedltError: all reward workers are dead; the last checkpoint stays.
        ConsistencyError: a damaged checkpoint.
    """
    use_threads(task.settings.threads)
    storage = handle.storage.sub(FOLDER)
    with ExitStack() as stack:
        stack.enter_context(quiet(task.settings.device))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(task.pool())
        trainer, account = _trainer(task, pool, folder, storage, said, kept)
        latest = _latest(storage)
        if latest is not None:
            account.resume(latest)
            _fetch(storage, latest, folder, trainer)
        if latest is None or latest["step"] < task.config.training.steps:
            trainer.train(resume_from_checkpoint=str(folder / latest["checkpoint"]) if latest else None)
        if trainer.accelerator.is_main_process:
            done = _latest(storage)
            assert done is not None
            best = [FileEntry(f"{FOLDER}/{each['name']}", each["sha256"], each["bytes"]) for each in done["best_files"]]
            handle.commit(LEARN, NAME, best, {key: done[key] for key in ("step", "best_step", "best", "validation")})
        trainer.accelerator.wait_for_everyone()


@contextlib.contextmanager
def quiet(device: str) -> Iterator[None]:
    """Libraries that speak of each other's future, and of devices, keep it to themselves."""
    logging.disable_progress_bar()
    os.environ.setdefault("DS_ACCELERATOR", device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def history_of(storage: Storage) -> list[Line]:
    """A line per step of the run's training, as far as its last checkpoint."""
    latest = _latest(storage.sub(FOLDER))
    return [] if latest is None else list(latest["position"]["history"])


def _trainer(
    task: PolicyTask,
    pool: Any,
    folder: Path,
    storage: Storage,
    said: Callable[[Line], None],
    kept: Callable[[int], None],
) -> tuple[OverlappedGRPOTrainer, _Account]:
    config, own = task.config, task.config.training
    writer, studies = task.base.writer(task.settings.device), task.base.studies()
    names = config.rewards.use
    account = _Account(config, pool, storage, said, kept)
    trainer = OverlappedGRPOTrainer(
        writer.model,
        args=GRPOConfig(**arguments(config, task.settings, str(folder))),
        train_dataset=_asked(balanced(studies, config.rollouts.with_findings, config.seed), studies, writer),
        eval_dataset=_asked(_ordered(studies, VALIDATION, config.seed)[: own.validation], studies, writer),
        processing_class=PolicyProcessor(writer.processing, task.base.pixels()),
        peft_config=LoraConfig(
            r=own.lora_rank, lora_alpha=own.lora_alpha, lora_dropout=0.0,
            target_modules=lora_modules(writer.model, own.lora_targets),
        ),
        callbacks=[account],
        pool=pool,
        reward_names=names,
        references=_references(studies),
        rollout_batch=config.rollouts.batch,
        deadline=config.rewards.deadline,
        told=account.told,
    )  # fmt: skip
    account.trainer = trainer
    return trainer, account


def arguments(config: AlignConfig, settings: Settings, folder: str) -> Line:
    """Those of TRL's GRPOConfig."""
    own, rollouts = config.training, config.rollouts
    share = rollouts.prompts * rollouts.generations // own.replicas
    more: Line = {}
    if own.zero:
        more["deepspeed"] = _zero(own.zero)
    return {
        "output_dir": folder,
        "use_cpu": settings.device == "cpu",
        "bf16": settings.precision == "bfloat16",
        "per_device_train_batch_size": own.micro_batch,
        "gradient_accumulation_steps": share // own.micro_batch,
        "per_device_eval_batch_size": share,
        "num_generations": rollouts.generations,
        "num_generations_eval": 1,
        "max_completion_length": rollouts.max_tokens,
        "temperature": rollouts.temperature,
        "top_p": rollouts.top_p,
        "max_steps": own.steps,
        "learning_rate": own.rate,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": own.clip,
        "weight_decay": 0.0,
        "beta": own.beta,
        "epsilon": own.epsilon,
        "loss_type": own.loss,
        "scale_rewards": own.scale,
        "reward_weights": None if config.rewards.weights is None else list(config.rewards.weights),
        "seed": keyed_seed(config.seed, "grpo") % 2**31,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",  # the account decides, and when to evaluate
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "log_level": "error",
        "dataloader_pin_memory": settings.device == "cuda",
        **more,
    }


def _zero(stage: int) -> Line:
    automatic = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": False},  # the trainer's own autocast, as without DeepSpeed
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **dict.fromkeys(automatic, "auto"),
    }


def lora_modules(model: Any, targets: tuple[str, ...]) -> list[str]:
    """Full names of the linear layers in the language part that get a LoRA.

    Raises:
        ConfigError: none of its layers has one of these names.
    """
    part = language_part(model)
    inside = {id(each) for each in part.modules()}
    linear = [name for name, each in model.named_modules() if id(each) in inside and isinstance(each, torch.nn.Linear)]
    found = [name for name in linear if name.rpartition(".")[2] in targets]
    if not found:
        raise ConfigError(
            f"training.lora_targets is {list(targets)}, and the language model has no such layers",
            f"some of {', '.join(sorted({name.rpartition('.')[2] for name in linear}))}",
            "correct training.lora_targets",
        )
    return found


def balanced(studies: Studies, share: float | None, seed: int) -> list[int]:
    """Training studies, those with findings (or those without) repeated until they are `share` of all.

    Where there are none of a kind, or `share` is None: each once.
    """
    rows = _ordered(studies, TRAIN, seed)
    languages = studies.languages
    named = {row: bool(claims_of(str(studies.reference_findings[row]), str(languages[row])).present) for row in rows}
    groups = [[row for row in rows if named[row] == kind] for kind in (True, False)]
    if share is None or not all(groups):
        return rows
    wanted = [round(share * len(rows)), round((1 - share) * len(rows))]
    return [group[number % len(group)] for group, count in zip(groups, wanted, strict=True) for number in range(count)]


def _ordered(studies: Studies, split: str, seed: int) -> list[int]:
    return sorted(studies.of(split).tolist(), key=lambda row: keyed_seed(seed, "row", str(studies.report_ids[row])))


def _asked(rows: Sequence[int], studies: Studies, writer: Writer) -> Dataset:
    prompt = [{"role": "user", "content": writer.processing.prompt}]
    images = [int(studies.image_rows[row]) for row in rows]
    return Dataset.from_dict({PROMPT: [prompt] * len(rows), IMAGE: images, REFERENCE: list(rows)})


def _references(studies: Studies) -> list[Reference]:
    columns = (studies.reference_findings, studies.reference_impressions, studies.languages)
    return [Reference(*map(str, row)) for row in zip(*columns, strict=True)]


class _Account(TrainerCallback):  # type: ignore[misc]
    """Keeps what happens: a line per step, the reward on validation studies, checkpoints."""

    trainer: OverlappedGRPOTrainer

    def __init__(
        self,
        config: AlignConfig,
        pool: Any,
        storage: Storage,
        said: Callable[[Line], None],
        kept: Callable[[int], None],
    ) -> None:
        self.config, self.pool, self.storage, self.said, self.kept = config, pool, storage, said, kept
        self.history: list[Line] = []
        self.validation: list[Line] = []
        self.best: Line = {}
        self.line: Line = {}
        self.judged: list[float] = []
        self.before = pool.figures()
        self.began = time.monotonic()

    def resume(self, latest: Line) -> None:
        self.history, self.validation = latest["position"]["history"], latest["validation"]
        self.best = {key: latest[key] for key in ("best", "best_step", "best_files")}

    def told(self, rollouts: Rollouts) -> None:
        """A step's rollouts, or some of the validation studies'."""
        weights = self.config.rewards.weights or (1.0,) * len(self.config.rewards.use)
        totals = [_total(row, weights) for row in rollouts.rewards]
        if not rollouts.learning:
            self.judged += [value for value in totals if value is not None]
            return
        now, before = self.pool.figures(), self.before
        self.before = now
        busy = now.reward_seconds - before.reward_seconds
        unmapped = [row[-1] for row in rollouts.monitors]
        self.line |= {
            "reward": _mean([value for value in totals if value is not None]),
            **{
                f"reward_{name}": _mean([row[place] for row in rollouts.rewards if row[place] is not None])
                for place, name in enumerate(self.config.rewards.use)
            },
            **signs(rollouts.completions, totals, unmapped, self.config.rollouts.generations),
            "tokens": _mean(rollouts.lengths),
            "generation_seconds": rollouts.generation_seconds,
            "exposed_seconds": rollouts.exposed_seconds,
            "reward_seconds": busy,
            "queue_seconds": now.queue_seconds - before.queue_seconds,
            "scored": now.scored - before.scored,
            "shared": now.shared - before.shared,
            "hits": now.hits - before.hits,
            "misses": now.misses - before.misses,
            "deaths": now.deaths - before.deaths,
            "workers": now.workers,
        }

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        due = state.global_step % self.config.training.checkpoint_steps == 0 or state.global_step >= state.max_steps
        control.should_evaluate = control.should_save = due
        control.should_log = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Line | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or not self.line:
            return
        now = time.monotonic()
        own: Line = {name: float(logs[name]) for name in ("loss", "kl", "entropy", "grad_norm") if name in logs}
        line: Line = {"step": state.global_step, **self.line, **own, "seconds": now - self.began}
        self.line, self.began = {}, now
        self.history.append(line)
        if state.is_world_process_zero:
            self.said(line)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        values, self.judged = self.judged, []
        every = [value for part in _gathered(values) for value in part]
        self.validation.append({"step": state.global_step, "reward": _mean(every), "completions": len(every)})
        self.began = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        name = f"checkpoint-{state.global_step}"
        reward = self.validation[-1]["reward"]
        better = not self.best or reward > self.best["best"]
        files = _upload(self.storage, Path(args.output_dir), name, self.trainer)
        if self.trainer.accelerator.is_main_process:
            if better:
                local = Path(args.output_dir) / name
                best_files = [
                    self.storage.write_bytes(f"best-{state.global_step}/{each}", (local / each).read_bytes()).to_json()
                    for each in ("adapter_model.safetensors", "adapter_config.json")
                ]
                self.best = {"best": reward, "best_step": state.global_step, "best_files": best_files}
            latest = {
                "step": state.global_step, "checkpoint": name, "files": files, "validation": self.validation,
                "position": {"history": self.history}, **self.best,
            }  # fmt: skip
            self.storage.write_bytes(LATEST, json.dumps(latest, indent=1, sort_keys=True).encode())
            kept: set[str] = {each["name"] for each in [*files, *self.best["best_files"]]} | {LATEST}
            for folder in {each.partition("/")[0] for each in self.storage.list_files() if each not in kept}:
                if not any(each.startswith(f"{folder}/") for each in kept):
                    self.storage.delete_folder(folder)
        self.trainer.accelerator.wait_for_everyone()
        self.kept(state.global_step)
        self.began = time.monotonic()


def _total(rewards: tuple[float | None, ...], weights: tuple[float, ...]) -> float | None:
    known = [weight * value for weight, value in zip(weights, rewards, strict=True) if value is not None]
    return sum(known) if known else None


def _mean(values: Any) -> float:
    found = list(values)
    return float(sum(found) / len(found)) if found else 0.0


def _gathered(value: Any) -> list[Any]:
    from accelerate.utils import gather_object

    found: list[Any] = gather_object([value])
    return found


def _upload(storage: Storage, folder: Path, name: str, trainer: Any) -> list[Line]:
    """The files of a checkpoint into the run's folder, each node its own; all of them, on every replica."""
    trainer.accelerator.wait_for_everyone()
    mine: list[Line] = []
    if trainer.accelerator.is_local_main_process:
        for path in sorted((folder / name).rglob("*")):
            if path.is_file():
                mine.append(storage.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes()).to_json())
    every = {each["name"]: each for part in _gathered(mine) for each in part}
    return [every[each] for each in sorted(every)]


def _latest(storage: Storage) -> Line | None:
    try:
        found: Line = json.loads(storage.read_bytes(LATEST))
    except FileNotFoundError:
        return None
    return found


def _fetch(storage: Storage, latest: Line, folder: Path, trainer: Any) -> None:
    """The checkpoint's files onto this node. Raises ConsistencyError."""
    if trainer.accelerator.is_local_main_process:
        for entry in latest["files"]:
            data = storage.read_bytes(entry["name"])
            if sha256_of(data) != entry["sha256"]:
                raise ConsistencyError(
                    f"'{entry['name']}' of the checkpoint differs from its sha256",
                    "the bytes that were written",
                    f"delete {storage.uri} to train anew, and check the disk",
                )
            path = folder / entry["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    trainer.accelerator.wait_for_everyone()
