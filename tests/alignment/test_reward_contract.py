"""A reward of one's own: what passes, and what each failure says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from raymedlt.alignment.contract import CASES, check_reward, example_model
from raymedlt.alignment.rewards import BUILT_IN, RewardModel
from raymedlt.errors import ConfigError


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_reward_of_ours_passes(name: str) -> None:
    check_reward(BUILT_IN[name])


def test_the_example_has_clusters() -> None:
    model = example_model().models["findings"]
    assert model.clusters >= 4
    completions, references = [case[0] for case in CASES], [case[1] for case in CASES]
    values = BUILT_IN["cluster_f1_strict"](completions, references, example_model())
    assert len(set(values)) >= 3


def words(completions, references, model) -> list[float]:
    assert isinstance(model, RewardModel)
    return [float(len(text.split())) for text in completions]


def test_one_of_ones_own() -> None:
    check_reward(words)
    check_reward(lambda completions, references, model: [None for _ in completions])
    check_reward(lambda completions, references, model: [np.float32(1) for _ in completions])


COUNTER = itertools.count()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c, r, m: np.ones(len(c)), r"gave a ndarray. Expected: a list with a number or None.*tolist"),
        (lambda c, r, m: 1.0, "gave a float. Expected: a list"),
        (lambda c, r, m: [1.0], "gave 1 values for 8 completions. Expected: one for each"),
        (lambda c, r, m: ["1"] * len(c), "gave a str for completion 0. Expected: a number or None"),
        (lambda c, r, m: [True] * len(c), "gave a bool for completion 0"),
        (lambda c, r, m: [float("nan")] * len(c), "gave nan for completion 0. Expected: a finite number"),
        (lambda c, r, m: [float(next(COUNTER)) for _ in c], "when it was called again. Expected: the same value"),
        (lambda c, r, m: [float(n) for n in range(len(c))], "in another order"),
        (lambda c, r, m: [len(text) / sum(map(len, c)) if text else 0.0 for text in c], "each was scored alone"),
        (lambda c, r, m: [1 / len(text) for text in c], "raised ZeroDivisionError for 8 completions"),
        (lambda c, r: [0.0] * len(c), "raised TypeError for 8 completions"),
        (lambda c, r, m: [0.0 for _ in range(len(c)) if c.pop() is not None], "changed its arguments"),
    ],
)
def test_what_is_refused(function, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_reward(function)
