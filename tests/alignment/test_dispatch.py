"""The core of the reward pools, on threads: tickets, equal pairs, deadlines, deaths and errors; the scheduler alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from raymedlt.alignment.dispatch import Dispatcher, PoolFigures, pair_key
from raymedlt.alignment.pool import ThreadRewardPool, _Threads
from raymedlt.alignment.reading import Given, Reference
from raymedlt.alignment.scheduler import Batch, Item, PoolSettings, Scheduler
from raymedlt.errors import ConfigError, InputError, RaymedltError

LONG = 60.0
SECRET = "The patient of bed nine"


class Tiny:
    """A score: the texts' lengths. It waits for a gate, remembers what it was asked, and does as some texts say."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.hits = self.misses = 0

    def __call__(self, completions: Sequence[str], references: Sequence[Given]) -> list[tuple[float | None, float]]:
        self.asked.append(list(completions))
        assert self.gate.wait(LONG)
        self.hits += 2
        self.misses += 1
        for text in completions:
            if text == "kill":
                raise SystemExit
            if text == "sleep":
                time.sleep(4)
            if text == "raise":
                raise ValueError(SECRET)
            if text == "refuse":
                raise ConfigError("no such thing", "another", "change it")
            if text == "short":
                return []
        rows = zip(completions, references, strict=True)
        return [(len(text) / 7 if text else None, float(len(str(reference)))) for text, reference in rows]

    @property
    def computed(self) -> list[str]:
        return [text for batch in self.asked for text in batch]


def expected(completions: Sequence[str], references: Sequence[Given]) -> list[tuple[float | None, float]]:
    return Tiny()(completions, references)


def pool_of(score: Tiny, workers: int = 1, **settings: float) -> ThreadRewardPool:
    return ThreadRewardPool(lambda: score, workers, replace(PoolSettings(worth_seconds=0), **settings))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def adds_up(figures: PoolFigures) -> bool:
    parts = figures.scored + figures.shared + figures.late + figures.failed + figures.pending
    return figures.submitted == parts


TEXTS = [f"Sentence {'x' * (n % 13)} {n}." for n in range(50)] + ["", "Clear."]
REFERENCES: list[Given] = [Reference(f"Finding {n}.") if n % 2 else f"Text {n}." for n in range(50)] + [None, {"a": 1}]


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 32), (3, 4), (4, 1)])
def test_values_are_the_same(workers: int, batch: int) -> None:
    with pool_of(Tiny(), workers, batch=batch) as pool:
        began = time.monotonic()
        first = pool.submit(TEXTS[:20], REFERENCES[:20])
        second = pool.submit(TEXTS[20:], REFERENCES[20:])
        assert pool.gather(second + first, LONG) == expected(TEXTS[20:] + TEXTS[:20], REFERENCES[20:] + REFERENCES[:20])
        figures = pool.figures()
    assert adds_up(figures)
    assert (figures.submitted, figures.scored, figures.pending, figures.waiting) == (52, 52, 0, 0)
    assert figures.batches >= 52 / batch
    assert (figures.hits, figures.misses) >= (2 * figures.batches, figures.batches)
    assert 0 < figures.queue_seconds < len(TEXTS) * (time.monotonic() - began)


def test_equal_pairs_are_scored_once() -> None:
    score = Tiny()
    score.gate.clear()
    one, other = Reference("Clear."), Reference("Effusion.")
    with pool_of(score) as pool:
        tickets = pool.submit(["a", "a", "a"], [one, Reference("Clear."), other])
        until(lambda: bool(score.asked))
        tickets += pool.submit(["a", "b"], [one, one])  # in flight; new
        score.gate.set()
        values = pool.gather(tickets, LONG)
        later = pool.gather(pool.submit(["a", "b"], [one, one]), LONG)
        figures = pool.figures()
    assert values == expected(["a", "a", "a", "a", "b"], [one, one, other, one, one])
    assert later == [values[0], values[4]]
    assert sorted(score.computed) == ["a", "a", "b"]
    assert (figures.submitted, figures.scored, figures.shared) == (7, 3, 4)


def test_what_is_remembered_is_bounded() -> None:
    score = Tiny()
    with pool_of(score, remembered=2) as pool:
        for text in ("a", "b", "a", "c", "a", "b"):  # "b" is forgotten for "c"
            pool.gather(pool.submit([text], [None]), LONG)
    assert score.computed == ["a", "b", "c", "b"]


def test_pairs_are_compared_by_value() -> None:
    assert pair_key("a", {"findings": "x", "id": 1}) == pair_key("a", {"id": 1, "findings": "x"})
    assert pair_key("a", Reference("x")) == pair_key("a", Reference("x")) != pair_key("b", Reference("x"))
    assert len({pair_key("a", given) for given in (None, "", "x", Reference("x"), {"findings": "x"})}) == 5
    assert pair_key("a", {"findings": ["x"]}) != pair_key("a", {"findings": ["x"]})  # not hashable: scored anew


def test_a_deadline() -> None:
    score = Tiny()
    with pool_of(score, batch=1) as pool:
        done = pool.submit(["a"], [None])
        until(lambda: pool.figures().scored == 1)
        score.gate.clear()
        late = pool.submit(["bb", "bb", "cc"], [None] * 3)
        until(lambda: len(score.asked) == 2)
        unbegun = pool.submit(["dd"], [None])
        began = time.monotonic()
        assert pool.gather([*done, *late[:1], *unbegun], 0.2) == [*expected(["a"], [None]), None, None]
        assert 0.2 <= time.monotonic() - began < 5
        assert (pool.figures().late, pool.figures().pending) == (2, 2)
        score.gate.set()
        assert pool.gather(late[1:], LONG) == expected(["bb", "cc"], [None] * 2)
        assert pool.gather(pool.submit(["ee"], [None]), LONG) == expected(["ee"], [None])
        assert score.computed == ["a", "bb", "cc", "ee"]  # the one that nobody waits for wasn't begun
        assert pool.gather(pool.submit(["dd"], [None]), LONG) == expected(["dd"], [None])
        figures = pool.figures()
    assert adds_up(figures)
    assert (figures.submitted, figures.scored, figures.late) == (7, 5, 2)


def test_tickets_are_gathered_once() -> None:
    with pool_of(Tiny()) as pool:
        tickets = pool.submit(["a", "b"], [None, None])
        pool.gather(tickets[:1], LONG)
        for unknown in (tickets, [99]):
            with pytest.raises(InputError, match=rf"ticket {unknown[0]}, which is unknown. Expected: tickets that"):
                pool.gather(unknown)
        with pytest.raises(InputError, match="a ticket given twice"):
            pool.gather([tickets[1], tickets[1]])
        assert pool.gather(tickets[1:], LONG) == expected(["b"], [None])
        with pytest.raises(InputError, match="2 completions and 1 references"):
            pool.submit(["a", "b"], [None])
        assert pool.submit([], []) == pool.gather([]) == []


def test_a_poisonous_completion() -> None:
    texts = ["a", "b", "kill", "c"]
    with pool_of(Tiny()) as pool:
        values = pool.gather(pool.submit(texts, [None] * 4), LONG)
        assert values == [*expected(["a", "b"], [None] * 2), None, *expected(["c"], [None])]
        assert pool.gather(pool.submit(["kill"], [None]), LONG) == [None]  # alone, with one worker
        assert pool.gather(pool.submit(["d"], [None]), LONG) == expected(["d"], [None])
        figures = pool.figures()
    assert adds_up(figures)
    assert (figures.deaths, figures.restarts, figures.failed, figures.workers) == (6, 6, 2, 1)


def test_all_dead() -> None:
    with pool_of(Tiny(), 2) as pool:
        first = pool.submit(["a"], [None])
        until(lambda: pool.figures().scored == 1)
        dying = pool.submit(["kill"] * 12, list(range(12)))  # type: ignore[arg-type]
        for call in (lambda: pool.gather(first + dying), lambda: pool.submit(["a"], [None])):
            with pytest.raises(RaymedltError, match="all reward workers are dead: in every place 3 in a row died or"):
                call()
        assert pool.gather(first) == expected(["a"], [None])
        figures = pool.figures()
    assert adds_up(figures)
    assert figures.workers == 0
    assert figures.deaths == figures.restarts + 2


def test_a_hung_worker() -> None:
    score = Tiny()
    with pool_of(score, hung_seconds=1) as pool:
        values = pool.gather(pool.submit(["a", "sleep", "b"], [None] * 3), LONG)
        assert values == [*expected(["a"], [None]), None, *expected(["b"], [None])]
        assert pool.gather(pool.submit(["c"], [None]), LONG) == expected(["c"], [None])
        figures = pool.figures()
    assert adds_up(figures)
    assert (figures.failed, figures.deaths, figures.restarts) == (1, 2, 2)


def test_errors_of_a_reward() -> None:
    with pool_of(Tiny()) as pool:
        good = pool.submit(["a"], [None])
        until(lambda: pool.figures().scored == 1)
        bad = pool.submit(["raise"], [SECRET])
        with pytest.raises(RaymedltError, match=r"a reward failed with ValueError at .*test_dispatch.py:\d+") as error:
            pool.gather(good + bad, LONG)
        assert SECRET not in str(error.value)
        assert error.value.__context__ is error.value.__cause__ is None
        with pytest.raises(ConfigError, match=r"no such thing. Expected: another"):
            pool.gather(pool.submit(["refuse"], [None]), LONG)
        with pytest.raises(ConfigError, match="the score gave 0 values for 1 completions"):
            pool.gather(pool.submit(["short"], [None]), LONG)
        assert pool.gather(good, LONG) == expected(["a"], [None])
        assert adds_up(pool.figures())
        assert pool.figures().failed == 3


def test_rewards_that_cannot_be_made() -> None:
    def make() -> Tiny:
        raise ConfigError("no such reward", "another", "change it")

    with ThreadRewardPool(make) as pool:
        with pytest.raises(ConfigError, match="no such reward"):
            pool.gather(pool.submit(["a"], [None]), LONG)
        with pytest.raises(ConfigError, match="no such reward"):
            pool.submit(["a"], [None])


def test_closing() -> None:
    score = Tiny()
    pool = pool_of(score)
    done = pool.submit(["a"], [None])
    until(lambda: pool.figures().scored == 1)
    score.gate.clear()
    waiting = pool.submit(["b"], [None])
    raised: list[BaseException] = []

    def gather() -> None:
        try:
            pool.gather(waiting)
        except RaymedltError as error:
            raised.append(error)

    thread = threading.Thread(target=gather)
    thread.start()
    pool.close()
    pool.close()
    thread.join(LONG)
    score.gate.set()
    assert "the reward pool is closed" in str(raised[0])
    with pytest.raises(RaymedltError, match="the reward pool is closed"):
        pool.submit(["a"], [None])
    assert pool.gather(done) == expected(["a"], [None])


def test_many_threads_at_once() -> None:
    score = Tiny()
    wrong: list[object] = []

    def ask(number: int) -> None:
        for start in range(0, 40, 8):
            texts, references = TEXTS[start : start + 8], REFERENCES[start : start + 8]
            if pool.gather(pool.submit(texts, references), LONG) != expected(texts, references):
                wrong.append(number)

    with pool_of(score, 3, batch=5, remembered=10) as pool:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        figures = pool.figures()
    assert wrong == []
    assert adds_up(figures)
    assert (figures.submitted, figures.scored) == (240, len(score.computed))


def item(characters: int, now: float = 0.0) -> Item:
    return Item(object(), "x" * characters, None, now, [1])


def ready_scheduler(least: int, most: int | None = None, **settings: float) -> Scheduler:
    scheduler = Scheduler(replace(PoolSettings(worth_seconds=0), **settings), least, most or least)
    for worker in scheduler.staff(0)[0]:
        scheduler.ready(worker, 0)
    return scheduler


def sizes(assigned: list[tuple[int, Batch]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for worker, batch in assigned:
        found.setdefault(worker, []).append(len(batch.items))
    return found


@pytest.mark.parametrize(
    ("items", "expected_sizes"),
    [(2, {1: [1], 2: [1]}), (7, {1: [3], 2: [3], 3: [1]}), (24, {1: [8], 2: [8], 3: [8]})],
)
def test_few_completions_use_all_workers(items: int, expected_sizes: dict[int, list[int]]) -> None:
    scheduler = ready_scheduler(3, batch=8)
    for _ in range(items):
        scheduler.add(item(10))
    assert sizes(scheduler.assign(0)) == expected_sizes


def test_a_second_batch_waits_at_each_worker_but_not_behind_one_that_hangs() -> None:
    scheduler = ready_scheduler(2, batch=4)
    for _ in range(30):
        scheduler.add(item(10))
    assert sizes(scheduler.assign(0)) == {1: [4, 4], 2: [4, 4]}
    assert scheduler.waiting == 14
    scheduler = ready_scheduler(2, batch=4)
    for _ in range(8):
        scheduler.add(item(10))
    scheduler.assign(0)
    for _ in range(8):
        scheduler.add(item(10))
    assert scheduler.assign(LONG) == []


def makespan(costs: list[int], choose: Callable[[list[float], int], int] | None) -> float:
    """Simulated seconds for items that come one after another, each taking as many as it has characters.

    choose: (seconds outstanding per worker, number of the item) -> worker, instead of the scheduler.
    """
    workers = 3
    ends = [0.0] * workers
    if choose is not None:
        for number, cost in enumerate(costs):
            ends[choose(ends, number)] += cost
        return max(ends)
    scheduler = ready_scheduler(workers, batch=1)
    running: dict[int, list[tuple[int, int]]] = {worker: [] for worker in range(1, workers + 1)}
    for cost in costs:
        scheduler.add(item(cost - 1))
    now = 0.0
    while True:
        for worker, batch in scheduler.assign(now):
            if not running[worker]:
                ends[worker - 1] = now + batch.characters
            running[worker].append((batch.number, batch.characters))
        busy = [worker for worker, batches in running.items() if batches]
        if not busy:
            return now
        worker = min(busy, key=lambda each: ends[each - 1])
        now = ends[worker - 1]
        number, cost = running[worker].pop(0)
        assert scheduler.answered(worker, number, cost, now)
        if running[worker]:
            ends[worker - 1] = now + running[worker][0][1]


def test_the_least_loaded_worker_is_chosen() -> None:
    ours = in_turn = at_random = ideal = 0.0
    for seed in range(20):
        draw = random.Random(seed)
        costs = [draw.choice([1, 2, 3, 40]) for _ in range(90)]
        ideal += sum(costs) / 3
        ours += makespan(costs, None)
        in_turn += makespan(costs, lambda ends, number: number % 3)
        at_random += makespan(costs, lambda ends, number, draw=draw: draw.randrange(3))  # type: ignore[misc]
    assert ours < 1.08 * ideal
    assert min(in_turn, at_random) > 1.15 * ideal


def test_workers_are_added_and_ended() -> None:
    scheduler = ready_scheduler(1, 3, batch=4, grow_seconds=5.0, idle_seconds=10.0)
    for _ in range(40):
        scheduler.add(item(99))
    given = scheduler.assign(0)
    assert scheduler.staff(0) == ([], [])  # the cost isn't known yet
    scheduler.answered(1, given.pop(0)[1].number, 4.0, 4.0)  # a second each: 36 to go
    (second,), ended = scheduler.staff(4)
    assert ended == []
    assert scheduler.staff(5) == ([], [])  # not another one before it is ready
    scheduler.ready(second, 6)
    (third,), _ = scheduler.staff(6)
    scheduler.ready(third, 7)
    assert scheduler.staff(8) == ([], [])  # 3 at most
    now = 8.0
    while given := given + scheduler.assign(now):
        worker, batch = given.pop(0)
        scheduler.answered(worker, batch.number, 4.0, now)
    assert scheduler.staff(now + 9.9) == ([], [])
    assert scheduler.wake_at() == now + 10
    assert scheduler.staff(now + 10) == ([], [third, second])
    assert scheduler.staff(now + 99) == ([], [])
    assert scheduler.wake_at() is None
    assert (scheduler.workers, scheduler.deaths, scheduler.restarts) == (1, 0, 0)


def test_a_pool_grows_and_shrinks() -> None:
    score = Tiny()
    score.gate.clear()

    settings = PoolSettings(batch=1, grow_seconds=1e-4, idle_seconds=0.3, worth_seconds=0)
    with Dispatcher(_Threads(lambda: score), settings, 1, 3) as pool:
        tickets = pool.submit(TEXTS[:40], [None] * 40)
        until(lambda: pool.figures().workers == 3)
        score.gate.set()
        assert pool.gather(tickets, LONG) == expected(TEXTS[:40], [None] * 40)
        until(lambda: pool.figures().workers == 1)
        assert pool.gather(pool.submit(["new"], [None]), LONG) == expected(["new"], [None])


def test_a_restart_is_no_growth() -> None:
    scheduler = ready_scheduler(1, 2, batch=1, grow_seconds=1.0)
    scheduler.died(1)
    ((second,), _) = scheduler.staff(0)
    scheduler.ready(second, 0)
    for _ in range(3):
        scheduler.add(item(20_000))
    assert len(scheduler.staff(0)[0]) == 1
    assert (scheduler.workers, scheduler.deaths, scheduler.restarts) == (2, 1, 1)


def test_a_batch_that_waits_for_another_does_not_hang() -> None:
    scheduler = ready_scheduler(1, batch=1, hung_seconds=10.0)
    for _ in range(2):
        scheduler.add(item(10))
    (_, first), _ = scheduler.assign(0)
    scheduler.answered(1, first.number, 9.0, 9)
    assert scheduler.expired(18.9) == []
    assert scheduler.expired(19) == [1]


def test_a_worker_that_does_not_get_ready() -> None:
    scheduler = Scheduler(PoolSettings(start_seconds=5), 1, 1)
    assert scheduler.staff(0) == ([1], [])
    assert scheduler.wake_at() == 5
    for start in (0, 5, 10):
        assert scheduler.expired(start + 4.9) == []
        (worker,) = scheduler.expired(start + 5)
        assert not scheduler.all_dead
        assert scheduler.died(worker, hung=True) == []
        scheduler.staff(start + 5)
    assert scheduler.all_dead
    assert (scheduler.deaths, scheduler.restarts) == (3, 2)


def test_only_what_was_being_scored_is_suspected() -> None:
    scheduler = ready_scheduler(1, batch=2)
    items = [item(1) for _ in range(6)]
    for each in items:
        scheduler.add(each)
    assert sizes(scheduler.assign(0)) == {1: [2, 2]}
    assert scheduler.died(1) == []
    assert [each.deaths for each in items] == [1, 1, 0, 0, 0, 0]
    (worker,), _ = scheduler.staff(1)
    assert scheduler.assign(1) == []  # not ready yet
    scheduler.ready(worker, 2)
    for number, alone in enumerate((items[:1], items[1:2])):  # with nothing beside or behind
        ((_, batch),) = scheduler.assign(2 + number)
        assert batch.items == alone
        assert scheduler.answered(1, batch.number, 1.0, 3) is None  # of the dead one
        assert scheduler.answered(worker, batch.number, 1.0, 3 + number) is batch
    assert [batch.items for _, batch in scheduler.assign(4)] == [items[2:4], items[4:]]


def test_a_suspect_does_not_wait_behind_another_batch() -> None:
    scheduler = ready_scheduler(2, batch=1)
    for _ in range(2):
        scheduler.add(item(10))
    scheduler.assign(0)
    scheduler.died(1)
    scheduler.add(item(10))
    assert scheduler.assign(0.1) == []


def test_settings_that_are_refused() -> None:
    for least, most in ((0, 1), (2, 1)):
        with pytest.raises(ConfigError, match=rf"{least} to {most} reward workers"):
            Scheduler(PoolSettings(), least, most)
    with pytest.raises(ConfigError, match="batch 0, remembered 20000"):
        PoolSettings(batch=0)
    with pytest.raises(ConfigError, match="worth_seconds -1"):
        PoolSettings(worth_seconds=-1)
    with pytest.raises(ConfigError, match="a time limit of 0 seconds or less"):
        PoolSettings(idle_seconds=0)


def test_what_takes_next_to_no_time_is_held_back_until_somebody_waits() -> None:
    scheduler = ready_scheduler(1, worth_seconds=1.0)
    scheduler.add(item(99))
    ((worker, batch),) = scheduler.assign(0)  # nothing is known of its time
    scheduler.answered(worker, batch.number, 0.5, 1)
    for _ in range(2):
        assert scheduler.assign(1) == []
        scheduler.add(item(99))
    assert sizes(scheduler.assign(1)) == {1: [2]}  # by now worth a call
    scheduler.add(item(10))
    scheduler.hurry = 1
    assert sizes(scheduler.assign(1)) == {1: [1]}


def test_values_held_back_are_computed_when_gathered() -> None:
    score = Tiny()
    with pool_of(score, worth_seconds=60) as pool:
        assert pool.gather(pool.submit(["a"], [None])) == expected(["a"], [None])
        tickets = pool.submit(["bb", "cc"], [None] * 2) + pool.submit(["dd"], [None])
        assert pool.figures().pending == 3
        assert score.asked == [["a"]]
        assert pool.gather(tickets) == expected(["bb", "cc", "dd"], [None] * 3)
        assert len(score.asked) == 2
