"""The cluster model here is a dictionary; tests/clustering has the real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from raymedlt.evaluation.clusters import (
    ClusterMap,
    Mapped,
    cluster_f1,
    cluster_f1_strict,
    contradicting_sentences,
)


class Dictionary:
    """Three clusters and one noise sentence; new sentences with "effusion" are near to cluster 0."""

    keys: ClassVar[list[str]] = ["heart is normal", "lungs are clear", "no pleural effusion", "strange"]
    information: ClassVar[dict[str, list[str]]] = {}

    def __init__(self) -> None:
        self.asked: list[str] = []

    @property
    def labels(self) -> np.ndarray:
        return np.array([1, 2, 0, -1], np.int32)

    def assign(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self.asked += sentences
        ids = np.array([0 if "effusion" in each else -1 for each in sentences], np.int32)
        return ids, np.zeros(len(ids), np.float32)


def test_known_near_unmapped_and_repeated_sentences() -> None:
    model = Dictionary()
    clusters = ClusterMap(model)
    found = clusters.map(
        ["Lungs are clear. Lungs are CLEAR. There is no effusion. Something new. Strange.", "Heart is normal.", ""]
    )
    assert found[0] == Mapped(frozenset({2}), frozenset({0, 2}), unmapped=2, repeated=1)
    assert found[1] == Mapped(frozenset({1}), frozenset({1}), 0, 0)
    assert found[2] == Mapped(frozenset(), frozenset(), 0, 0)
    assert model.asked == ["something new", "there is no effusion"]
    clusters.map(["Something new."])
    assert len(model.asked) == 2  # remembered
    assert (clusters.hits, clusters.misses) == (1, 2)


def test_a_bounded_memory_changes_no_answer() -> None:
    model = Dictionary()
    clusters = ClusterMap(model, remembered=2)
    texts = ["One. Two. Three.", "Three. There is an effusion."]
    first = clusters.map(texts)
    assert model.asked == ["one", "there is an effusion", "three", "two"]
    assert clusters.map(texts) == first == ClusterMap(Dictionary()).map(texts)
    assert (clusters.hits, clusters.misses) == (2, 6)
    clusters.map(["Something else. Two."])
    assert clusters.hits == 3  # the latest two were kept


def test_a_near_cluster_of_another_sign_is_not_its_cluster() -> None:
    class Signed(Dictionary):
        information: ClassVar[dict[str, list[str]]] = {"signs": ["normal", "normal", "mixed"]}

    text = "There is no effusion. Large left effusion. Possible effusion. No pleural effusion."
    found = ClusterMap(Signed()).map([text])[0]
    assert found == Mapped(frozenset({0}), frozenset({0}), unmapped=2, repeated=0)
    assert ClusterMap(Dictionary()).map([text])[0].unmapped == 0


def mapped(clusters: set[int], unmapped: int = 0, repeated: int = 0) -> Mapped:
    return Mapped(frozenset(clusters), frozenset(clusters), unmapped, repeated)


def test_hand_checked() -> None:
    assert cluster_f1(mapped({1, 2, 3}), mapped({2, 3, 4, 5})) == pytest.approx(0.571429, abs=1e-6)
    assert cluster_f1(mapped({9}), mapped({2})) == cluster_f1(mapped(set()), mapped({2})) == 0
    # 2 hits, no penalties: as the paper's
    assert cluster_f1_strict(mapped({1, 2, 3}), mapped({2, 3, 4, 5}), 0) == pytest.approx(0.571429, abs=1e-6)
    # u = 2, d = 1: P = 2/6, R = 2/4
    assert cluster_f1_strict(mapped({1, 2, 3}, 2, 1), mapped({2, 3, 4, 5}), 0) == pytest.approx(0.4)
    # and k = 1: P = 1/6, R = 1/4
    assert cluster_f1_strict(mapped({1, 2, 3}, 2, 1), mapped({2, 3, 4, 5}), 1) == pytest.approx(0.2)
    assert cluster_f1_strict(mapped({1, 2, 3}), mapped({2, 3, 4, 5}), 5) == 0
    assert cluster_f1_strict(mapped(set()), mapped(set()), 0) == 0


def test_weights() -> None:
    generated, reference = mapped({1, 2, 3}, 2, 1), mapped({2, 3, 4, 5})
    equal = dict.fromkeys(range(6), 0.25)
    for k in range(3):
        assert cluster_f1_strict(generated, reference, k, equal) == pytest.approx(
            cluster_f1_strict(generated, reference, k)
        )
    # w(G n T) = 1.5, w(G) = 1.5, w(T) = 1.75, a penalty counts 1.75 / 4: P = 1.5 / (1.5 + 3 x 0.4375), R = 1.5 / 1.75
    weights = {1: 0, 2: 1, 3: 0.5, 4: 0.25, 5: 0}
    assert cluster_f1_strict(generated, reference, 0, weights) == pytest.approx(3 / 4.5625)
    # k = 1: 1.0625 hits
    assert cluster_f1_strict(generated, reference, 1, weights) == pytest.approx(2 * 1.0625 / 4.5625)
    # a reference that weighs nothing
    assert cluster_f1_strict(mapped({1, 2}), mapped({1, 5}), 0, weights) == 0.5


@pytest.mark.parametrize(
    ("completion", "reference", "expected"),
    [
        ("No pleural effusion.", "Left pleural effusion.", 1),
        ("Left pleural effusion. Left pleural effusion.", "No pleural effusion.", 1),
        ("The lungs are clear. The heart is normal.", "Right nodule. Cardiomegaly.", 2),
        ("No right pleural effusion.", "Left pleural effusion.", 0),
        ("Left pleural effusion.", "Left pleural effusion. No right pleural effusion.", 0),
        ("Right pleural effusion.", "Left pleural effusion.", 1),
        ("Bilateral pleural effusions.", "Left pleural effusion.", 0),
        ("Pleural effusion.", "Left pleural effusion.", 0),
        ("Right pleural effusion.", "Pleural effusion.", 0),
        ("Scoliosis.", "Right nodule.", 0),
        ("", "Right nodule.", 0),
    ],
)
def test_contradicting_sentences(completion: str, reference: str, expected: int) -> None:
    assert contradicting_sentences(completion, reference) == expected
