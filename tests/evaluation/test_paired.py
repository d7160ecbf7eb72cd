from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from raymedlt.errors import InputError
from raymedlt.evaluation.findings import claims_of, compare
from raymedlt.evaluation.paired import (
    difference,
    interval,
    macro_score,
    mean_score,
    micro_score,
    randomisation_test,
    resampled,
)
from raymedlt.resampling import Patients

TEXTS = ["Left nodule. Cardiomegaly.", "Scoliosis.", "The lungs are clear.", "Cardiomegaly. Pneumothorax."]
SAID = ["Left nodule.", "Scoliosis. Cardiomegaly.", "Mass.", "Cardiomegaly. Effusion."]


def scores() -> tuple:
    agreement = compare([claims_of(text) for text in TEXTS], [claims_of(text) for text in SAID])
    return micro_score(agreement), macro_score(agreement)


def test_micro_and_macro_by_hand() -> None:
    micro, macro = scores()
    assert micro.estimate == pytest.approx(2 * 3 / (2 * 3 + 3 + 2))
    # cardiomegaly 1 hit, 1 false, 1 missed; nodule and scoliosis right; pneumothorax missed; mass and effusion no part
    assert macro.estimate == pytest.approx((0.5 + 1 + 1 + 0) / 4)


def test_resamples_equal_scores_of_the_drawn_rows() -> None:
    patients = Patients.of(["b", "a", "b", "c"])
    micro, macro = scores()
    for score in (micro, macro, mean_score([1.0, np.nan, 3.0, 4.0])):
        values = resampled(score, patients, resamples=5, seed=3)
        for number in range(5):
            times = patients.drawn(3, number)[patients.number_N]
            rows = np.repeat(np.arange(4), times.astype(int))
            assert values[number] == pytest.approx(float(score.value(score.parts_NK[rows].sum(0))), nan_ok=True)


def test_rows_in_another_order_give_the_same_interval() -> None:
    values, who = np.arange(20.0), [f"p{i // 2}" for i in range(20)]
    order = np.random.default_rng(0).permutation(20)
    one = interval(mean_score(values), Patients.of(who), resamples=50, seed=1)
    other = interval(mean_score(values[order]), Patients.of([who[i] for i in order]), resamples=50, seed=1)
    assert one == pytest.approx(other)
    assert one.low < one.estimate < one.high


def test_difference_cancels_what_both_find_hard() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300)
    first, second, patients = mean_score(hard + 0.1), mean_score(hard), Patients.of([str(i) for i in range(300)])
    found = difference(first, second, patients, resamples=100, seed=0)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert interval(first, patients, resamples=100, seed=0).low < 0


def test_randomisation_test_agrees_with_all_permutations() -> None:
    a, b = np.array([0.9, 0.8, 0.5, 0.7, 0.6]), np.array([0.5, 0.9, 0.1, 0.3, 0.5])
    patients = Patients.of(list("vwxyz"))
    signs = np.array(list(product([1, -1], repeat=5)))
    exact = np.mean(np.abs(signs @ (a - b)) >= np.abs((a - b).sum()) - 1e-12)
    p = randomisation_test(mean_score(a), mean_score(b), patients, permutations=4000, seed=0)
    assert p == pytest.approx(exact, abs=0.03)


def test_randomisation_test_is_uniform_under_the_null_and_small_otherwise() -> None:
    patients = Patients.of([str(i) for i in range(40)])
    found = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        a, b = rng.random(40), rng.random(40)
        found.append(randomisation_test(mean_score(a), mean_score(b), patients, permutations=200, seed=trial))
    assert 0.3 < np.mean(found) < 0.7
    assert np.mean(np.array(found) < 0.1) < 0.25
    a = np.linspace(0, 1, 40)
    p = randomisation_test(mean_score(a + 1), mean_score(a), patients, permutations=199, seed=0)
    assert p == 1 / 200  # never 0
    assert randomisation_test(mean_score(a), mean_score(a), patients, permutations=99, seed=0) == 1


def test_patients_change_places_whole() -> None:
    """Two patients: of 4 ways to swap 2 give the observed difference, whatever the number of their reports."""
    patients = Patients.of(["a"] * 10 + ["b"] * 10)
    a, b = np.ones(20), np.zeros(20)
    p = randomisation_test(mean_score(a), mean_score(b), patients, permutations=2000, seed=0)
    assert p == pytest.approx(0.5, abs=0.05)


def test_micro_f1_of_two_systems() -> None:
    truth = [claims_of(text) for text in TEXTS * 10]
    good, bad = micro_score(compare(truth, truth)), micro_score(compare(truth, [claims_of("Mass.")] * 40))
    patients = Patients.of([str(i) for i in range(40)])
    assert difference(good, bad, patients, resamples=20, seed=0).estimate == 1
    assert randomisation_test(good, bad, patients, permutations=99, seed=0) == 0.01


def test_errors() -> None:
    patients = Patients.of(["a", "b"])
    with pytest.raises(InputError, match=r"two systems with scores of shape \(2, 2\) and \(3, 2\)"):
        difference(mean_score([1, 2]), mean_score([1, 2, 3]), patients, resamples=2, seed=0)
    with pytest.raises(InputError, match="2 patient ids of 3 reports"):
        interval(mean_score([1, 2, 3]), patients, resamples=2, seed=0)
    nothing = interval(mean_score([1, 2]), patients, resamples=0, seed=0)
    assert nothing.estimate == 1.5
    assert np.isnan(nothing.low)
