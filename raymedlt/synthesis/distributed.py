"""All of synthesis that knows Ray: the generator's training with a process per replica."""

from __future__ import annotations

from dataclasses import dataclass

from raymedlt.replicas import run_replicas
from raymedlt.storage import Storage
from raymedlt.synthesis.teaching import CHECKPOINTS, Teach


@dataclass(frozen=True)
class _Replica:
    teach: Teach

    def __call__(self) -> None:
        import ray.train

        self.teach(first=ray.train.get_context().get_world_rank() == 0)


def teach_on_ray(teach: Teach, storage: Storage) -> None:
    """The training of a run under Ray Train; it goes on from its checkpoints when a replica dies.

    Raises:
        RaymedltError: what a replica raised, or that replicas kept dying.
    """
    settings = teach.settings
    run_replicas(
        _Replica(teach), name="generator", replicas=teach.config.machine.replicas, gpu=settings.device == "cuda",
        threads=settings.threads, storage=storage, checkpoints=CHECKPOINTS,
    )  # fmt: skip
