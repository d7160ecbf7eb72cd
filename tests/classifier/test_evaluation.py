"""Scores of small arrays: what is chosen on validation, what is undefined, and what the tables and JSON say of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from classifier_world import quick, world

from raymedlt.classifier.calibration import best_thresholds
from raymedlt.classifier.evaluation import (
    Evaluation,
    ablation_rows,
    evaluate,
    interval_json,
    mean_logits,
    metrics_of,
    predictions_table,
)
from raymedlt.classifier.metrics import score
from raymedlt.images.examples import Examples
from raymedlt.schema import PREDICTIONS, TEST, VALIDATION
from raymedlt.seeds import generator

CONFIG = quick()


def logits(examples: Examples, split: str, skill: float = 2.0, shift: float = 0.0) -> np.ndarray:
    """Of a classifier that knows something."""
    rows = examples.rows(split)
    noise = generator(0, "logits", split).normal(0, 1, (len(rows), 3))
    return (noise + skill * examples.labels_NC[rows] + shift).astype(np.float32)


def evaluated(examples: Examples, **changed: float) -> Evaluation:
    return evaluate(examples, logits(examples, VALIDATION, **changed), logits(examples, TEST, **changed), CONFIG)


def without(examples: Examples, split: str, number: int, *, known: bool) -> Examples:
    """No image of the split shows the class; or nobody knows of any whether it does."""
    labels, flags = examples.labels_NC.copy(), examples.known_NC.copy()
    labels[examples.rows(split), number] = 0
    flags[examples.rows(split), number] = known
    return dataclasses.replace(examples, labels_NC=labels, known_NC=flags)


EXAMPLES = world(360)
FULL = evaluated(EXAMPLES)


# What is chosen where


def test_calibration_and_thresholds_come_from_validation_alone():
    test = EXAMPLES.rows(TEST)
    labels = EXAMPLES.labels_NC.copy()
    labels[test] = 1 - labels[test]
    other = evaluate(
        dataclasses.replace(EXAMPLES, labels_NC=labels),
        logits(EXAMPLES, VALIDATION),
        3 * logits(EXAMPLES, TEST) + 1,
        CONFIG,
    )
    assert other.calibration == FULL.calibration
    np.testing.assert_array_equal(other.thresholds_C, FULL.thresholds_C)
    np.testing.assert_array_equal(other.validation_NC, FULL.validation_NC)
    assert other.test.scores.average("roc_auc").value != FULL.test.scores.average("roc_auc").value


def test_thresholds_are_those_of_the_calibrated_validation_probabilities():
    rows = EXAMPLES.rows(VALIDATION)
    expected = best_thresholds(FULL.validation_NC, EXAMPLES.labels_NC[rows], EXAMPLES.known_NC[rows])
    np.testing.assert_array_equal(FULL.thresholds_C, expected.values)
    shifted = evaluated(EXAMPLES, shift=5.0)  # calibration takes a shift of all logits back
    np.testing.assert_allclose(shifted.test_NC, FULL.test_NC, atol=1e-5)
    assert shifted.ece_raw > 3 * shifted.ece


def test_the_test_scores_are_those_of_the_test_images():
    rows = EXAMPLES.rows(TEST)
    expected = score(FULL.test_NC, EXAMPLES.labels_NC[rows], thresholds_C=FULL.thresholds_C)
    for metric in ("average_precision", "roc_auc", "f1"):
        np.testing.assert_array_equal(FULL.test.scores.of(metric), expected.of(metric))
    assert FULL.groups == {0: "head", 1: "head", 2: "head"}


def test_synthetic_images_have_no_part_in_the_scores():
    synthetic = np.zeros(len(EXAMPLES), bool)
    synthetic[EXAMPLES.rows(TEST)[:5]] = True
    examples = dataclasses.replace(EXAMPLES, synthetic=synthetic)
    real = evaluate(examples, logits(EXAMPLES, VALIDATION), logits(EXAMPLES, TEST)[5:], CONFIG)
    assert real.test_NC.shape == (55, 3)
    assert metrics_of(real, examples)["images"] == 55


# JSON


def test_metrics_are_json_with_numbers_where_all_is_defined():
    metrics = metrics_of(FULL, EXAMPLES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert [each["class"] for each in metrics["per_class"]] == list(EXAMPLES.classes)
    assert metrics["groups"]["all"]["classes"] == 3
    mean = np.mean([each["average_precision"]["estimate"] for each in metrics["per_class"]])
    assert metrics["groups"]["all"]["average_precision"]["estimate"] == pytest.approx(mean)
    assert metrics["groups"]["head"] == metrics["groups"]["all"]
    assert metrics["undefined"] == metrics["without_threshold"] == []
    assert list(metrics["by_source"]) == ["world"]
    for each in metrics["per_class"]:
        assert each["average_precision"]["low"] <= each["average_precision"]["estimate"] <= 1
        assert each["train_positives"] == EXAMPLES.counts()[EXAMPLES.classes.index(each["class"])]


@pytest.mark.parametrize("known", [True, False])
def test_a_class_without_test_positives_is_none_and_named(known):
    examples = without(EXAMPLES, TEST, 1, known=known)
    metrics = metrics_of(evaluated(examples), examples)
    json.dumps(metrics, allow_nan=False)
    bar = metrics["per_class"][1]
    assert metrics["undefined"] == ["Bar"]
    assert bar["test_positives"] == 0
    for metric in ("average_precision", "roc_auc", "f1"):
        assert bar[metric] == {"estimate": None, "low": None, "high": None}
    assert (bar["ece"] is None) == (not known)
    others = [metrics["per_class"][n]["average_precision"]["estimate"] for n in (0, 2)]
    assert metrics["groups"]["all"]["average_precision"]["estimate"] == pytest.approx(np.mean(others))
    assert metrics["groups"]["all"]["classes"] == 3


def test_a_class_without_validation_positives_has_no_threshold_of_its_own():
    examples = without(EXAMPLES, VALIDATION, 2, known=True)
    evaluation = evaluated(examples)
    assert evaluation.no_threshold == [2]
    assert evaluation.thresholds_C[2] == 0.5
    assert metrics_of(evaluation, examples)["without_threshold"] == ["Dot"]


def test_undefined_numbers_are_none():
    interval = FULL.test.interval("average_precision", [0])
    assert interval_json(interval) == {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    assert interval_json(interval._replace(low=float("nan")))["low"] is None


def test_no_resamples_give_estimates_without_intervals():
    config = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, bootstrap=0))
    bare = evaluate(EXAMPLES, logits(EXAMPLES, VALIDATION), logits(EXAMPLES, TEST), config)
    ap = metrics_of(bare, EXAMPLES)["groups"]["all"]["average_precision"]
    assert ap["estimate"] == FULL.test.interval("average_precision").estimate
    assert ap["low"] is None
    assert ap["high"] is None


# Tables


def test_predictions_have_a_row_per_image_and_class_and_null_for_unknown_labels():
    known = EXAMPLES.known_NC.copy()
    rows = EXAMPLES.rows(TEST)
    known[rows[1], 2] = False
    examples = dataclasses.replace(EXAMPLES, known_NC=known)
    table = predictions_table(examples, rows, FULL.test_NC)
    assert table.schema.equals(PREDICTIONS)
    assert table.num_rows == 3 * len(rows)
    assert table["label"].null_count == 1
    assert table["probability"].null_count == 0
    first, second = table.slice(0, 3).to_pylist(), table.slice(3, 3).to_pylist()
    assert [row["class"] for row in first] == [row["class"] for row in second] == list(examples.classes)
    assert second[2]["label"] is None
    assert {row["image_id"] for row in second} == {examples.image_ids[rows[1]]}
    assert {row["patient_id"] for row in second} == {examples.patient_ids[rows[1]]}
    assert [row["label"] for row in first] == examples.labels_NC[rows[0]].tolist()
    np.testing.assert_allclose([row["probability"] for row in second], FULL.test_NC[1], rtol=1e-6)
    none = predictions_table(examples, rows[:0], FULL.test_NC[:0])
    assert none.schema.equals(PREDICTIONS)


# Several networks


def test_the_ablation_compares_each_variant_with_the_full_network():
    worse = evaluated(EXAMPLES, skill=0.5)
    rows = ablation_rows(FULL, {"no-skill": worse, "same": evaluated(EXAMPLES)})
    json.dumps(rows, allow_nan=False)
    assert [row["variant"] for row in rows] == ["full", "no-skill", "same"]
    assert set(rows[0]) == {"variant", "all", "all_difference", "head", "head_difference", "roc_auc"}
    zero = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert rows[0]["all_difference"] == rows[2]["all_difference"] == zero
    lost = rows[1]["all"]["estimate"] - rows[0]["all"]["estimate"]
    assert lost < -0.1
    assert rows[1]["all_difference"]["estimate"] == pytest.approx(lost)
    assert rows[1]["all_difference"]["high"] < 0


def test_an_ensemble_gives_the_logit_of_the_mean_probability():
    one, two = np.array([[0.0, 2.0]], np.float32), np.array([[1.0, -30.0]], np.float32)
    p = 1 / (1 + np.exp(-np.concatenate([one, two]).astype(np.float64)))
    expected = np.log(p.mean(0)) - np.log1p(-p.mean(0))
    np.testing.assert_allclose(mean_logits([one, two])[0], expected)
    np.testing.assert_array_equal(mean_logits([one]), one)
    assert mean_logits([one]).dtype == mean_logits([one, two]).dtype == np.float64
    far = np.array([[500.0, -500.0]], np.float32)
    assert np.isfinite(mean_logits([far, far])).all()
