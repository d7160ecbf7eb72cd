"""The judges' own arithmetic: permutations of two rankings, independent shares, what a verdict may say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from raymedlt.intervals import Share
from raymedlt.judging.classifier import Predicted, randomisation_tests
from raymedlt.judging.judged import Measured, scores_table, verdict_words
from raymedlt.judging.synthesis import newcombe
from raymedlt.resampling import Interval
from raymedlt.schema import SCORES
from raymedlt.seeds import generator

PERMUTATIONS = 40


def predicted(probability_NC, label_NC, patients) -> Predicted:
    images, classes = np.shape(probability_NC)
    names = [f"c{number}" for number in range(classes)]
    return Predicted(
        [f"i{number:03d}" for number in range(images)], list(patients), names, np.asarray(probability_NC, float),
        np.asarray(label_NC, float), np.full(classes, 0.5), dict.fromkeys(names, "tail"),
    )  # fmt: skip


def ranks(values):
    return np.array([(values < value).sum() + (values == value).sum() / 2 for value in values])


def swapped_difference(scorer, first, second, labels, moved):
    """The difference of the means over classes when the moved images' predictions have changed places."""
    found = []
    for column in range(labels.shape[1]):
        known = ~np.isnan(labels[:, column])
        a, b = ranks(first[known, column]), ranks(second[known, column])
        one, two = np.where(moved[known], b, a), np.where(moved[known], a, b)
        truth = labels[known, column]
        found.append(scorer(truth, one) - scorer(truth, two))
    return abs(np.mean(found))


def test_permutations_are_those_of_two_rankings_made_by_hand():
    rng = np.random.default_rng(3)
    patients = [f"p{number // 2}" for number in range(40)]
    labels = (rng.random((40, 2)) < 0.4).astype(float)
    labels[5, 0] = np.nan
    first = np.round(np.where(np.nan_to_num(labels) > 0, 0.3, 0.0) + rng.random((40, 2)), 1)  # with ties
    second = rng.random((40, 2)) / 1000  # on another scale
    found = randomisation_tests(
        predicted(first, labels, patients), predicted(second, labels, patients), PERMUTATIONS, seed=7
    )
    place = np.unique(patients, return_inverse=True)[1]
    for name, scorer in (("average_precision", average_precision_score), ("roc_auc", roc_auc_score)):
        observed = swapped_difference(scorer, first, second, labels, np.zeros(40, bool))
        as_large = 0
        for number in range(PERMUTATIONS):
            stays = generator(7, "randomisation", number).random(20) < 0.5
            moved = swapped_difference(scorer, first, second, labels, ~stays[place])
            as_large += moved >= observed - 1e-12
        assert found[name, "all"] == pytest.approx((1 + as_large) / (1 + PERMUTATIONS))
        assert found[name, "tail"] == found[name, "all"]


def test_equal_rankings_can_not_be_told_apart_and_opposite_ones_can():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 1)) < 0.5).astype(float)
    patients = [str(number) for number in range(60)]
    good = predicted(labels + rng.random((60, 1)) / 2, labels, patients)
    same = predicted(good.probability_NC**3, labels, patients)
    bad = predicted(-good.probability_NC, labels, patients)
    assert set(randomisation_tests(good, same, 50, seed=0).values()) == {1.0}
    assert set(randomisation_tests(good, bad, 50, seed=0).values()) == {1 / 51}


def test_the_interval_of_two_shares_is_newcombes():
    found = newcombe(Share(56, 70), Share(48, 80))  # his first example, method 10: .0524 to .3339
    assert found.estimate == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
    assert np.isnan(newcombe(Share(1, 2), Share(0, 0)).estimate)


def measured(low: float, high: float, p: float | None = 0.2) -> Measured:
    return Measured(
        name="s", title="S", run=Interval(0.5, 0.4, 0.6, 0), against=Interval(0.4, 0.3, 0.5, 0),
        difference=Interval(0.1, low, high, 0), p=p,
    )  # fmt: skip


def test_a_verdict_is_no_surer_than_its_interval():
    assert verdict_words(measured(0.01, 0.2)).endswith("; p 0.200): better")
    assert verdict_words(measured(-0.2, -0.01, 0.0005)).endswith("; p < 0.001): worse")
    assert verdict_words(measured(-0.01, 0.2, None)).endswith("95 %: -0.010 to +0.200): no clear difference")
    alone = Measured(name="s", title="S", run=Interval(0.5, 0.4, 0.6, 0))
    assert verdict_words(alone) == "0.500 (95 %: 0.400 to 0.600)"


def test_what_is_not_defined_is_null_in_the_table():
    nothing = Interval(float("nan"), float("nan"), float("nan"), 3)
    table = scores_table([Measured(name="s", title="S", run=nothing, count=3), measured(0.0, 0.1)])
    assert table.schema.equals(SCORES)
    first, second = table.to_pylist()
    assert all(first[name] is None for name in itertools.chain(SCORES.names[3:]))
    assert (second["difference"], second["difference_high"], second["p"]) == (0.1, 0.1, 0.2)
