"""What a trained network is worth: calibrated and thresholded on validation, scored once on test, with intervals.

N images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.classifier.bootstrap import Bootstrap, Interval, bootstrap, paired_difference
from raymedlt.classifier.calibration import Calibration, best_thresholds, calibration_error
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.metrics import ALL, METRICS, Floats, by_source, classes_of, micro
from raymedlt.images.examples import Examples, Rows
from raymedlt.images.splits import groups
from raymedlt.schema import PREDICTIONS, TEST, TRAIN, VALIDATION


@dataclass(frozen=True)
class Evaluation:
    """Scores of one network (or of an ensemble's mean)."""

    calibration: Calibration
    thresholds_C: Floats
    no_threshold: list[int]
    """Classes without a validation positive: their threshold is 0.5."""
    validation_NC: Floats
    """Calibrated probabilities of the validation images."""
    test_NC: Floats
    """Of the test images."""
    test: Bootstrap
    groups: dict[int, str]
    ece: float
    ece_raw: float
    """Before calibration: of the logits' sigmoid."""


def evaluate(
    examples: Examples, validation_logits_NC: npt.ArrayLike, test_logits_NC: npt.ArrayLike, config: ClassifyConfig
) -> Evaluation:
    """Calibrate and choose thresholds on validation, then score test. Logits in the order of `examples.rows(split)`."""
    validation, test = examples.rows(VALIDATION), examples.rows(TEST)
    labels, known = examples.labels_NC, examples.known_NC
    calibration = Calibration.fit(validation_logits_NC, labels[validation], known[validation])
    validation_NC = calibration.apply(validation_logits_NC)
    thresholds = best_thresholds(validation_NC, labels[validation], known[validation])
    test_NC = calibration.apply(test_logits_NC)
    raw = 1 / (1 + np.exp(-np.asarray(test_logits_NC, np.float64)))
    train = examples.rows(TRAIN)
    return Evaluation(
        calibration=calibration,
        thresholds_C=thresholds.values,
        no_threshold=thresholds.undefined,
        validation_NC=validation_NC,
        test_NC=test_NC,
        test=bootstrap(
            test_NC, labels[test], known[test], examples.patient_ids[test].tolist(),
            thresholds_C=thresholds.values, resamples=config.evaluation.bootstrap, seed=config.seed,
        ),
        groups=groups(labels[train], known[train], config.split.head_above, config.split.tail_up_to),
        ece=calibration_error(test_NC, labels[test], known[test]).macro,
        ece_raw=calibration_error(raw, labels[test], known[test]).macro,
    )  # fmt: skip


def predictions_table(examples: Examples, rows: Rows, probability_NC: Floats) -> pa.Table:
    """PREDICTIONS of the given rows, one row per image and class."""
    count, classes = len(rows), len(examples.classes)
    labels = np.where(examples.known_NC[rows], examples.labels_NC[rows], np.nan).astype(np.float32).ravel()
    repeated: dict[str, Any] = {
        "image_id": np.repeat(examples.image_ids[rows], classes),
        "patient_id": np.repeat(examples.patient_ids[rows], classes),
        "split": np.repeat(examples.splits[rows], classes),
        "class": np.tile(np.array(examples.classes, object), count),
        "label": pa.array(labels, pa.float32(), from_pandas=True),
        "probability": probability_NC.astype(np.float32).ravel(),
    }
    return pa.table(repeated).cast(PREDICTIONS)


def metrics_of(evaluation: Evaluation, examples: Examples) -> dict[str, Any]:
    """All figures as JSON values: by group, by class, micro, by source; None where undefined."""
    test = examples.rows(TEST)
    members = classes_of(evaluation.groups)
    labels, known = examples.labels_NC[test], examples.known_NC[test]
    ece = calibration_error(evaluation.test_NC, labels, known).per_class
    counts = examples.counts()
    per_class = []
    for number, name in enumerate(examples.classes):
        row: dict[str, Any] = {
            "class": name,
            "group": evaluation.groups[number],
            "train_positives": int(counts[number]),
            "test_positives": int(evaluation.test.scores.positives[number]),
            "threshold": float(evaluation.thresholds_C[number]),
            "ece": _number(ece[number]),
        }
        for metric in METRICS:
            row[metric] = interval_json(evaluation.test.interval(metric, [number]))
        per_class.append(row)
    sources = by_source(
        evaluation.test_NC, labels, known, examples.sources[test].tolist(), thresholds_C=evaluation.thresholds_C
    )
    return {
        "images": len(test),
        "groups": {
            group: {
                "classes": len(numbers),
                **{metric: interval_json(evaluation.test.interval(metric, numbers)) for metric in METRICS},
            }
            for group, numbers in members.items()
        },
        "per_class": per_class,
        "micro": {
            name: _number(value)
            for name, value in micro(evaluation.test_NC, labels, known, thresholds_C=evaluation.thresholds_C).items()
        },
        "by_source": {
            name: {metric: _number(scores.average(metric).value) for metric in METRICS}
            for name, scores in sources.items()
        },
        "ece": _number(evaluation.ece),
        "ece_before_calibration": _number(evaluation.ece_raw),
        "undefined": [examples.classes[number] for number in evaluation.test.scores.undefined("average_precision")],
        "without_threshold": [examples.classes[number] for number in evaluation.no_threshold],
    }


def ablation_rows(full: Evaluation, others: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """A row for the full method and each variant: macro and tail figures, and the paired difference to the full one."""
    members = classes_of(full.groups)
    rows = []
    for name, each in {"full": full, **others}.items():
        row: dict[str, Any] = {"variant": name}
        for group in (ALL, "head", "medium", "tail"):
            if group in members:
                row[group] = interval_json(each.test.interval("average_precision", members[group]))
                row[f"{group}_difference"] = interval_json(
                    paired_difference(each.test, full.test, "average_precision", members[group])
                )
        row["roc_auc"] = interval_json(each.test.interval("roc_auc"))
        rows.append(row)
    return rows


def interval_json(interval: Interval) -> dict[str, float | None]:
    """estimate, low and high; None where undefined."""
    return {name: _number(getattr(interval, name)) for name in ("estimate", "low", "high")}


def mean_logits(members: Sequence[npt.NDArray[np.float32]]) -> Floats:
    """The ensemble's logits: of the mean probability of its members, float64 [N, C]."""
    if len(members) == 1:
        return np.asarray(members[0], np.float64)
    mean = np.mean([1 / (1 + np.exp(-each.astype(np.float64))) for each in members], axis=0).clip(1e-12, 1 - 1e-12)
    logits: Floats = np.log(mean) - np.log1p(-mean)
    return logits


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
