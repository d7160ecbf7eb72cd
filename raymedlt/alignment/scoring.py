"""The side of a reward worker: a recipe for rewards, and what a worker answers."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from raymedlt.alignment.reading import Given
from raymedlt.alignment.rewards import Reward, RewardModel, load_reward
from raymedlt.errors import ConfigError, RaymedltError, without_message
from raymedlt.versions import check_worker

Score = Callable[[Sequence[str], Sequence[Given]], Sequence[Sequence[float | None]]]
"""Completions, references -> for each completion a value per reward. Pure: see `rewards.load_reward`."""
Values = tuple[float | None, ...]
"""What a completion is worth: a value per reward."""

_OF_CLUSTERS = ("cluster_f1_strict", "cluster_f1_weighted", "cluster_f1", "embedding_f1")


@dataclass(frozen=True)
class Rewards:
    """Which rewards to compute. A call makes the `Score`; the recipe itself is small, and is what travels to a worker.

    Raises:
        ConfigError: no rewards, or rewards of clusters without a cluster model.
    """

    names: tuple[str, ...]
    """As `rewards.load_reward` takes them."""
    model_folder: str | None = None
    """The folder `model` of an output of jobs/enrich.py, readable where the workers are. None: rewards are given None
    as their model; those of clusters need one."""
    severity: str | None = None
    """For `cluster_f1_weighted`, see `RewardModel`."""
    model: RewardModel | None = field(default=None, repr=False, compare=False)
    """Instead of a folder: the model itself, see `loaded`."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("no rewards", "one name at least", "give cluster_f1_strict, the default")
        needy = [name for name in self.names if name in _OF_CLUSTERS]
        if needy and self.model_folder is None and self.model is None:
            raise ConfigError(
                f"the reward '{needy[0]}' without a cluster model",
                "the folder `model` of an output of jobs/enrich.py",
                "name that folder, or choose exact_f1, finding_f1 or another reward that needs no clusters",
            )

    def loaded(self) -> Rewards:
        """The same with the model in memory instead of the folder: for workers that can't read the folder.

        The recipe is then as large as the model. Ray's object store gives all actors of a machine one copy of its
        arrays.

        Raises:
            InputError: the folder holds no cluster models.
        """
        return replace(self, model_folder=None, model=self._model())

    def __call__(self) -> Scorer:
        """Raises:
        ConfigError: no such reward.
        InputError: the folder holds no cluster models.
        """
        return Scorer(self.names, [load_reward(name) for name in self.names], self._model())

    def _model(self) -> RewardModel | None:
        if self.model is not None or self.model_folder is None:
            return self.model
        return RewardModel.load(self.model_folder, severity=self.severity)


class Scorer:
    """The `Score` of some rewards, with one model in memory."""

    names: tuple[str, ...]

    def __init__(self, names: tuple[str, ...], rewards: Sequence[Reward], model: RewardModel | None) -> None:
        self.names = names
        self._rewards, self._model = rewards, model

    def __call__(self, completions: Sequence[str], references: Sequence[Given]) -> list[Values]:
        model: Any = self._model  # rewards that need none are given None
        columns = []
        for name, reward in zip(self.names, self._rewards, strict=True):
            column = reward(completions, references, model)
            _must_fit(f"the reward '{name}'", column, completions)
            columns.append(column)
        return list(zip(*columns, strict=True))

    @property
    def hits(self) -> int:
        """Sentences that were remembered."""
        return sum(each.hits for each in self._model.maps.values()) if self._model else 0

    @property
    def misses(self) -> int:
        """Sentences that had to be embedded."""
        return sum(each.misses for each in self._model.maps.values()) if self._model else 0


class Answer(NamedTuple):
    """What a worker says of a batch."""

    values: list[Values]
    error: bytes
    """A pickled RaymedltError instead of the values; errors travel as data, since Ray would log their text."""
    seconds: float
    hits: int = 0
    """Of this batch; likewise misses."""
    misses: int = 0


def made(make: Callable[[], Score]) -> tuple[Score | None, bytes]:
    """A worker's score, or the pickled error of its making."""
    try:
        check_worker()
        return make(), b""
    except Exception as error:
        return None, as_data(error, "making the rewards")


def answer(score: Score, completions: Sequence[str], references: Sequence[Given]) -> Answer:
    """Score a batch; exceptions become data."""
    began = time.perf_counter()
    hits, misses = _looked_up(score)
    try:
        rows = score(completions, references)
        _must_fit("the score", rows, completions)
        values = [tuple(None if value is None else float(value) for value in row) for row in rows]
    except Exception as error:
        return Answer([], as_data(error, "a reward"), time.perf_counter() - began)
    now_hits, now_misses = _looked_up(score)
    return Answer(values, b"", time.perf_counter() - began, now_hits - hits, now_misses - misses)


def as_data(error: Exception, where: str) -> bytes:
    """A RaymedltError as it is, another exception without its message."""
    if isinstance(error, RaymedltError):
        try:
            return pickle.dumps(error)
        except Exception as unfit:  # a class of a reward of your own
            return pickle.dumps(without_message(where, unfit))
    return pickle.dumps(without_message(where, error))


def _must_fit(name: str, values: Sequence[object], completions: Sequence[str]) -> None:
    if len(values) != len(completions):
        raise ConfigError(f"{name} gave {len(values)} values for {len(completions)} completions", "one for each")


def _looked_up(score: Any) -> tuple[int, int]:
    return getattr(score, "hits", 0), getattr(score, "misses", 0)
