"""Rewards computed while the next rollouts are generated: in threads, or in Ray actors on any machine of a cluster.

    with RayRewardPool(Rewards(("cluster_f1_strict", "format_reward"), "out/model"), most=4) as pool:
        tickets = []
        for prompts, references in micro_batches:
            tickets += pool.submit(generate(prompts), references)
        rewards = pool.gather(tickets, seconds=60)

A pool changes when rewards are computed, never what they are: values are equal to the bit for threads and actors,
whatever the number of workers and the batches, and after a worker was killed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol, Self

from raymedlt.alignment.dispatch import Answered, Died, Dispatcher, Event, PoolFigures, Ready, Tell
from raymedlt.alignment.reading import Given
from raymedlt.alignment.scheduler import PoolSettings
from raymedlt.alignment.scoring import Answer, Rewards, Score, Values, answer, as_data, made
from raymedlt.cpus import use_threads
from raymedlt.errors import RaymedltError
from raymedlt.runtime import worker_environment

__all__ = ["PoolFigures", "PoolSettings", "RayRewardPool", "RewardPool", "Rewards", "Score", "ThreadRewardPool"]

_JOIN_SECONDS = 1.0


class RewardPool(Protocol):
    """Scores completions beside the loop that makes them. A context manager, which closes."""

    def submit(self, completions: Sequence[str], references: Sequence[Given]) -> list[int]:
        """Have completions scored. Returns at once.

        Returns:
            A ticket for each.

        Raises:
            InputError: not one reference for each completion.
            RaymedltError: the rewards can't be made, all workers are dead, or the pool is closed.
        """
        ...

    def gather(self, tickets: Sequence[int], seconds: float | None = None) -> list[Values | None]:
        """What completions are worth, in the order of their tickets. A ticket can be gathered once.

        Args:
            seconds: to wait at most; None: as long as it takes.

        Returns:
            For each a value per reward; None for a completion that wasn't scored in time, or that is given up (see
            `scheduler`). Values within may be None as well: see `rewards`.

        Raises:
            InputError: an unknown ticket.
            RaymedltError: what a reward raised, in its own class; another exception comes without its message, which
                might quote a report. All that were scored in the same batch share the error. Or one of those of
                `submit`, if a ticket isn't settled. The tickets stay valid.
        """
        ...

    def figures(self) -> PoolFigures:
        """Totals; take differences for those of a step."""
        ...

    def close(self) -> None:
        """End the workers. What was scored can still be gathered."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class ThreadRewardPool(Dispatcher):
    """Threads of this process, for runs too small to be worth starting Ray. A thread that hangs can't be killed: it is
    left alone, and another takes its place."""

    def __init__(self, make: Callable[[], Score], workers: int = 1, settings: PoolSettings | None = None) -> None:
        """Args:
        make: called once in each thread, for instance a `Rewards`.
        """
        super().__init__(_Threads(make), settings or PoolSettings(), workers, workers)


class RayRewardPool(Dispatcher):
    """Ray actors, which end with the process that made the pool. Needs `runtime.connect`."""

    def __init__(
        self,
        make: Callable[[], Score],
        least: int = 1,
        most: int = 2,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        settings: PoolSettings | None = None,
    ) -> None:
        """Args:
        make: called once in each actor, for instance a `Rewards`; travels through the object store.
        least, most: actors. There are more while completions wait, see `PoolSettings`.
        cpus_per_worker, gpus_per_worker: logical resources of an actor, for Ray's scheduler.

        Raises:
            RaymedltError: no connection to Ray.
        """
        super().__init__(_Actors(make, cpus_per_worker, gpus_per_worker), settings or PoolSettings(), least, most)


class _Threads:
    def __init__(self, make: Callable[[], Score]) -> None:
        self._make = make
        self._jobs: dict[int, SimpleQueue[Any]] = {}
        self._threads: list[threading.Thread] = []

    def start(self, worker: int, tell: Tell) -> None:
        jobs = self._jobs[worker] = SimpleQueue()
        thread = threading.Thread(target=_work, args=(self._make, jobs, worker, tell), name="reward", daemon=True)
        thread.start()
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def send(self, worker: int, batch: int, completions: Sequence[str], references: Sequence[Given]) -> None:
        self._jobs[worker].put((batch, completions, references))

    def stop(self, worker: int) -> None:
        if (jobs := self._jobs.pop(worker, None)) is not None:
            jobs.put(None)

    def close(self) -> None:
        for jobs in self._jobs.values():
            jobs.put(None)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)


def _work(make: Callable[[], Score], jobs: SimpleQueue[Any], worker: int, tell: Tell) -> None:
    """A thread: makes the score and answers until it gets None."""

    use_threads(1)  # of this thread alone, as in an actor: sums of floats depend on how threads cut them
    try:
        score, error = made(make)
        tell(Ready(worker, error))
        while score is not None and (job := jobs.get()) is not None:
            batch, completions, references = job
            tell(Answered(worker, batch, answer(score, completions, references)))
    except BaseException:  # a death, as SystemExit is for a process
        tell(Died(worker))


class _Actors:
    def __init__(self, make: Callable[[], Score], cpus: float, gpus: float) -> None:
        import ray

        if not ray.is_initialized():
            raise RaymedltError("no connection to Ray", "runtime.connect", "connect first, or use ThreadRewardPool")
        options: dict[str, Any] = {
            "num_cpus": cpus,
            "max_restarts": 0,  # the scheduler starts another one, and counts
            "runtime_env": {"env_vars": worker_environment()},
        }
        if gpus:
            options["num_gpus"] = gpus
        self._actor = ray.remote(**options)(_Actor)
        self._make = ray.put(make)
        self._actors: dict[int, tuple[Any, Tell]] = {}

    def start(self, worker: int, tell: Tell) -> None:
        actor = self._actor.remote()
        self._actors[worker] = actor, tell
        _when_done(actor.load.remote(self._make), lambda error: Ready(worker, error), worker, tell)

    def send(self, worker: int, batch: int, completions: Sequence[str], references: Sequence[Given]) -> None:
        actor, tell = self._actors[worker]
        scored = actor.score.remote(completions, references)
        _when_done(scored, lambda result: Answered(worker, batch, result), worker, tell)

    def stop(self, worker: int) -> None:
        import ray

        if worker in self._actors:
            with contextlib.suppress(Exception):  # Ray is gone
                ray.kill(self._actors.pop(worker)[0])

    def close(self) -> None:
        for worker in list(self._actors):
            self.stop(worker)


def _when_done(result: Any, event: Callable[[Any], Event], worker: int, tell: Tell) -> None:
    """Tell the event of a result when it is there, or the actor's death."""

    def done(future: Future[Any]) -> None:
        import ray.exceptions

        try:
            tell(event(future.result()))
        except ray.exceptions.RayTaskError as error:  # `make` can't be unpickled there: nor in any other actor
            tell(Ready(worker, as_data(error, "starting a reward worker")))
        except BaseException:
            tell(Died(worker))

    result.future().add_done_callback(done)


class _Actor:
    """One worker process. Errors travel as data, since Ray would log them with their text."""

    def load(self, make: Callable[[], Score]) -> bytes:
        self._score, error = made(make)
        return error

    def score(self, completions: Sequence[str], references: Sequence[Given]) -> Answer:
        assert self._score is not None
        return answer(self._score, completions, references)
