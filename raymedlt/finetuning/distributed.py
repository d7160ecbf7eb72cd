"""All of fine-tuning's training that knows Ray: replicas that may vanish and come back, under Ray Train."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from raymedlt.finetuning.state import LATEST, Position
from raymedlt.finetuning.task import Task, do, folder_of
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.replicas import run_replicas
from raymedlt.storage import Storage


@dataclass(frozen=True)
class _Worker:
    """What every replica of a training runs."""

    task: Task
    settings: Settings
    handle: LedgerHandle

    def __call__(self) -> None:
        do(self.task, self.settings, self.handle, kept=self._kept, warned=_warned)

    def _kept(self, position: Position) -> None:
        """Tell Ray Train of a checkpoint: where it lies, not what it holds.

        Every replica has written its own files to the run's storage already; Ray Train would copy a folder once more,
        and knows only those below its own. A report waits until Ray Train asks for it, up to two seconds.
        """
        import ray.train
        from ray.train import Checkpoint

        metrics = {"epoch": position.epoch, "steps": position.steps, "best": position.best}
        if ray.train.get_context().get_world_rank():
            ray.train.report(metrics)
            return
        about = {"checkpoint": f"{self.handle.storage.uri}/{folder_of(self.task.name)}/{LATEST}", **metrics}
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "pointer.json"), "w", encoding="utf-8") as file:
                json.dump(about, file)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _warned() -> bool:
    """Whether the provider is about to take a replica's machine back; the replicas agree on it."""
    import ray.train

    return ray.train.get_preemption_info() is not None


def see_on_ray(worker: Callable[[], None], settings: Settings, storage: Storage, folder: str) -> None:
    """Run `worker` in one process of Ray Train: the encoder is small, and one process teaches it.

    Args:
        folder: of the run, with its checkpoints.
    """
    run_replicas(
        worker, name="see", replicas=1, gpu=settings.device == "cuda", threads=settings.threads, storage=storage,
        checkpoints=folder,
    )  # fmt: skip


def train_on_ray(
    task: Task, settings: Settings, handle: LedgerHandle, *, storage: Storage, resize_seconds: float = 60.0
) -> None:
    """One training under Ray Train; when a replica dies the others go on from the last checkpoint.

    With `training.least_replicas` they go on at once with as many as there is room for, and with more when there is
    room again: at most `resize_seconds` later, when all begin anew from the last checkpoint.

    Raises:
        RaymedltError: what a replica raised, or that Ray gave up.
    """
    run_replicas(
        _Worker(task, settings, handle),
        name=task.name,
        replicas=task.training.replicas,
        least=task.training.least_replicas,
        gpu=settings.device == "cuda",
        threads=settings.threads,
        storage=storage,
        checkpoints=folder_of(task.name),
        resize_seconds=resize_seconds,
    )
