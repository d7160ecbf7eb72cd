"""The account of a GRPO training: a line per step, rewards on validation studies, checkpoints in the run's folder.

_work/policy/checkpoint-<step>/...   what TRL's trainer keeps: LoRA, optimizer, random states, its own account
_work/policy/best-<step>/...         the LoRA of the checkpoint with the highest reward on validation studies
_work/policy/latest.json             which files count (names, sha256), where the training stands, a line per step

`latest.json` is written after the files that it names; files of earlier checkpoints go after that. TRL's files are
pickles in part: none is read whose sha256 isn't the one written there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.monitors import signs
from raymedlt.alignment.trainer import OverlappedGRPOTrainer, Rollouts
from raymedlt.errors import ConsistencyError
from raymedlt.storage import Storage, sha256_of

FOLDER = "_work/policy"
LATEST = "latest.json"
Line = dict[str, Any]


class Account(TrainerCallback):  # type: ignore[misc]
    """Keeps what happens: a line per step, the reward on validation studies, checkpoints. One for each replica."""

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
        """Go on after the checkpoint that `latest` names."""
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
        """Evaluate and save every `checkpoint_steps`, and at the end."""
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
        """What the trainer says of a step completes its line."""
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
        """The mean reward of the validation studies, those of all replicas."""
        values, self.judged = self.judged, []
        every = [value for part in _gathered(values) for value in part]
        self.validation.append({"step": state.global_step, "reward": _mean(every), "completions": len(every)})
        self.began = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The checkpoint goes to the output, then `latest.json`; what no longer counts is deleted."""
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
    found: list[Any] = gather_object([value])
    return found


def _same_everywhere(file: Path) -> None:
    """An adapter's configuration without what another process would write otherwise.

    PEFT keeps the adapted layers in a set, whose order is another in every process; the base model's path may be that
    of a copy.
    """
    if file.exists():
        about = json.loads(file.read_text()) | {"base_model_name_or_path": None}
        if isinstance(about["target_modules"], list):
            about["target_modules"].sort()
        file.write_text(json.dumps(about, indent=2))


def _upload(storage: Storage, folder: Path, name: str, trainer: Any) -> list[Line]:
    """The files of a checkpoint into the run's folder, each replica its own; all of them, on every replica."""
    trainer.accelerator.wait_for_everyone()
    _same_everywhere(folder / name / "adapter_config.json")
    mine = [
        storage.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes()).to_json()
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    ]
    every = {each["name"]: each for part in _gathered(mine) for each in part}
    return [every[each] for each in sorted(every)]


def latest_of(storage: Storage) -> Line | None:
    """`latest.json` of the training's folder, None before the first checkpoint."""
    try:
        found: Line = json.loads(storage.read_bytes(LATEST))
    except FileNotFoundError:
        return None
    return found


def fetch(storage: Storage, latest: Line, folder: Path) -> None:
    """The checkpoint's files into this replica's folder. Raises ConsistencyError."""
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


def history_of(storage: Storage) -> list[Line]:
    """A line per step of the run's training, as far as its last checkpoint."""
    latest = latest_of(storage.sub(FOLDER))
    return [] if latest is None else list(latest["position"]["history"])
