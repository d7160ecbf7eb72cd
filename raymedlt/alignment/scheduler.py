"""Which reward worker gets what, when it is given up, and how many there are. No threads, no Ray; the time is given.

* A worker gets up to `batch` completions at a time, and fewer where that lets all workers have some. It may have a
  second batch waiting, so that it isn't idle between two.
* While all that waits would take less than `worth_seconds` it isn't sent, unless somebody waits for it: the calls would
  cost more than they hide.
* The worker with the least left to do gets the next batch. What a batch takes is estimated by its characters, from the
  batches before.
* What was being scored when a worker died is tried again, each completion alone, so that one that kills its worker
  takes no others with it. After `ATTEMPTS` deaths it is given up.
* A place whose workers die `BREAKER` times in a row isn't filled again. A death doesn't count if a completion was given
  up for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from raymedlt.alignment.reading import Given
from raymedlt.errors import ConfigError

ATTEMPTS = 3
"""Deaths after which a completion is given up: it may be what kills."""
BREAKER = 3
"""Deaths in a row, without a finished batch, after which a place isn't filled again."""
_OUTSTANDING = 2
_PRIOR = 1e-4  # seconds per character, until the first batch is finished
_KEPT = 0.9  # how much of the average stays at each batch


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How a pool of reward workers works. None of it changes a value."""

    batch: int = 32
    """Completions scored by one call, at most."""
    remembered: int = 20_000
    """Pairs of completion and reference whose values are kept, with their texts; the latest."""
    worth_seconds: float = 0.005
    """What would take less than this, all together, is held back until somebody waits for it."""
    hung_seconds: float = 120.0
    """A batch that takes longer has its worker killed. Its completions are tried again, each alone; one that takes
    longer alone is given up."""
    start_seconds: float = 600.0
    """A worker that isn't ready after that counts as dead: a cluster may have to start a machine for it first."""
    grow_seconds: float = 5.0
    """One worker more when the others would need longer for what is waiting."""
    idle_seconds: float = 60.0
    """A worker with nothing to do for so long is ended, down to the least number."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.remembered < 0:
            raise ConfigError(
                f"batch {self.batch}, remembered {self.remembered}", "batch >= 1 and remembered >= 0", "correct them"
            )
        if self.worth_seconds < 0:
            raise ConfigError(f"worth_seconds {self.worth_seconds}", "at least 0", "correct it")
        if not min(self.hung_seconds, self.start_seconds, self.grow_seconds, self.idle_seconds) > 0:
            raise ConfigError("a time limit of 0 seconds or less", "more than 0", "correct it")


@dataclass(eq=False, slots=True)
class Item:
    """A pair of completion and reference to be scored, once for all who ask for it."""

    key: Hashable
    completion: str
    reference: Given
    submitted: float
    tickets: list[int]
    """Who waits for it. One that nobody waits for any more isn't begun."""
    deaths: int = 0


@dataclass(eq=False, slots=True)
class Batch:
    """Items that one call scores."""

    number: int
    items: list[Item]
    since: float
    """When its worker came to it."""

    @property
    def characters(self) -> int:
        return sum(len(item.completion or "") + 1 for item in self.items)


@dataclass(eq=False, slots=True)
class _Worker:
    number: int
    place: int
    since: float
    """When it was started, became ready, or finished its latest batch."""
    ready: bool = False
    batches: deque[Batch] = field(default_factory=deque)


class Scheduler:
    """The workers and their queue. A worker has a number of its own; a new one in the same place has another."""

    deaths: int
    """Workers that died, hung or didn't get ready."""
    restarts: int
    """Workers started in their stead."""
    hurry: int
    """Callers that wait for values."""

    def __init__(self, settings: PoolSettings, least: int, most: int) -> None:
        """Args:
        least, most: workers.

        Raises:
            ConfigError: not 1 <= least <= most.
        """
        if not 1 <= least <= most:
            raise ConfigError(f"{least} to {most} reward workers", "1 <= least <= most", "correct the numbers")
        self._settings, self._least = settings, least
        self._wanted = least
        self._deaths_in_a_row = [0] * most
        self._workers: dict[int, _Worker] = {}
        self._queue: deque[Item] = deque()
        self._suspects: deque[Item] = deque()
        self._numbers = self._vacant = self.deaths = self.restarts = self.hurry = 0
        self._seconds = self._characters = 0.0

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return sum(bool(item.tickets) for item in (*self._suspects, *self._queue))

    @property
    def workers(self) -> int:
        """Workers, ready or starting."""
        return len(self._workers)

    @property
    def all_dead(self) -> bool:
        """Whether no worker is left and none will be started."""
        return not self._workers and self._free_place() is None

    def add(self, item: Item) -> None:
        """Into the queue."""
        self._queue.append(item)

    def ready(self, number: int, now: float) -> None:
        """A worker can be given work."""
        if number in self._workers:
            self._workers[number].ready, self._workers[number].since = True, now

    def answered(self, number: int, batch: int, seconds: float, now: float) -> Batch | None:
        """The batch that a worker finished; None if it had been taken from it."""
        worker = self._workers.get(number)
        done = next((each for each in worker.batches if each.number == batch), None) if worker else None
        if worker is None or done is None:
            return None
        worker.batches.remove(done)
        worker.since = now
        if worker.batches:
            worker.batches[0].since = now
        self._deaths_in_a_row[worker.place] = 0
        self._seconds = _KEPT * self._seconds + seconds
        self._characters = _KEPT * self._characters + done.characters
        return done

    def died(self, number: int, *, hung: bool = False) -> list[Item]:
        """A worker is no more. Gives the items that are given up for it."""
        worker = self._workers.pop(number, None)
        if worker is None:
            return []
        self.deaths += 1
        self._vacant += 1
        given_up = []
        while len(worker.batches) > 1:  # those it hadn't begun have nothing to do with it
            for item in reversed(worker.batches.pop().items):
                (self._suspects if item.deaths else self._queue).appendleft(item)
        suspects = worker.batches[0].items if worker.batches else []
        for item in suspects:
            item.deaths += 1
            if item.deaths >= ATTEMPTS or (hung and len(suspects) == 1):
                given_up.append(item)
            else:
                self._suspects.append(item)
        if not given_up:
            self._deaths_in_a_row[worker.place] += 1
        return given_up

    def expired(self, now: float) -> list[int]:
        """Workers whose batch takes too long, or that don't get ready."""
        return [number for number, worker in self._workers.items() if now >= self._limit(worker)]

    def staff(self, now: float) -> tuple[list[int], list[int]]:
        """Workers to start, and idle ones to end; both are entered already."""
        self._resize(now)
        started: list[int] = []
        while len(self._workers) < self._wanted and (place := self._free_place()) is not None:
            self._numbers += 1
            self._workers[self._numbers] = _Worker(self._numbers, place, now)
            started.append(self._numbers)
            if self._vacant:
                self._vacant -= 1
                self.restarts += 1
        ended = []
        while len(self._workers) > self._wanted:
            ended.append(self._idle(now)[-1])
            del self._workers[ended[-1]]
        return started, ended

    def _resize(self, now: float) -> None:
        ready = [worker for worker in self._workers.values() if worker.ready]
        if len(ready) == len(self._workers) == self._wanted < len(self._deaths_in_a_row):
            backlog = sum(self._left(worker, now) for worker in ready)
            backlog += self._waiting_seconds()
            if backlog > self._settings.grow_seconds * len(ready) and self._free_place() is not None:
                self._wanted += 1
                return
        if not self._queue and not self._suspects:
            self._wanted = max(self._least, self._wanted - len(self._idle(now)))

    def unwanted(self) -> list[Item]:
        """Takes items that nobody waits for out of the queue."""
        dropped = [item for item in (*self._suspects, *self._queue) if not item.tickets]
        if dropped:
            self._suspects = deque(item for item in self._suspects if item.tickets)
            self._queue = deque(item for item in self._queue if item.tickets)
        return dropped

    def assign(self, now: float) -> list[tuple[int, Batch]]:
        """Batches for the workers that have room, as (worker, batch); they are entered already."""
        if self._characters and not self.hurry and self._waiting_seconds() < self._settings.worth_seconds:
            return []
        ready = [worker for worker in self._workers.values() if worker.ready]
        share = min(self._settings.batch, math.ceil(len(self._queue) / max(1, len(ready))))
        assigned = []
        while self._suspects or self._queue:
            free = [worker for worker in ready if self._has_room(worker, now)]
            if self._suspects:
                free = [worker for worker in free if not worker.batches]
            if not free:
                break
            worker = min(free, key=lambda each: (bool(each.batches), self._left(each, now), each.number))
            if self._suspects:
                items = [self._suspects.popleft()]
            else:
                items = [self._queue.popleft() for _ in range(min(share, len(self._queue)))]
            self._numbers += 1
            batch = Batch(self._numbers, items, now)
            worker.batches.append(batch)
            assigned.append((worker.number, batch))
        return assigned

    def wake_at(self) -> float | None:
        """When there is something to do although nothing happens."""
        times = [self._limit(worker) for worker in self._workers.values()]
        if self._wanted > self._least:
            resting = [each.since for each in self._workers.values() if each.ready and not each.batches]
            times += [since + self._settings.idle_seconds for since in resting]
        return min((each for each in times if each < math.inf), default=None)

    @property
    def _rate(self) -> float:
        """Seconds per character: a moving average."""
        return self._seconds / self._characters if self._characters else _PRIOR

    def _waiting_seconds(self) -> float:
        """What one worker would need for the queue."""
        return self._rate * sum(len(item.completion or "") + 1 for item in (*self._suspects, *self._queue))

    def _left(self, worker: _Worker, now: float) -> float:
        """Seconds until a worker has done what it has; a batch that is overdue is expected to take as long again."""
        estimates = [self._rate * batch.characters for batch in worker.batches]
        if estimates:
            estimates[0] = abs(estimates[0] - (now - worker.batches[0].since))
        return sum(estimates)

    def _has_room(self, worker: _Worker, now: float) -> bool:
        """A batch must not wait behind one that seems to hang. Nor behind a suspect: the answer of what was finished
        just before a death may be lost, and then the wrong one would be blamed."""
        if not worker.batches:
            return True
        first = worker.batches[0]
        if first.items[0].deaths:
            return False
        overdue = now - first.since > 0.5 + 2 * self._rate * first.characters
        return len(worker.batches) < _OUTSTANDING and not overdue

    def _limit(self, worker: _Worker) -> float:
        if not worker.ready:
            return worker.since + self._settings.start_seconds
        return worker.batches[0].since + self._settings.hung_seconds if worker.batches else math.inf

    def _idle(self, now: float) -> list[int]:
        """Workers with nothing to do for some time, the youngest last."""
        since = now - self._settings.idle_seconds
        return [
            worker.number
            for worker in self._workers.values()
            if worker.ready and not worker.batches and worker.since <= since
        ]

    def _free_place(self) -> int | None:
        taken = {worker.place for worker in self._workers.values()}
        rows = enumerate(self._deaths_in_a_row)
        free = [(deaths, place) for place, deaths in rows if place not in taken and deaths < BREAKER]
        return min(free)[1] if free else None
