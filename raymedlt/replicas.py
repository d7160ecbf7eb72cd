"""A training's replicas, under Ray Train: as many processes as asked for, begun again where one dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from raymedlt.again import same_command
from raymedlt.errors import RaymedltError, without_message
from raymedlt.nodes import TRAINING, capacity
from raymedlt.runtime import ATTEMPTS, worker_environment
from raymedlt.storage import Storage, content_hash
from raymedlt.versions import check_worker
from raymedlt.watching import LATEST

_TALKATIVE = ("ray.train", "torch.utils.cpp_extension")
"""Loggers that tell of every checkpoint, and that a machine without GPUs has none."""


class ReplicaFailed(Exception):
    """What an exception in a replica was and where it came from, without its message, which might quote a report."""


def run_replicas(
    worker: Callable[[], None],
    *,
    name: str,
    replicas: int,
    gpu: bool,
    threads: int,
    storage: Storage,
    checkpoints: str,
    least: int | None = None,
    resize_seconds: float = 60.0,
) -> None:
    """A data-parallel training under Ray Train: `worker` in a process per replica, torch.distributed between them.

    A replica that dies, or Ray Train's controller, makes all begin again from the training's own checkpoints; after
    `ATTEMPTS` times without a new checkpoint the training is given up, so that one of days may lose any number of
    machines. An error that a replica raises would be raised again, so it ends the training at once. Ray Train would
    repeat both; the attempts are counted here for that reason. Machines that their provider takes back with a warning
    don't count. Needs `connect`; nothing else of this job may hold placement groups meanwhile.

    Args:
        worker: sent to the replicas, so whatever it refers to should be small.
        name: of the training, for messages.
        least: with fewer than `replicas`, the training begins and goes on with as many as there is room for, down to
            `least`: `worker` must be able to go on from what another number of replicas left. Default: `replicas`.
        resize_seconds: between two looks whether there is room for another number; if so all begin again with it.
        gpu: one for each replica; else one CPU each.
        threads: of a replica's numerical libraries.
        storage: the run's output; Ray Train's own files go below `_work/ray_train`.
        checkpoints: the training's folder in it. Every `latest.json` below it says where the training stands.

    Raises:
        RaymedltError: what a replica raised, or that replicas kept dying.
    """
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import TrainingFailedError

    room = (least if least is not None else replicas, replicas)
    failed: TrainingFailedError | RayActorError
    in_vain, attempt = 0, 0
    stood = _stands(storage, checkpoints)
    while in_vain < ATTEMPTS:
        try:
            _fit(worker, f"{content_hash(storage.uri, name)}-{attempt}", room, resize_seconds, gpu, threads, storage)
            return
        except (TrainingFailedError, RayActorError) as error:
            own_errors = [each for each in _causes(error) if isinstance(each, RaymedltError)]
            if own_errors:
                raise own_errors[0] from None
            failed = error
        _release()
        stands = _stands(storage, checkpoints)
        in_vain, attempt, stood = in_vain + 1 if stands == stood else 0, attempt + 1, stands
    kinds = ", ".join(sorted(set(map(_kind, _causes(failed))))) or type(failed).__name__
    raise RaymedltError(
        f"training '{name}': Ray Train gave up after {ATTEMPTS} attempts without a new checkpoint ({kinds})",
        "replicas that live long enough for one checkpoint",
        f"look at Ray's logs, give fewer replicas if memory is short, and give {same_command()} again to go on",
    ) from failed


def _release() -> None:
    """Give back what a failed attempt had reserved, and with it end the replicas that are left.

    Ray Train forgets its placement group when a replica dies while it starts, or when its controller does: then as many
    attempts as there is room for would each keep their share, and the next would wait for ever.
    """
    from ray import PlacementGroupID
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.runtime_context import get_runtime_context
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    own = get_runtime_context().get_job_id()
    for packed in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(packed)
        if group.creator_job_id.hex() == own and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _stands(storage: Storage, checkpoints: str) -> dict[str, bytes]:
    """What the latest checkpoints say; differs when there is a new one."""
    names = [name for name in storage.list_files(checkpoints) if name.endswith(f"/{LATEST}")]
    return {name: storage.read_bytes(name) for name in names}


def _fit(
    worker: Callable[[], None],
    name: str,
    room: tuple[int, int],
    resize_seconds: float,
    gpu: bool,
    threads: int,
    storage: Storage,
) -> None:
    """One attempt: until the training is done or a replica dies."""
    from ray.train import CheckpointConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    environment = worker_environment() | {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # what a library prints and catches itself would be logged

    class Trainer(TorchTrainer):  # type: ignore[misc]
        """Without the actor that asks for the controller's state every second, and without a handler of Ctrl-C.

        That actor gives back what a dead controller had reserved, as `_release` does, and complains all the time where
        there is no dashboard or more than one Ray.
        """

        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()
            return [each for each in made if type(each).__name__ != "PlacementGroupCleanerCallback"]

        def _register_sigint_handler(self, controller: Any) -> None:
            """Not Ray's, which ends with exit code 0 and stays after the training: see `runtime.graceful_stop`."""

    def replica() -> None:
        from ray.train.v2._internal.execution import context  # its logger is named by its file

        for logger in (*map(logging.getLogger, _TALKATIVE), context.logger):
            logger.setLevel(logging.ERROR)
        check_worker()
        try:
            worker()
        except RaymedltError:
            raise
        except Exception as error:  # Ray Train logs it with its message
            raise ReplicaFailed(without_message("a replica", error).got) from None

    trainer = Trainer(
        replica,
        scaling_config=ScalingConfig(
            num_workers=room[1] if room[0] == room[1] else room,
            use_gpu=gpu,
            resources_per_worker=needs_of_replica(gpu),
            elastic_resize_monitor_interval_s=resize_seconds,
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=storage.path("_work/ray_train"),
            storage_filesystem=None if storage.is_local else storage.filesystem,
            worker_runtime_env={"env_vars": environment},
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),  # the job says what is worth saying
        ),
    )  # fmt: skip
    trainer.fit()


def needs_of_replica(gpu: bool) -> dict[str, float]:
    """Resources of a replica for the scheduler; with a GPU it goes to a node for trainings, where there is one."""
    if not gpu:
        return {"CPU": 1.0}
    return {"CPU": 1.0, "GPU": 1.0} | ({TRAINING: 0.001} if TRAINING in capacity() else {})


def _kind(error: BaseException) -> str:
    return str(error) if isinstance(error, ReplicaFailed) else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that replicas raised, inside Ray's."""
    failures = getattr(error, "worker_failures", None) or {}
    for each in [*failures.values(), error.__cause__]:
        if each is not None:
            yield each
            cause = getattr(each, "cause", None) or each.__cause__
            if cause is not None:
                yield cause
