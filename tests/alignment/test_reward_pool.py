"""Rewards in threads and in Ray actors: the same values, whatever dies; and the recipe that travels to them."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from raymedlt.alignment.contract import CASES, example_model
from raymedlt.alignment.pool import PoolSettings, RayRewardPool, RewardPool, Rewards, ThreadRewardPool
from raymedlt.alignment.reading import Given
from raymedlt.alignment.rewards import BUILT_IN, RewardModel
from raymedlt.alignment.scoring import answer
from raymedlt.errors import ConfigError, InputError, RaymedltError

LONG = 300.0
SECRET = "The patient of bed nine"
COMPLETIONS = [completion for completion, _ in CASES] + [f"No effusion. Room {n} is clear." for n in range(12)]
REFERENCES: list[Given] = [reference for _, reference in CASES] + [None, "No effusion."] * 6


@pytest.fixture(autouse=True)
def _by_value() -> Iterator[None]:
    """Workers don't have the folder of the tests."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Tiny:
    """Makes a score of the texts' lengths, which leaves its process id in a folder and does as some texts say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[Sequence[str], Sequence[Given]], list[tuple[float]]]:
        return self.score

    def score(self, completions: Sequence[str], references: Sequence[Given]) -> list[tuple[float]]:
        for text in completions:
            if text.startswith("wait"):
                (self.folder / f"{os.getpid()}.pid").touch()
                while not (self.folder / "go").exists():
                    time.sleep(0.01)
            if text == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if text == "raise":
                raise ValueError(SECRET)
        return [(len(text) / 7,) for text in completions]

    def seen(self) -> list[int]:
        return [int(file.stem) for file in self.folder.glob("*.pid")]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def scored_by(pool: RewardPool, parts: int) -> list[tuple[float | None, ...] | None]:
    tickets = []
    for start in range(0, len(COMPLETIONS), len(COMPLETIONS) // parts):
        chosen = slice(start, start + len(COMPLETIONS) // parts)
        tickets += pool.submit(COMPLETIONS[chosen], REFERENCES[chosen])
    return pool.gather(tickets, LONG)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    for name, model in example_model().models.items():
        model.save(folder / name)
    return str(folder)


def test_real_rewards_are_the_same_everywhere(local_ray: object, model_folder: str) -> None:
    names = ("cluster_f1_strict", "cluster_f1", "finding_f1", "bleu", "format_reward")
    columns = [BUILT_IN[name](COMPLETIONS, REFERENCES, example_model()) for name in names]
    expected = list(zip(*columns, strict=True))
    recipe = Rewards(names, model_folder)
    with ThreadRewardPool(recipe, 2, PoolSettings(batch=3)) as pool:
        assert scored_by(pool, 5) == expected
        figures = pool.figures()
        assert figures.misses > 0
        assert figures.reward_seconds > 0
    with RayRewardPool(recipe.loaded(), 2, 2, settings=PoolSettings(batch=7)) as pool:
        assert scored_by(pool, 1) == expected
        assert pool.figures().misses > 0
        assert scored_by(pool, 4) == expected
        assert pool.figures().shared == len(COMPLETIONS)


def test_a_killed_actor(local_ray: object, tmp_path: Path) -> None:
    made = Tiny(tmp_path)
    with RayRewardPool(made, most=1, settings=PoolSettings(batch=4, worth_seconds=0)) as pool:
        first = pool.submit(["a", "bb"], [None] * 2)
        until(lambda: pool.figures().scored == 2)
        with pytest.raises(RaymedltError, match="a reward failed with ValueError at") as error:
            pool.gather(pool.submit(["raise"], [SECRET]), LONG)
        assert SECRET not in str(error.value)
        texts = ["wait", *(f"Text {'x' * n}" for n in range(9))]
        tickets = pool.submit(texts, [None] * 10)
        until(made.seen)
        os.kill(made.seen()[0], signal.SIGKILL)
        (tmp_path / "go").touch()
        assert pool.gather(first + tickets, LONG) == [(len(text) / 7,) for text in ["a", "bb", *texts]]
        figures = pool.figures()
    assert (figures.deaths, figures.restarts, figures.scored, figures.failed) == (1, 1, 12, 1)


def test_what_kills_or_hangs_is_given_up(local_ray: object, tmp_path: Path) -> None:
    made = Tiny(tmp_path)
    texts = ["a", "kill", "bb", "wait", "ccc"]
    with RayRewardPool(made, 2, 2, settings=PoolSettings(hung_seconds=5)) as pool:
        values = pool.gather(pool.submit(texts, [None] * 5), LONG)
        assert values == [(1 / 7,), None, (2 / 7,), None, (3 / 7,)]
        assert pool.gather(pool.submit(["after"], [None]), LONG) == [(5 / 7,)]
        figures = pool.figures()
        assert figures.failed == 2
        assert figures.restarts >= figures.deaths - 1 >= 3
        until(lambda: not any(map(alive, made.seen())))


def test_actors_end_with_the_pool_and_with_its_owner(local_ray: object, tmp_path: Path) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Owner:
        def begin(self, made: Tiny) -> None:
            self.pool = RayRewardPool(made)
            self.pool.submit(["wait"], [None])

    owner = Owner.remote()
    ray.get(owner.begin.remote(Tiny(tmp_path)))
    until(Tiny(tmp_path).seen)
    (of_owner,) = Tiny(tmp_path).seen()
    with RayRewardPool(Tiny(tmp_path)) as pool:
        pool.submit(["wait"], [None])
        until(lambda: len(Tiny(tmp_path).seen()) == 2)
        assert alive(of_owner)
        ray.kill(owner)
        until(lambda: not alive(of_owner))
        (ours,) = set(Tiny(tmp_path).seen()) - {of_owner}
        assert alive(ours)
    until(lambda: not alive(ours))


class Unfit:
    """Can't be unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return int, (SECRET,)

    def __call__(self) -> None:
        raise AssertionError


def test_a_recipe_that_does_not_travel(local_ray: object) -> None:
    with RayRewardPool(Unfit()) as pool:  # type: ignore[arg-type]
        with pytest.raises(RaymedltError, match="starting a reward worker failed with") as error:
            pool.gather(pool.submit(["a"], [None]), LONG)
        assert SECRET not in str(error.value)


def test_actors_need_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RaymedltError, match=r"no connection to Ray. Expected: runtime.connect"):
        RayRewardPool(Rewards(("exact_f1",)))


def test_the_model_that_travels(model_folder: str) -> None:
    recipe = Rewards(("cluster_f1_strict",), model_folder)
    loaded = recipe.loaded()
    assert len(pickle.dumps(recipe)) < 1000 < len(pickle.dumps(loaded))
    first = answer(recipe(), COMPLETIONS, REFERENCES)
    buffers: list[pickle.PickleBuffer] = []
    scorer = loaded()
    answer(scorer, COMPLETIONS, REFERENCES)  # loads the encoder, which stays here
    data = pickle.dumps(loaded, protocol=5, buffer_callback=buffers.append)
    there: Rewards = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])  # as Ray gives it: read-only
    assert len(data) < 100_000
    assert there.model is not None
    assert not there.model.models["findings"].vectors.flags.writeable
    assert np.array_equal(there.model.models["findings"].vectors, example_model().models["findings"].vectors)
    second = answer(there(), COMPLETIONS, REFERENCES)
    assert (first.values, first.hits, first.misses) == (second.values, second.hits, second.misses)
    assert first.misses > 0
    again = RewardModel(*example_model().models.values(), severity={"findings": {}, "impression": {}})
    with pytest.raises(InputError, match="no weight of"):
        _ = pickle.loads(pickle.dumps(again)).weights


def test_rewards_without_clusters_need_no_model() -> None:
    score = Rewards(("exact_f1", "finding_f1", "bleu", "format_reward", "repetition_penalty", "length_penalty"))()
    assert (score.hits, score.misses) == (0, 0)
    values = score(COMPLETIONS, REFERENCES)
    assert [len(row) for row in values] == [6] * len(COMPLETIONS)
    assert [row[0] for row in values] == BUILT_IN["exact_f1"](COMPLETIONS, REFERENCES, example_model())
    with pytest.raises(ConfigError, match=r"the reward 'cluster_f1' without a cluster model. Expected: the folder"):
        Rewards(("exact_f1", "cluster_f1"))
    with pytest.raises(ConfigError, match="no rewards"):
        Rewards(())
    with pytest.raises(ConfigError, match="the reward 'none_such'"):
        Rewards(("none_such",))()


def test_numbers_of_any_kind_become_floats() -> None:
    given = answer(lambda completions, references: [(np.float32(0.1), 1, None)], ["a"], [None])
    assert given.values == [(float(np.float32(0.1)), 1.0, None)]
    assert [type(value) for value in given.values[0]] == [float, float, type(None)]
