"""The reward by sentence vectors: matching by hand, and what is embedded."""

from __future__ import annotations

import numpy as np
import pytest

from raymedlt.alignment.similarity import SentenceVectors, greedy_f1

VECTORS = {
    "a": np.array([1, 0], np.float32),
    "b": np.array([0, 1], np.float32),
    "c": np.array([0.6, 0.8], np.float32),
    "d": np.array([-1, 0], np.float32),
}


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        (["a"], ["a"], 1.0),
        (["a", "a"], ["a"], 1.0),  # said twice counts once
        (["a"], ["b"], 0.0),
        (["a"], ["d"], 0.0),  # a negative cosine counts as 0
        (["a"], ["c"], 0.6),
        (["a", "b"], ["a"], 2 * 0.5 / 1.5),  # P = 1/2, R = 1
        (["a"], ["a", "c"], 2 * 0.8 / 1.8),  # P = 1, R = (1 + .6) / 2
        ([], ["a"], 0.0),
        (["a"], [], 0.0),
    ],
)
def test_by_hand(said: list[str], true: list[str], expected: float) -> None:
    assert greedy_f1(said, true, VECTORS) == pytest.approx(expected, abs=1e-6)
    assert greedy_f1(said[::-1], true[::-1], VECTORS) == greedy_f1(said, true, VECTORS)


class Model:
    def __init__(self) -> None:
        self.keys, self.vectors = ["a", "b"], np.stack([VECTORS["a"], VECTORS["b"]])
        self.asked: list[str] = []

    def encode(self, keys: list[str]) -> np.ndarray:
        self.asked += keys
        return np.stack([VECTORS[key] for key in keys])


def test_only_new_sentences_are_embedded_and_old_ones_forgotten() -> None:
    model = Model()
    vectors = SentenceVectors(model, remembered=1)
    assert np.array_equal(vectors.of(["a", "c", "c"])["c"], VECTORS["c"])
    vectors.of(["c", "a"])
    assert model.asked == ["c"]  # those of the dictionary never
    vectors.of(["d"])
    vectors.of(["c"])
    assert model.asked == ["c", "d", "c"]
