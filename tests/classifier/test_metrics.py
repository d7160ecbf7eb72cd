"""Scores against scikit-learn, and the patient bootstrap against plain resampling."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from raymedlt.classifier.bootstrap import bootstrap, paired_difference
from raymedlt.classifier.metrics import METRICS, by_source, classes_of, micro, score
from raymedlt.errors import InputError
from raymedlt.seeds import generator

EXACT = {"rel": 0, "abs": 1e-12}


def case(images: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Probabilities with many ties, labels from common to rare, known flags, patients with one to many images."""
    rng = np.random.default_rng(seed)
    Y = rng.random((images, 5)) < np.array([0.5, 0.2, 0.05, 0.01, 0.004])
    Y[:2, 4] = True
    P = np.clip(rng.random(Y.shape) * 0.8 + 0.2 * Y, 0, 1)
    P[:, 1] = np.round(P[:, 1], 1)
    P[:, 2] = np.round(P[:, 2])
    P[:, 3] = 0.25
    known = rng.random(Y.shape) < 0.9
    known[:2] = True
    Y[0, 3] = True
    patients = [f"p{number}" for number in rng.integers(0, images // 3, images)]
    return P, Y, known, patients


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed: int):
    P, Y, known, _ = case(seed=seed)
    thresholds = np.array([0.5, 0.6, 1.0, 0.25, 0.7])
    scores = score(P, Y, known, thresholds_C=thresholds)
    for c in range(5):
        p, y = P[known[:, c], c], Y[known[:, c], c]
        assert scores.average_precision[c] == pytest.approx(average_precision_score(y, p), **EXACT)
        assert scores.roc_auc[c] == pytest.approx(roc_auc_score(y, p), **EXACT)
        assert scores.f1[c] == pytest.approx(f1_score(y, p >= thresholds[c]), **EXACT)
        assert (scores.positives[c], scores.negatives[c]) == (y.sum(), (~y).sum())


def test_by_hand():
    # Scores .9 (positive), .5 (positive and negative together), .1 (negative).
    scores = score([[0.9], [0.5], [0.5], [0.1]], [[1], [1], [0], [0]])
    assert scores.average_precision[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, **EXACT)
    assert scores.roc_auc[0] == pytest.approx((2 + 1.5) / 4, **EXACT)
    assert scores.f1[0] == pytest.approx(0.8, **EXACT)  # the threshold itself is positive


def test_float32_probabilities_and_labels_that_are_not_known_are_not_read():
    P, Y, known, _ = case()
    labels = np.where(known, Y, np.nan).astype(np.float32)
    P[~known] = np.nan
    scores = score(P.astype(np.float32), labels, known)
    rows = known[:, 0]
    expected = average_precision_score(Y[rows, 0], P[rows, 0].astype(np.float32))
    assert scores.average_precision[0] == pytest.approx(expected, **EXACT)


def test_a_class_that_says_nothing_is_undefined_left_out_and_listed():
    P = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    Y = np.array([[1, 0, 1], [0, 0, 1]])
    scores = score(P, Y)
    assert np.isnan(scores.average_precision).tolist() == [False, True, False]
    assert np.isnan(scores.roc_auc).tolist() == [False, True, True]
    assert np.isnan(scores.f1).tolist() == [False, True, False]
    assert scores.undefined("average_precision") == [1]
    assert scores.undefined("roc_auc") == [1, 2]
    assert scores.average("average_precision") == (1.0, 2, 1)
    assert scores.average("roc_auc") == (1.0, 1, 2)
    value, classes, undefined = scores.average("f1", [1])
    assert np.isnan(value)
    assert (classes, undefined) == (0, 1)


def test_groups_and_their_means():
    P, Y, known, _ = case()
    scores = score(P, Y, known)
    members = classes_of({0: "head", 1: "head", 2: "medium", 3: "tail", 4: "tail"})
    assert members == {"all": [0, 1, 2, 3, 4], "head": [0, 1], "medium": [2], "tail": [3, 4]}
    assert scores.average("roc_auc", members["tail"]).value == pytest.approx(scores.roc_auc[3:].mean(), **EXACT)


def test_micro_averages():
    P, Y, known, _ = case()
    thresholds = np.array([0.5, 0.6, 1.0, 0.3, 0.7])
    found = micro(P, Y, known, thresholds_C=thresholds)
    assert found["average_precision"] == pytest.approx(average_precision_score(Y[known], P[known]), **EXACT)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(Y[known], P[known]), **EXACT)
    assert found["f1"] == pytest.approx(f1_score(Y[known], (thresholds <= P)[known]), **EXACT)


def test_within_a_source_a_label_that_goes_with_it_scores_nothing():
    sources = ["here"] * 50 + ["there"] * 50
    P = np.array([[0.9]] * 50 + [[0.1]] * 50)
    Y = np.zeros((100, 1), bool)
    Y[:40] = Y[60:62] = True
    assert score(P, Y).roc_auc[0] > 0.8
    parts = by_source(P, Y, None, sources)
    assert list(parts) == ["here", "there"]
    assert [part.roc_auc[0] for part in parts.values()] == [0.5, 0.5]
    assert [int(part.positives[0]) for part in parts.values()] == [40, 2]


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(InputError, match=r"predictions \(3, 2\), labels \(2, 2\).*one shape \[images, classes\]"):
        score(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"1 of 4 predictions aren't finite numbers.*diverged"):
        score([[np.nan, 0.1], [0.2, 0.3]], np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"thresholds of shape \(3,\).*one for each of the 2 classes"):
        score(np.zeros((2, 2)), np.zeros((2, 2)), thresholds_C=[0.5] * 3)
    with pytest.raises(InputError, match=r"1 patient ids of 2 images"):
        bootstrap(np.zeros((2, 1)), np.zeros((2, 1)), None, ["a"], resamples=1, seed=0)


def resampled_rows(patients: list[str], seed: int, number: int) -> np.ndarray:
    """The images of a resample, one by one: every drawn patient brings all of theirs."""
    names = sorted(set(patients))
    drawn = generator(seed, "bootstrap", number).integers(len(names), size=len(names))
    owner = np.array(patients)
    return np.concatenate([np.flatnonzero(owner == names[patient]) for patient in drawn])


def test_the_bootstrap_equals_plain_resampling():
    P, Y, known, patients = case(images=250)
    thresholds = np.array([0.5, 0.6, 1.0, 0.25, 0.7])
    found = bootstrap(P, Y, known, patients, thresholds_C=thresholds, resamples=30, seed=7)
    undefined = 0
    for number in range(30):
        rows = resampled_rows(patients, 7, number)
        for c in range(5):
            kept = rows[known[rows, c]]
            p, y = P[kept, c], Y[kept, c]
            if not y.any():
                undefined += 1
                assert np.isnan(found.values_MRC[:, number, c]).all()
                continue
            expected = [
                average_precision_score(y, p),
                roc_auc_score(y, p),
                f1_score(y, p >= thresholds[c]),
            ]
            assert found.values_MRC[:, number, c] == pytest.approx(expected, **EXACT)
    assert undefined > 0
    assert found.interval("roc_auc", [4]).undefined == np.isnan(found.values_MRC[1, :, 4]).sum() > 0
    alone = score(P, Y, known, thresholds_C=thresholds)
    for metric in METRICS:
        assert np.array_equal(found.scores.of(metric), alone.of(metric))


def test_intervals_are_percentiles_of_means_over_the_defined_classes():
    P, Y, known, patients = case()
    found = bootstrap(P, Y, known, patients, resamples=200, seed=1)
    means = np.nanmean(found.values_MRC[0][:, [0, 4]], axis=1)
    interval = found.interval("average_precision", [0, 4])
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), **EXACT)
    assert interval.estimate == found.scores.average("average_precision", [0, 4]).value
    assert interval.low < interval.estimate < interval.high
    nothing = bootstrap(P, Y, known, patients, resamples=0, seed=1).interval("roc_auc")
    assert np.isnan([nothing.low, nothing.high]).all()
    assert nothing.estimate == found.scores.average("roc_auc").value


def test_images_of_one_patient_are_not_independent():
    rng = np.random.default_rng(0)
    Y = np.repeat(rng.random((60, 1)) < 0.4, 10, axis=0)
    P = np.repeat(rng.random((60, 1)), 10, axis=0) * 0.7 + 0.3 * Y
    patients = [f"p{number // 10}" for number in range(600)]
    clustered = bootstrap(P, Y, None, patients, resamples=300, seed=0).interval("roc_auc")
    single = bootstrap(P, Y, None, [f"i{n}" for n in range(600)], resamples=300, seed=0).interval("roc_auc")
    assert clustered.high - clustered.low > 2 * (single.high - single.low)


def test_resamples_depend_on_seed_and_patients_only(monkeypatch: pytest.MonkeyPatch):
    P, Y, known, patients = case(images=200)
    found = bootstrap(P, Y, known, patients, resamples=20, seed=1)
    order = np.random.default_rng(0).permutation(200)
    shuffled = bootstrap(P[order], Y[order], known[order], [patients[i] for i in order], resamples=20, seed=1)
    assert np.array_equal(found.values_MRC, shuffled.values_MRC, equal_nan=True)
    more = bootstrap(P, Y, known, patients, resamples=25, seed=1)
    assert np.allclose(found.values_MRC, more.values_MRC[:, :20], rtol=0, atol=1e-12, equal_nan=True)
    other = bootstrap(P, Y, known, patients, resamples=20, seed=2)
    assert not np.allclose(found.values_MRC[:, :, 0], other.values_MRC[:, :, 0])
    monkeypatch.setattr("raymedlt.classifier.bootstrap._BLOCK_VALUES", 2000)  # a few resamples at once
    blocks = bootstrap(P, Y, known, patients, resamples=20, seed=1)
    assert np.allclose(found.values_MRC, blocks.values_MRC, rtol=0, atol=1e-12, equal_nan=True)


def test_a_paired_difference_is_of_the_same_resamples():
    P, Y, known, patients = case(images=600)
    rng = np.random.default_rng(3)
    better = P + 0.05 * Y
    first = bootstrap(better, Y, known, patients, resamples=200, seed=1)
    second = bootstrap(P, Y, known, patients, resamples=200, seed=1)
    gain = paired_difference(first, second, "roc_auc", [0, 1])
    means = first.averages("roc_auc", [0, 1]) - second.averages("roc_auc", [0, 1])
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), **EXACT)
    assert 0 < gain.low < gain.estimate < gain.high
    alone = [model.interval("roc_auc", [0, 1]) for model in (first, second)]
    assert gain.high - gain.low < 0.5 * (alone[0].high - alone[0].low)
    same = paired_difference(first, first, "f1")
    assert same == (0.0, 0.0, 0.0, 0)
    for other in (
        bootstrap(P, Y, known, patients, resamples=200, seed=2),
        bootstrap(P, Y, known, patients, resamples=100, seed=1),
        bootstrap(P, rng.permutation(Y), known, patients, resamples=200, seed=1),
        bootstrap(P, Y, known, [f"x{patient}" for patient in patients], resamples=200, seed=1),
    ):
        with pytest.raises(InputError, match=r"two bootstraps of different patients, labels, seeds"):
            paired_difference(first, other, "roc_auc")


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # A binormal model with 2 images a patient that share half of their variance; its true area is known.
    rng = np.random.default_rng(11)
    truth = 0.7602  # Phi(1 / sqrt 2)
    held = 0
    for trial in range(200):
        y = np.repeat(rng.random(120) < 0.4, 2)
        noise = np.repeat(rng.normal(size=120), 2) * np.sqrt(0.5) + rng.normal(size=240) * np.sqrt(0.5)
        patients = [f"p{n // 2}" for n in range(240)]
        interval = bootstrap((y + noise)[:, None], y[:, None], None, patients, resamples=200, seed=trial).interval(
            "roc_auc"
        )
        held += interval.low <= truth <= interval.high
    assert 0.89 <= held / 200 <= 0.99
