"""What a reward of your own must keep to, tried on a few invented reports.

    from raymedlt.alignment.contract import check_reward
    check_reward(load_reward("my_package.rewards:no_tubes"))

A reward that passes can be computed beside the rollouts, by any process, in any order, alone or with others, without
changing a single value. One that fails gets an error that says what it gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from raymedlt.alignment.reading import Reference
from raymedlt.alignment.rewards import Reward, RewardModel
from raymedlt.errors import ConfigError

_NORMAL = Reference("The heart is normal in size. The lungs are clear. No pleural effusion.", "No acute disease.")
_EFFUSION = Reference("There is a small left pleural effusion. The heart is enlarged.", "Left pleural effusion.")
CASES: tuple[tuple[str, Reference], ...] = (
    ("<think> The lungs are clear. Heart size is normal. </think><answer> Normal chest. </answer>", _NORMAL),
    ("<think> The heart is enlarged. No pleural effusion. </think><answer> Cardiomegaly. </answer>", _EFFUSION),
    ("The lungs are clear.", _NORMAL),
    ("<think> Left pleural effusion. Left pleural effusion. </think><answer>", _EFFUSION),
    ("<think> </think><answer> </answer>", _NORMAL),
    ("", _EFFUSION),
    ("The lungs are clear.", _EFFUSION),
    ("Kites rise, if the wind < 5 m/s & fair.", Reference("", "")),
)
"""Completions, good and bad, and what they are held against."""
_OPENINGS = ("No", "There is no", "No evidence of", "Small left", "There is a small left")
_ENDINGS = ("pleural effusion", "pneumothorax", "consolidation")
_OTHERS = (
    "the heart is normal in size", "heart size is normal", "normal heart size", "the heart is enlarged",
    "the heart is mildly enlarged", "the lungs are clear", "lungs are clear", "both lungs are clear",
)  # fmt: skip


@cache
def example_model() -> RewardModel:
    """A reward model of some twenty invented sentences, findings and impression alike; takes a second or two."""
    from raymedlt.clustering import ClusterModel, hdbscan_fit
    from raymedlt.embedding.encoder import Encoder

    keys = sorted({f"{opening} {ending}".lower() for opening in _OPENINGS for ending in _ENDINGS} | set(_OTHERS))
    vectors = Encoder().encode(keys)
    model = ClusterModel(keys, vectors, hdbscan_fit(vectors, 2, 1), limit=math.sqrt(2 - 2 * 0.8))
    return RewardModel(model, model)


def check_reward(function: Reward, model: RewardModel | None = None) -> None:
    """Try a reward on `CASES`.

    Args:
        model: what it is given as its third argument; None: `example_model`.

    Raises:
        ConfigError: it raised; it gave another kind or number of values; a value is no number, or not finite; or its
            values change with the time, the order or what is scored beside.
    """
    name = getattr(function, "__qualname__", type(function).__name__)
    reward = _Tried(name, function, model or example_model())
    first = reward(CASES)
    reward.must_agree(first, reward(CASES), "when it was called again")
    reward.must_agree(first, reward(CASES[::-1])[::-1], "in another order")
    reward.must_agree(first, [reward([case])[0] for case in CASES], "when each was scored alone")


class _Tried:
    def __init__(self, name: str, function: Callable[..., Any], model: RewardModel) -> None:
        self._name, self._function, self._model = name, function, model

    def __call__(self, cases: Sequence[tuple[str, Reference]]) -> list[float | None]:
        completions, references = [case[0] for case in cases], [case[1] for case in cases]
        try:
            given = self._function(completions, references, self._model)
        except Exception as error:
            raise ConfigError(
                f"the reward '{self._name}' raised {type(error).__name__} for {len(cases)} completions",
                "a value for every completion: reward(completions, references, model)",
                "see the error above; give 0 for a bad completion and None for one that can't be scored",
            ) from error
        if completions != [case[0] for case in cases] or references != [case[1] for case in cases]:
            raise ConfigError(f"the reward '{self._name}' changed its arguments", "a pure function", "copy them first")
        if not isinstance(given, list | tuple):
            raise ConfigError(
                f"the reward '{self._name}' gave a {type(given).__name__}",
                "a list with a number or None for each completion",
                "return a list (an array's .tolist())",
            )
        if len(given) != len(cases):
            raise ConfigError(
                f"the reward '{self._name}' gave {len(given)} values for {len(cases)} completions", "one for each"
            )
        for place, value in enumerate(given):
            self._must_be_number(place, value)
        return list(given)

    def _must_be_number(self, place: int, value: object) -> None:
        if value is None:
            return
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise ConfigError(
                f"the reward '{self._name}' gave a {type(value).__name__} for completion {place}",
                "a number or None",
                "turn it into a float",
            )
        if not math.isfinite(value):
            raise ConfigError(
                f"the reward '{self._name}' gave {value} for completion {place}",
                "a finite number, or None where it can't be scored",
                "give 0 for a bad completion",
            )

    def must_agree(self, first: Sequence[float | None], other: Sequence[float | None], when: str) -> None:
        for place, (one, two) in enumerate(zip(first, other, strict=True)):
            if one != two:
                raise ConfigError(
                    f"the reward '{self._name}' gave {one} for completion {place}, and {two} {when}",
                    "the same value, whatever was scored before or beside it",
                    "let it depend on completion, reference and model alone: no state, no draws, no statistics of the "
                    "batch",
                )
