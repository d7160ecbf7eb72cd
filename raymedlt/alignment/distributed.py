"""All of alignment's training that knows Ray; the reward pool's Ray part is in pool.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from raymedlt.alignment.account import FOLDER
from raymedlt.alignment.learning import NAME, PolicyTask, learn
from raymedlt.ledger import LedgerHandle
from raymedlt.replicas import run_replicas
from raymedlt.watching import watched


@dataclass(frozen=True)
class _Worker:
    """What every replica runs."""

    task: PolicyTask
    handle: LedgerHandle

    def __call__(self) -> None:
        learn(self.task, self.handle, kept=_kept)


def _kept(step: int) -> None:
    """Tell Ray Train of a checkpoint: every replica, at the same steps. The files lie in the run's folder already."""
    import ray.train
    from ray.train import Checkpoint

    if ray.train.get_context().get_world_rank():
        ray.train.report({"step": step})
        return
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "step"), "w", encoding="utf-8") as file:
            file.write(str(step))
        ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))


def learn_on_ray(task: PolicyTask, handle: LedgerHandle, advance: Callable[[int], None]) -> None:
    """Train under Ray Train; when a replica dies all begin again from the last checkpoint.

    Raises:
        RaymedltError: what a replica raised, or that Ray gave up.
    """
    with watched(handle.storage.sub(FOLDER), advance):
        run_replicas(
            _Worker(task, handle),
            name=NAME,
            replicas=task.config.training.replicas,
            gpu=task.settings.device == "cuda",
            threads=task.settings.threads,
            storage=handle.storage,
            checkpoints=FOLDER,
        )
