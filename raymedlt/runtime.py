"""Ray for a job: connect to a cluster or start a local one, stop cleanly, and run shards on worker processes.

Workers get one thread each for numerical libraries, whatever their number: sums of floats depend on how threads cut
them, and results must not depend on `workers`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from raymedlt.again import same_command
from raymedlt.cpus import cpus
from raymedlt.errors import InterruptedRun, RaymedltError
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.nodes import capacity, pools, refuse_other_versions, refused_by_ray
from raymedlt.progress import Progress
from raymedlt.shards import ShardFunction, answer, given, pending_of, run_shards_locally, summaries_of
from raymedlt.versions import DRIVER, tell_workers, versions_here

__all__ = [
    "ATTEMPTS",
    "ONE_THREAD",
    "Cluster",
    "ShardFunction",
    "connect",
    "graceful_stop",
    "private_by_default",
    "run_shards",
    "run_shards_locally",
    "worker_deaths",
    "worker_environment",
]

ATTEMPTS = 6
"""How often a shard is tried when its worker process dies; a shard that kills every worker must not run for ever."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of worker processes: results don't depend on the number of workers."""

_PRIVATE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_GIGABYTE = 1024**3


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the run was connected to, for the report."""

    cpus: float
    """Logical CPUs that it has or may come to have; a local Ray is given more than the machine has (see `connect`)."""
    gpus: float
    """GPUs that it has or may come to have (see `nodes.capacity`)."""
    nodes: int
    """Nodes at this moment."""
    grows: bool
    """Whether more nodes may come."""
    started: bool
    """Whether a local Ray was started for this run."""
    seconds: float
    """Time to connect or start."""


def private_by_default() -> None:
    """Keep Hugging Face libraries offline and Ray's usage statistics off, unless the user set these variables.

    To be called before the first import of transformers, which reads them once.
    """
    for name, value in _PRIVATE.items():
        os.environ.setdefault(name, value)


def worker_environment() -> dict[str, str]:
    """Environment variables for worker processes: one thread each, and as private as this process."""
    return ONE_THREAD | {name: os.environ[name] for name in (*_PRIVATE, DRIVER) if name in os.environ}


@contextlib.contextmanager
def connect(workers: int, *, address: str | None = None) -> Iterator[Cluster]:
    """Connect to Ray, and leave it as it was found.

    Uses, in this order: the Ray this process is connected to already; the cluster at `address`; the one that
    RAY_ADDRESS names (set inside a Ray job); a local Ray, started here and stopped at the end. That one listens with
    token authentication, without a dashboard, and has at least two CPUs more (logically) than `workers`, since
    Ray Data waits for ever, without an error, when its actors hold every CPU.

    On a cluster that was there before, every node must have the driver's versions of what decides results: it is asked
    now, and worker processes look again when they begin, since other nodes may join later.

    Args:
        workers: worker processes that the run will use, at least 1.
        address: of a cluster, as `ray.init` takes it.

    Raises:
        VersionError: the cluster or one of its nodes has other versions than this process.
    """
    import ray

    began = time.monotonic()
    private_by_default()
    found = ray.is_initialized()
    address = address or os.environ.get("RAY_ADDRESS")
    if not found:
        with _signals_kept():
            if address:
                try:
                    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=True)
                except RuntimeError as error:
                    ray.shutdown()  # it is half connected
                    raise refused_by_ray(error) or error from None
            else:
                # Ray turns token authentication on by itself and warns of it. RAY_AUTH_MODE can't be set here to say
                # the same: Ray read it when it was imported, and would start servers that look for a missing token.
                logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
                ray.init(
                    address="local",
                    num_cpus=max(4, workers + 2, cpus()),
                    include_dashboard=False,
                    object_store_memory=_object_store_bytes(),
                    logging_level=logging.WARNING,
                    log_to_driver=True,
                )
    try:
        _quiet_ray_data()
        if address and not found:
            refuse_other_versions()
            os.environ[DRIVER] = tell_workers(versions_here())
        resources = capacity()
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        yield Cluster(
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            nodes=nodes,
            grows=bool(pools()),
            started=not found and not address,
            seconds=time.monotonic() - began,
        )
    finally:
        if not found:
            os.environ.pop(DRIVER, None)
            ray.shutdown()


class _Stopped(KeyboardInterrupt):
    """A signal came. No Exception: what expects anything of a library must not take it for the library's.

    And of KeyboardInterrupt's kind: the only one that Ray's own waiting lets through at once (`check_signals` in
    _raylet.pyx drops all others, and goes on to wait).
    """


@contextlib.contextmanager
def graceful_stop() -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into InterruptedRun, raised in the main thread; the second one kills.

    Inside, it is no Exception, and whatever a library makes of it, it is InterruptedRun in the end. May be entered
    before or after `connect`. In another thread than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def first(number: int, frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        came.append(number)
        raise _Stopped

    handled = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.signal(each, first) for each in handled}
    try:
        yield
    except BaseException:
        if not came:
            raise
        raise InterruptedRun(
            f"stopped by {signal.Signals(came[0]).name}", "", f"give {same_command()} again: finished work is kept"
        ) from None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def run_shards(
    stage: str,
    shards: Sequence[str],
    function: ShardFunction | None,
    *,
    progress: Progress,
    workers: int,
    ledger: Ledger,
    actor_factory: Callable[[], ShardFunction] | None = None,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float = 0.0,
    unit: str = "shards",
    units: Callable[[str], int] | None = None,
) -> dict[str, dict[str, Any]]:
    """Do every shard that isn't done yet through Ray Data, on at most `workers` processes at a time.

    Needs `connect`. A worker that dies (killed, out of memory, its node reclaimed) is replaced and its shard tried
    again, `ATTEMPTS` times at most. It can't wait for ever for CPUs: there are no read tasks beside the workers, and a
    pool of actors begins to work with the first one that finds a place.

    Args:
        stage: of the ledger; also what the progress shows.
        shards: names of all the stage's shards, done or not.
        function: does one shard and commits it; sent to the workers, so whatever it refers to should be small.
        actor_factory: instead of `function`: called once in each worker process to make the function; for what is
            slow to load, such as a model.
        cpus_per_worker, gpus_per_worker: logical resources of a worker, for the scheduler.
        unit, units: what the progress counts, and how many of them a shard holds; default one shard.

    Returns:
        The summary of every shard, in the order of `shards`.

    Raises:
        RaymedltError: what the function raised, in its own class. Any other exception of the function comes as a
            RaymedltError that names type and place but not its message, which might quote a report.
        RunConflictError: another driver took the folder over.
    """
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    pending = pending_of(stage, shards, progress, ledger)
    if not pending:
        return summaries_of(stage, shards, ledger)
    handle = ledger.worker()
    options: dict[str, Any] = {
        "num_cpus": cpus_per_worker,
        "runtime_env": {"env_vars": worker_environment()},
    }
    if gpus_per_worker:
        options["num_gpus"] = gpus_per_worker
    # One block per shard, so that a shard is a task of its own.
    dataset = ray.data.from_items([{"shard": name} for name in pending], override_num_blocks=len(pending))
    count = min(workers, len(pending))
    with warnings.catch_warnings():
        # Ray 2.60 calls retry limits deprecated as arguments of map() and has no other place for them yet.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        if actor_factory is not None:
            dataset = dataset.map(
                _Actor,
                fn_constructor_args=(stage, handle, actor_factory),
                compute=ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
                max_restarts=-1,
                max_task_retries=ATTEMPTS - 1,
                **options,
            )
        else:
            dataset = dataset.map(
                _task(stage, handle, given(function)),
                compute=TaskPoolStrategy(size=count),
                max_retries=ATTEMPTS - 1,
                **options,
            )
    size = units or (lambda name: 1)
    with progress.stage(stage, total=sum(map(size, pending)), unit=unit) as advance, worker_deaths(stage):
        # Without prefetching, so that progress and errors are seen when they come, not one shard later.
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                if row["error"]:
                    raise pickle.loads(row["error"])
                ledger.check_lock()
                advance(size(row["shard"]))
    return summaries_of(stage, shards, ledger)


def _task(stage: str, handle: LedgerHandle, function: ShardFunction) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def do_shard(row: dict[str, Any]) -> dict[str, Any]:
        return answer(stage, row["shard"], handle, function)

    return do_shard


class _Actor:
    def __init__(self, stage: str, handle: LedgerHandle, factory: Callable[[], ShardFunction]) -> None:
        self._stage, self._handle, self._factory = stage, handle, factory
        self._function: ShardFunction | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        def function(shard: str) -> dict[str, Any]:
            if self._function is None:  # here and not in __init__, so that its errors too travel as data
                self._function = self._factory()
            return self._function(shard)

        return answer(self._stage, row["shard"], self._handle, function)


@contextlib.contextmanager
def worker_deaths(stage: str) -> Iterator[None]:
    """Say in our own words that Ray gave up on a stage whose workers kept dying (RaymedltError)."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, RaymedltError):
            raise error.cause from None
        raise RaymedltError(
            f"stage '{stage}': Ray gave up ({type(error).__name__}) after {ATTEMPTS} attempts at a shard",
            "worker processes that live long enough to finish one shard",
            f"give fewer workers if memory is short, look at Ray's logs, and give {same_command()} again to go on",
        ) from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """ray.init replaces the handler of SIGTERM; put back what `graceful_stop` had installed.

    Ray's own leaves by SystemExit: a signal while it starts is handed to the one that was there before.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _object_store_bytes() -> int:
    """A fifth of the memory, at most 2 GB: shards travel through storage, not through the object store."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(100 * 1024**2, min(2 * _GIGABYTE, memory // 5))


def _quiet_ray_data() -> None:
    """Progress is ours to show: Ray Data's bars, plans, statistics and advice stay out of the job's log."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.verbose_stats_logs = False
    context.issue_detectors_config.detectors = []  # they advise on the program's code, every half minute
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that the bars are off
