from __future__ import annotations

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.evaluation.style import FEATURES, style_controlled, style_of
from raymedlt.resampling import Patients

N = 400
PATIENTS = Patients.of([f"p{i // 2}" for i in range(N)])


def world(gain: float, length: float) -> tuple[dict, dict]:
    """The second writes 20 words more; words raise the metric by `length` each, the second system by `gain`."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=N)
    words = {"plain": rng.integers(20, 60, N).astype(float), "longer": rng.integers(40, 80, N).astype(float)}
    styles = {name: np.stack([each, each // 8, rng.random(N)], 1) for name, each in words.items()}
    values = {
        name: difficulty + length * words[name] + gain * (name == "longer") + rng.normal(scale=0.1, size=N)
        for name in words
    }
    return values, styles


def test_features_by_hand() -> None:
    found = style_of(["The lungs are clear. Left pleural effusion.", ""])
    assert FEATURES == ("words", "sentences", "normal_share")
    assert found.tolist() == [[7, 2, 0.5], [0, 0, 0]]


def test_length_alone_is_no_gain() -> None:
    found = style_controlled(*world(gain=0, length=0.01), PATIENTS, resamples=200, seed=0)
    assert found.plain["longer"] == pytest.approx(0.2, abs=0.03)
    low, high = found.systems["longer"][1:3]
    assert low < 0 < high
    assert abs(found.systems["longer"].estimate) < 0.03
    assert 0.3 < found.separable["longer"] < 0.9


def test_a_gain_beside_length_is_found() -> None:
    found = style_controlled(*world(gain=0.3, length=0.01), PATIENTS, resamples=200, seed=0)
    interval = found.systems["longer"]
    assert interval.low < 0.3 < interval.high
    assert interval.low > 0.2
    assert found.features["words"] > 0


def test_what_style_gives_away_cannot_be_told_apart() -> None:
    values, _ = world(gain=0.3, length=0)
    rng = np.random.default_rng(1)
    words = rng.integers(20, 60, N).astype(float)
    styles = {"plain": words[:, None] * [1, 0, 0], "longer": (words + 20)[:, None] * [1, 0, 0]}
    found = style_controlled(values, styles, PATIENTS, resamples=10, seed=0)
    assert found.separable["longer"] == pytest.approx(0, abs=1e-9)


def test_same_style_changes_nothing() -> None:
    values, styles = world(gain=0.3, length=0)
    found = style_controlled(values, dict.fromkeys(styles, styles["plain"]), PATIENTS, resamples=10, seed=0)
    assert found.systems["longer"].estimate == pytest.approx(found.plain["longer"])
    assert found.separable["longer"] == pytest.approx(1)


def test_errors() -> None:
    values, styles = world(0, 0)
    with pytest.raises(InputError, match=r"1 systems with \[400\] reports"):
        style_controlled({"plain": values["plain"]}, styles, PATIENTS, resamples=1, seed=0)
    with pytest.raises(InputError, match=r"2 systems with \[3, 400\] reports"):
        style_controlled(values | {"plain": np.zeros(3)}, styles, PATIENTS, resamples=1, seed=0)
