"""Rewards on request, whoever computes them: tickets, equal pairs, deadlines and errors. No Ray.

A ticket is settled once: with values, as failed, or late when its deadline passes first. Completions with equal text
and equal reference are scored once; the scheduler (see there) says by which worker.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, Self

from raymedlt.alignment.reading import Given, check_lengths
from raymedlt.alignment.scheduler import BREAKER, Batch, Item, PoolSettings, Scheduler
from raymedlt.alignment.scoring import Answer, Values, as_data
from raymedlt.errors import InputError, RaymedltError


class Ready(NamedTuple):
    """A worker has loaded its rewards, or can't."""

    worker: int
    error: bytes = b""
    """A pickled RaymedltError, if it can't; no other worker will then."""


class Answered(NamedTuple):
    """A worker has finished a batch."""

    worker: int
    batch: int
    answer: Answer


class Died(NamedTuple):
    """A worker is no more."""

    worker: int


Event = Ready | Answered | Died
Tell = Callable[[Event], None]


class Workers(Protocol):
    """Something that runs scores. No call waits; what comes of it is told later, from any thread."""

    def start(self, worker: int, tell: Tell) -> None:
        """Start a worker; it tells `Ready`, and later `Died` if it dies."""

    def send(self, worker: int, batch: int, completions: Sequence[str], references: Sequence[Given]) -> None:
        """Have a batch scored, after those sent before; the worker tells `Answered`."""

    def stop(self, worker: int) -> None:
        """Kill a worker, whatever it does, dead ones too. What it tells afterwards isn't heard."""

    def close(self) -> None:
        """Kill all workers."""


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """What a pool did since it was made: submitted = scored + shared + late + failed + pending."""

    submitted: int = 0
    """Completions."""
    scored: int = 0
    """Completions with values that were computed for them."""
    shared: int = 0
    """Completions with the values of an equal pair, which was waiting, being scored, or is remembered."""
    late: int = 0
    """Completions given as None, since they weren't scored in time."""
    failed: int = 0
    """Completions without values for good: given up after deaths of workers, or the reward raised an error."""
    pending: int = 0
    """Completions not settled, now."""
    deaths: int = 0
    """Workers that died, hung or didn't get ready."""
    restarts: int = 0
    """Workers started in their stead."""
    batches: int = 0
    """Batches finished."""
    reward_seconds: float = 0.0
    """Time that workers spent on finished batches, added up."""
    queue_seconds: float = 0.0
    """Time between submission and beginning of scoring, added up over the completions that were computed."""
    waiting: int = 0
    """Distinct pairs in the queue, now."""
    workers: int = 0
    """Now, those that are starting included."""
    hits: int = 0
    """Sentences that the workers' cluster maps remembered."""
    misses: int = 0
    """Sentences that they had to embed."""


class _Failure(NamedTuple):
    """Why a completion has no values: a pickled error, or nothing if it was given up."""

    error: bytes = b""


class Dispatcher:
    """The core of the reward pools; see `pool.RewardPool` for the calls. Its thread is named "rewards"."""

    def __init__(self, workers: Workers, settings: PoolSettings, least: int, most: int) -> None:
        """Args:
        least, most: workers.
        """
        self._workers, self._settings = workers, settings
        self._scheduler = Scheduler(settings, least, most)
        self._changed = threading.Condition()
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._tickets = 0
        self._pending: dict[int, Item] = {}
        self._settled: dict[int, Values | _Failure] = {}
        self._open: dict[Hashable, Item] = {}
        self._remembered: OrderedDict[Hashable, Values] = OrderedDict()
        self._totals = PoolFigures()
        self._broken = b""  # a pickled error that ends it all
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rewards", daemon=True)
        self._thread.start()

    def submit(self, completions: Sequence[str], references: Sequence[Given]) -> list[int]:
        """See `pool.RewardPool`."""
        check_lengths(completions, references)
        now = time.monotonic()
        with self._changed:
            self._must_work()
            pairs = zip(completions, references, strict=True)
            tickets = [self._enter(completion, reference, now) for completion, reference in pairs]
            self._count(submitted=len(tickets))
        self._events.put(None)
        return tickets

    def gather(self, tickets: Sequence[int], seconds: float | None = None) -> list[Values | None]:
        """See `pool.RewardPool`."""
        with self._changed:
            self._must_know(tickets)
            if not self._over(tickets):
                self._wait(tickets, seconds)
            self._must_know(tickets)  # another thread may have taken them
            self._raise_error(tickets)
            return [self._given(ticket) for ticket in tickets]

    def _wait(self, tickets: Sequence[int], seconds: float | None) -> None:
        self._scheduler.hurry += 1
        self._events.put(None)
        try:
            self._changed.wait_for(lambda: self._over(tickets), seconds)
        finally:
            self._scheduler.hurry -= 1

    def figures(self) -> PoolFigures:
        """See `pool.RewardPool`."""
        with self._changed:
            plan = self._scheduler
            return replace(
                self._totals, pending=len(self._pending), waiting=plan.waiting, workers=plan.workers,
                deaths=plan.deaths, restarts=plan.restarts,
            )  # fmt: skip

    def close(self) -> None:
        """See `pool.RewardPool`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._events.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _enter(self, completion: str, reference: Given, now: float) -> int:
        self._tickets += 1
        ticket, key = self._tickets, pair_key(completion, reference)
        if key in self._remembered:
            self._remembered.move_to_end(key)
            self._settled[ticket] = self._remembered[key]
            self._count(shared=1)
            return ticket
        item = self._open.get(key)
        if item is None:
            item = self._open[key] = Item(key, completion, reference, now, [])
            self._scheduler.add(item)
        item.tickets.append(ticket)
        self._pending[ticket] = item
        return ticket

    def _must_know(self, tickets: Sequence[int]) -> None:
        unknown = [each for each in tickets if each not in self._pending and each not in self._settled]
        if unknown or len(set(tickets)) < len(tickets):
            raise InputError(
                f"ticket {unknown[0]}, which is unknown" if unknown else "a ticket given twice",
                "tickets that `submit` of this pool gave, each gathered once",
                "keep the values that `gather` gave",
            )

    def _over(self, tickets: Sequence[int]) -> bool:
        """Whether there is nothing to wait for, or nobody who would do it."""
        if all(each in self._settled for each in tickets):
            return True
        return bool(self._error_of(tickets) or self._broken or self._closed or self._scheduler.all_dead)

    def _error_of(self, tickets: Sequence[int]) -> bytes:
        settled = (self._settled.get(each) for each in tickets)
        return next((each.error for each in settled if isinstance(each, _Failure) and each.error), b"")

    def _raise_error(self, tickets: Sequence[int]) -> None:
        if error := self._error_of(tickets):
            raise pickle.loads(error)
        if any(each in self._pending for each in tickets):
            self._must_work()

    def _must_work(self) -> None:
        if self._broken:
            raise pickle.loads(self._broken)
        if self._closed:
            raise RaymedltError("the reward pool is closed", "an open one", "gather before it is closed")
        if self._scheduler.all_dead:
            raise RaymedltError(
                f"all reward workers are dead: in every place {BREAKER} in a row died or didn't get ready",
                "workers that find a place and live long enough to score one batch",
                "give fewer workers if memory or CPUs are short, and look at Ray's logs; what was scored is kept",
            )

    def _given(self, ticket: int) -> Values | None:
        if ticket in self._settled:
            value = self._settled.pop(ticket)
            return None if isinstance(value, _Failure) else value
        self._pending.pop(ticket).tickets.remove(ticket)
        self._count(late=1)
        return None

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._closed:
                        break
                    started, ended, assigned = self._planned()
                    wake_at = self._scheduler.wake_at()
                for worker in ended:
                    self._workers.stop(worker)
                for worker in started:
                    self._workers.start(worker, self._events.put)
                for worker, batch in assigned:
                    items = batch.items
                    texts = [item.completion for item in items]
                    self._workers.send(worker, batch.number, texts, [item.reference for item in items])
                self._listen(wake_at)
        except Exception as error:
            self._break(as_data(error, "the reward pool"))
        finally:
            self._workers.close()

    def _planned(self) -> tuple[list[int], list[int], list[tuple[int, Batch]]]:
        """Workers to start and to stop, and batches to send."""
        now, plan = time.monotonic(), self._scheduler
        hung = plan.expired(now)
        for worker in hung:
            self._settle_failed(plan.died(worker, hung=True))
        for item in plan.unwanted():
            del self._open[item.key]
        started, ended = plan.staff(now)
        if plan.all_dead:
            self._changed.notify_all()
        return started, hung + ended, plan.assign(now)

    def _listen(self, wake_at: float | None) -> None:
        """Wait for something to happen, and take in all that did."""
        try:
            event = self._events.get(timeout=None if wake_at is None else max(0.0, wake_at - time.monotonic()))
            while True:
                with self._changed:
                    self._heard(event)
                event = self._events.get_nowait()
        except Empty:
            pass

    def _heard(self, event: Event | None) -> None:
        now = time.monotonic()
        if isinstance(event, Ready) and event.error:
            self._break(event.error)
        elif isinstance(event, Ready):
            self._scheduler.ready(event.worker, now)
        elif isinstance(event, Died):
            self._settle_failed(self._scheduler.died(event.worker))
            self._workers.stop(event.worker)  # forget it
        elif event is not None:
            batch = self._scheduler.answered(event.worker, event.batch, event.answer.seconds, now)
            if batch is not None:
                self._take(batch, event.answer, now)

    def _take(self, batch: Batch, answer: Answer, now: float) -> None:
        began = max(batch.since, now - answer.seconds)
        waited = sum(max(0.0, began - item.submitted) for item in batch.items)
        self._count(
            batches=1, reward_seconds=answer.seconds, queue_seconds=waited, hits=answer.hits, misses=answer.misses
        )
        if answer.error:
            for item in batch.items:
                self._settle(item, _Failure(answer.error))
            return
        for item, values in zip(batch.items, answer.values, strict=True):
            self._settle(item, values)
            self._remembered[item.key] = values
        while len(self._remembered) > self._settings.remembered:
            self._remembered.popitem(last=False)

    def _settle_failed(self, items: Sequence[Item]) -> None:
        for item in items:
            self._settle(item, _Failure())

    def _settle(self, item: Item, outcome: Values | _Failure) -> None:
        del self._open[item.key]
        for number, ticket in enumerate(item.tickets):
            del self._pending[ticket]
            self._settled[ticket] = outcome
            self._count(**{"failed" if isinstance(outcome, _Failure) else "shared" if number else "scored": 1})
        self._changed.notify_all()

    def _break(self, error: bytes) -> None:
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def _count(self, **more: Any) -> None:
        self._totals = replace(self._totals, **{name: getattr(self._totals, name) + n for name, n in more.items()})


def pair_key(completion: str, reference: Given) -> Hashable:
    """A completion and its reference as a value; what can't be compared by value equals nothing else."""
    try:
        key = completion, frozenset(reference.items()) if isinstance(reference, Mapping) else reference
        hash(key)
    except TypeError:
        return object()
    return key
