"""One fine-tuning as a replica does it: model and batches from the run's folder, the loop, the result. No Ray in here.

_work/train/<name>/    checkpoints of the training <name>; at its end the weights of the best epoch alone (state.py)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from raymedlt.finetuning.config import TrainingConfig
from raymedlt.finetuning.engines import Logits, World, picked_logits
from raymedlt.finetuning.state import Position, best_files, put_best
from raymedlt.finetuning.training import Batches, Said, Trained, train
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.storage import Storage

TRAINED = "train"
_OF_THE_MACHINE = ("seconds", "waited_for_data", "replicas")
"""Of a history's entries what a result must not depend on."""


@dataclass(frozen=True)
class Task:
    """A training: its name in the run, and what makes it. Sent to the replicas, so it should be small."""

    name: str
    training: TrainingConfig
    seed: int
    model: Callable[[], nn.Module]
    """The model with its starting weights, the same on every replica, float32, on the CPU."""
    batches: Callable[[Storage], Batches]
    """Its micro-batches, from the run's folder."""
    logits: Logits = picked_logits


def folder_of(name: str) -> str:
    """Where the training `name` keeps its checkpoints in the run."""
    return f"_work/train/{name}"


def do(
    task: Task,
    settings: Settings,
    handle: LedgerHandle,
    *,
    said: Said = lambda entry: None,
    kept: Callable[[Position], None] = lambda position: None,
    warned: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train, going on from the last checkpoint, and commit the files with the best weights (the first replica does).

    Args:
        said: called after each epoch on the first replica.
        kept, warned: see `training.train`.
    """
    storage = handle.storage
    trained = train(
        task.model(), task.batches(storage), task.training, settings, storage.sub(folder_of(task.name)),
        seed=task.seed, logits=task.logits, said=said, kept=kept, warned=warned,
    )  # fmt: skip
    if World.here().rank == 0:
        handle.commit(TRAINED, task.name, best_files(storage, folder_of(task.name)), summary_of(trained))
    return trained


def summary_of(trained: Trained) -> dict[str, Any]:
    """What the ledger keeps of a training."""
    history = [
        {key: value for key, value in line.items() if key not in _OF_THE_MACHINE} for line in trained.history
    ]  # fmt: skip
    return {"best": trained.best, "history": history}


def trained_model(task: Task, storage: Storage) -> nn.Module:
    """The model with the weights of the best epoch. Raises ConsistencyError, InputError."""
    model = task.model()
    put_best(storage.sub(folder_of(task.name)), model)
    return model
