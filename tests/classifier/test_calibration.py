"""Thresholds, calibration error, and probabilities that mean what they say."""

from typing import Literal

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from raymedlt.classifier.calibration import Calibration, best_thresholds, calibration_error
from raymedlt.classifier.metrics import score
from raymedlt.errors import InputError


def miscalibrated(images: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of three classes off by a scale and an offset of their own; the labels follow the true probabilities."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(images, 3)) * 1.5 + np.array([-1.0, -2.0, -3.0])
    Y = rng.random(truth.shape) < expit(truth)
    return truth * np.array([3.0, 0.5, 2.0]) + np.array([1.0, 2.0, -1.0]), Y


@pytest.mark.parametrize("digits", [8, 1])
def test_no_threshold_has_a_better_f1(digits: int):
    rng = np.random.default_rng(digits)
    Y = rng.random((100, 4)) < np.array([0.5, 0.2, 0.05, 0.01])
    Y[0] = True
    P = np.round(rng.random(Y.shape) * 0.7 + 0.3 * Y, digits)
    known = rng.random(Y.shape) < 0.9
    known[0] = True
    found = best_thresholds(P, Y, known)
    assert found.undefined == []
    for c in range(4):
        p, y = P[known[:, c], c], Y[known[:, c], c]
        best = max(f1_score(y, p >= level) for level in np.unique(p))
        assert f1_score(y, p >= found.values[c]) == pytest.approx(best, abs=1e-12)
        fewer = [level for level in np.unique(p) if (p >= level).sum() < (p >= found.values[c]).sum()]
        assert all(f1_score(y, p >= level) < best - 1e-12 for level in fewer)  # ties: the largest threshold


def test_thresholds_lie_half_way_and_an_undefined_class_keeps_one_half():
    P = np.array([[0.9, 0.3, 0.2], [0.7, 0.3, 0.9], [0.2, 0.3, 0.9]])
    Y = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1]])
    found = best_thresholds(P, Y)
    assert found.values == pytest.approx([0.45, 0.5, 0.2])
    assert found.undefined == [1]
    close = np.nextafter(0.5, 1)
    assert best_thresholds([[close], [0.5]], [[1], [0]]).values[0] == close
    hidden = best_thresholds(P, Y, np.array([[True] * 3, [True] * 3, [True, True, False]]))
    assert hidden.values[2] == pytest.approx(0.2)


def test_calibration_error_by_hand():
    # Bins of 0.2, each with its upper edge: {.1, .2}, {.7}, {.9}.
    P = np.array([[0.1], [0.2], [0.9], [0.7]])
    Y = np.array([[0], [0], [1], [0]])
    expected = (abs(0.3 - 0) + abs(0.9 - 1) + abs(0.7 - 0)) / 4
    assert calibration_error(P, Y, bins=5).per_class[0] == pytest.approx(expected)
    halves = (abs(0.3 - 0) + abs(1.6 - 1)) / 4
    assert calibration_error(P, Y, bins=2, equal_mass=True).per_class[0] == pytest.approx(halves)
    assert calibration_error(P, Y, bins=2).macro == pytest.approx(halves)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibration_error_of_honest_and_of_boastful_probabilities(equal_mass: bool):
    rng = np.random.default_rng(0)
    P = rng.random((20_000, 2)) ** 2
    Y = rng.random(P.shape) < P
    honest = calibration_error(P, Y, equal_mass=equal_mass)
    assert honest.macro < 0.01
    assert honest.macro == pytest.approx(honest.per_class.mean())
    assert calibration_error(np.sqrt(P), Y, equal_mass=equal_mass).macro > 0.1
    known = np.ones_like(Y)
    known[:, 1] = False
    unknown = calibration_error(P, Y, known, equal_mass=equal_mass)
    assert np.isnan(unknown.per_class[1])
    assert unknown.macro == unknown.per_class[0]


def test_equal_probabilities_are_one_bin_whatever_the_order():
    P = np.full((100, 1), 0.3)
    Y = np.zeros((100, 1))
    Y[:30] = 1
    assert calibration_error(P, Y, equal_mass=True).macro == pytest.approx(0, abs=1e-12)


def test_a_scale_and_intercept_for_each_class():
    logits, Y = miscalibrated()
    calibration = Calibration.fit(logits, Y)
    assert calibration.own == (True, True, True)
    assert calibration.scale == pytest.approx((1 / 3, 2, 1 / 2), rel=0.12)
    for c in range(3):
        targets = np.where(Y[:, c], (Y[:, c].sum() + 1) / (Y[:, c].sum() + 2), 1 / ((~Y[:, c]).sum() + 2))
        # Platt's targets are labels with weights, which scikit-learn's unpenalised regression takes.
        x = np.concatenate([logits[:, [c]]] * 2)
        y = np.repeat([1, 0], len(Y))
        model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000)
        model.fit(x, y, sample_weight=np.concatenate([targets, 1 - targets]))
        assert calibration.scale[c] == pytest.approx(model.coef_[0, 0], rel=1e-5)
        assert calibration.intercept[c] == pytest.approx(model.intercept_[0], rel=1e-5, abs=1e-5)
    fresh, truth = miscalibrated(seed=1)
    before, after = calibration_error(expit(fresh), truth), calibration_error(calibration.apply(fresh), truth)
    assert before.macro > 0.1
    assert after.macro < 0.02
    assert score(calibration.apply(fresh), truth).roc_auc == pytest.approx(score(fresh, truth).roc_auc, abs=1e-12)


def test_one_temperature():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5000, 4)) * 2
    Y = rng.random(truth.shape) < expit(truth)
    calibration = Calibration.fit(truth * 2.5, Y, method="temperature")
    assert set(calibration.intercept) == {0.0}
    assert len(set(calibration.scale)) == 1
    assert 1 / calibration.scale[0] == pytest.approx(2.5, rel=0.05)
    assert calibration.own == (False,) * 4


def test_rare_and_reversed_classes_have_what_all_share():
    logits, Y = miscalibrated()
    likeliest = np.argsort(-logits[:, 2])
    Y[:, 2] = False
    Y[likeliest[:9], 2] = True
    logits[:, 1] *= -1
    calibration = Calibration.fit(logits, Y)
    assert calibration.own == (True, False, False)
    assert calibration.scale[1] == calibration.scale[2] > 0
    assert calibration.intercept[1] == calibration.intercept[2]
    Y[likeliest[9], 2] = True
    assert Calibration.fit(logits, Y).own == (True, False, True)
    assert Calibration.fit(logits, Y, min_positives=11).own == (True, False, False)


def test_labels_that_are_not_known_have_no_part():
    logits, Y = miscalibrated()
    known = np.random.default_rng(4).random(Y.shape) < 0.7
    part = Calibration.fit(logits, Y, known)
    garbled = Calibration.fit(np.where(known, logits, np.nan), np.where(known, Y, ~Y), known)
    assert garbled == part
    assert part != Calibration.fit(logits, Y)
    with pytest.raises(InputError, match=r"no known label to calibrate on.*raise split.validation"):
        Calibration.fit(logits, Y, np.zeros_like(known))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_separable_constant_and_huge_logits_stay_finite(size: float):
    Y = np.zeros((200, 3), bool)
    Y[:60] = True
    logits = np.where(Y, 1.0, -1.0) * size + np.array([0.0, 50.0, 0.0]) * size
    logits[:, 2] = size
    calibration = Calibration.fit(logits, Y)
    assert np.isfinite([calibration.scale, calibration.intercept]).all()
    assert min(calibration.scale) > 0
    probability = calibration.apply(logits)
    assert probability[:60, :2].min() > 0.9
    assert probability[60:, :2].max() < 0.1
    assert probability[:, 2] == pytest.approx(0.3, abs=0.01)
    worse = Calibration.fit(-logits[:, :1], Y[:, :1])
    assert worse.scale == (1.0,)


@pytest.mark.parametrize("method", ["platt", "temperature"])
@pytest.mark.parametrize("size", [1e-3, 1e5])
def test_the_unit_of_the_logits_does_not_matter(method: Literal["platt", "temperature"], size: float):
    logits, Y = miscalibrated()
    plain, scaled = Calibration.fit(logits, Y, method=method), Calibration.fit(logits * size, Y, method=method)
    assert np.array(scaled.scale) * size == pytest.approx(np.array(plain.scale), rel=1e-5)
    assert scaled.intercept == pytest.approx(plain.intercept, rel=1e-5)


def test_json_gives_back_the_same_numbers():
    logits, Y = miscalibrated()
    calibration = Calibration.fit(logits, Y)
    again = Calibration.from_json(calibration.to_json())
    assert again == calibration
    assert np.array_equal(again.apply(logits), calibration.apply(logits))
