"""GRPO of one policy as a replica does it: TRL's trainer and a reward pool. No Ray here."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers.utils import logging
from trl.trainer.grpo_config import GRPOConfig

from raymedlt.alignment.account import FOLDER, Account, Line, fetch, latest_of
from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.policy import IMAGE, PROMPT, REFERENCE, PolicyProcessor
from raymedlt.alignment.reading import Reference
from raymedlt.alignment.trainer import OverlappedGRPOTrainer
from raymedlt.cpus import use_threads
from raymedlt.errors import ConfigError
from raymedlt.evaluation.findings import claims_of
from raymedlt.finetuning.finished import FinishedRun
from raymedlt.finetuning.generation import Writer
from raymedlt.finetuning.lora import language_part
from raymedlt.finetuning.model import ComposedModel
from raymedlt.finetuning.studies import Studies
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.seeds import keyed_seed
from raymedlt.storage import FileEntry, Storage

LEARN, NAME = "learn", "policy"
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
        latest = latest_of(storage)
        if latest is not None:
            account.resume(latest)
            fetch(storage, latest, folder)
        if latest is None or latest["step"] < task.config.training.steps:
            trainer.train(resume_from_checkpoint=str(folder / latest["checkpoint"]) if latest else None)
        if trainer.accelerator.is_main_process:
            done = latest_of(storage)
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


def _trainer(
    task: PolicyTask,
    pool: Any,
    folder: Path,
    storage: Storage,
    said: Callable[[Line], None],
    kept: Callable[[int], None],
) -> tuple[OverlappedGRPOTrainer, Account]:
    config, own = task.config, task.config.training
    writer, studies = task.base.writer(task.settings.device), task.base.studies()
    if config.rollouts.engine == "vllm":
        _check_vllm(writer.model, task.settings)
    names = config.rewards.use
    account = Account(config, pool, storage, said, kept)
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
    if rollouts.engine == "vllm":
        more |= {"use_vllm": True, "vllm_mode": "colocate"}
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


def _check_vllm(model: Any, settings: Settings) -> None:
    """Raises ConfigError where vLLM can't draw a model's completions."""
    key, instead = "rollouts.engine is 'vllm'", "take rollouts.engine transformers"
    if isinstance(model, ComposedModel):
        raise ConfigError(f"{key}, and the model is composed", "one of Hugging Face's models", instead)
    if settings.device != "cuda":
        raise ConfigError(f"{key}, and the training is on {settings.device}", "a GPU", instead)
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"{key}, and vllm isn't installed", "it beside TRL", "pip install 'trl[vllm]'")


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
