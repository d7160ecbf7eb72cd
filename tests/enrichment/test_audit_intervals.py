"""Intervals and agreement, against numbers from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raymedlt.enrichment.audit.intervals import Share, agreement, stratified
from raymedlt.intervals import wilson

# Fleiss, Statistical Methods for Rates and Proportions, table 18.1: kappa .676, standard error .088.
FLEISS = {("a", "a"): 75, ("a", "b"): 1, ("a", "c"): 4, ("b", "a"): 5, ("b", "b"): 4, ("b", "c"): 1, ("c", "c"): 10}


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (3, 1000, 0.00102, 0.00878)],
)
def test_wilson(part: int, whole: int, low: float, high: float):
    assert Share(part, whole).interval == pytest.approx((low, high), abs=1e-4)


def test_a_share_in_words_and_back():
    assert str(Share(1, 4)) == "25.0 % (4.6 to 69.9)"
    assert str(Share(1, 1000)) == "0.10 % (0.02 to 0.56)"
    assert str(Share(0, 0)) == "-"
    assert Share(0, 0).to_json()["value"] is None
    assert Share.from_json(Share(3, 7).to_json()) == Share(3, 7)


def test_strata_weigh_by_their_size():
    found = stratified([(900, Share(0, 50)), (100, Share(25, 50))])
    assert found.value == pytest.approx(0.05)
    assert found.low < 0.05 < found.high
    # Equal sampling of equal strata is a simple sample.
    assert (stratified([(10, Share(2, 40)), (10, Share(4, 40))])).low == pytest.approx(wilson(6, 80)[0])
    assert stratified([(5, Share(0, 0))]).to_json()["value"] is None


def words(table: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    pairs = [pair for pair, count in table.items() for _ in range(count)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def test_kappa_of_the_text_book():
    found = agreement(*words(FLEISS))
    assert found.pairs == 100
    assert found.equal == Share(89, 100)
    assert found.kappa == pytest.approx(0.676, abs=5e-4)
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(0.088, abs=1e-3)


def test_kappas_interval_is_that_of_resampling():
    first, second = map(np.array, words(FLEISS))
    rng = np.random.default_rng(0)
    drawn = [agreement(first[i].tolist(), second[i].tolist()).kappa for i in rng.integers(0, 100, (1500, 100))]
    found = agreement(first.tolist(), second.tolist())
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.1)


def test_kappa_at_its_ends():
    assert agreement(["a", "b"] * 20, ["a", "b"] * 20).kappa == 1
    assert agreement(["a", "b"] * 20, ["b", "a"] * 20).kappa == -1
    assert math.isnan(agreement(["a", "a"], ["a", "a"]).kappa)  # nothing to tell apart
    assert agreement([], []).to_json()["kappa"] is None
