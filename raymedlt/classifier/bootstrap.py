"""Intervals of scores by a bootstrap over patients, and of differences between two models on the same resamples.

Patients are drawn, with replacement, and come with all their images (see resampling; for ROC curves Rutter, Acad Radiol
2000).

A class of which a resample has no positive is undefined in it. Its own interval leaves such resamples out and counts
them; a mean over classes is over those that the resample defines. The interval of a class with a handful of patients
is thus too narrow, which is why `undefined` and the number of positives belong beside it.

Shape suffixes: N images, C classes, P patients, R resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymedlt.classifier.metrics import METRICS, Floats, Scores, checked, checked_thresholds, measure, rank, score
from raymedlt.errors import InputError
from raymedlt.resampling import Interval, Patients, means, percentile_interval

__all__ = ["Bootstrap", "Interval", "bootstrap", "paired_difference"]

_BLOCK_VALUES = 2**21  # of float64 in one array of a block of resamples (16 MiB)


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Scores of one model, and of its resamples."""

    scores: Scores
    """Of all patients."""
    values_MRC: Floats
    """`METRICS` of each resample and class, NaN where undefined."""
    key: tuple[int, int, str]
    """What the resamples follow from: seed, their number, hash of the patients. Equal keys: the same resamples."""

    def averages(self, metric: str, classes: npt.ArrayLike | None = None) -> Floats:
        """Mean of a metric over these classes (all, if not given) in each resample, [R]."""
        values_RC = self.values_MRC[METRICS.index(metric)]
        return means(values_RC if classes is None else values_RC[:, np.asarray(classes, dtype=np.int64)])

    def interval(self, metric: str, classes: npt.ArrayLike | None = None) -> Interval:
        """A metric's mean over these classes (all, if not given; [number] for one class) with its interval."""
        return percentile_interval(self.scores.average(metric, classes).value, self.averages(metric, classes))


def bootstrap(
    P_NC: npt.ArrayLike,
    Y_NC: npt.ArrayLike,
    known_NC: npt.ArrayLike | None,
    patient_ids: Sequence[str],
    *,
    thresholds_C: npt.ArrayLike | None = None,
    resamples: int,
    seed: int,
) -> Bootstrap:
    """Score all patients and `resamples` resamples of them.

    Args:
        P_NC, Y_NC, known_NC, thresholds_C: as `metrics.score`. The thresholds stay as they are in every resample.
        patient_ids: [N].
        resamples: how many; 0 leaves the intervals NaN.
        seed: the run's seed.

    Raises:
        InputError: as `metrics.score`, or another number of patient ids than of images.

    Complexity: O(R N C) multiplications (1,000 resamples of 10,000 images, 20 classes: seconds on one core); memory
    12 bytes for each known pair of image and class, 24 R C for the result, and some blocks of 16 MiB.
    """
    probability_NC, positive_NC, known = checked(P_NC, Y_NC, known_NC)
    images, classes = probability_NC.shape
    if len(patient_ids) != images:
        raise InputError(f"{len(patient_ids)} patient ids of {images} images", "one for each", "give the same rows")
    thresholds = checked_thresholds(thresholds_C, classes)
    whose = Patients.of(patient_ids)
    patients = whose.count
    rankings = [
        rank(
            probability_NC[known[:, c], c],
            positive_NC[known[:, c], c],
            float(thresholds[c]),
            whose.number_N[known[:, c]],
            patients,
        )
        for c in range(classes)
    ]
    widest = max([patients, *(ranking.counts.shape[0] for ranking in rankings)])
    block = max(1, _BLOCK_VALUES // max(widest, 1))
    values_MRC = np.full((len(METRICS), resamples, classes), np.nan)
    for start in range(0, resamples if patients else 0, block):
        numbers = range(start, min(start + block, resamples))
        weights_PR = np.ascontiguousarray(np.stack([whose.drawn(seed, number) for number in numbers]).T)
        for c, ranking in enumerate(rankings):
            values_MRC[:, start : numbers.stop, c] = measure(ranking, weights_PR)
    scores = score(probability_NC, positive_NC, known, thresholds_C=thresholds)
    return Bootstrap(scores, values_MRC, (seed, resamples, whose.digest))


def paired_difference(
    first: Bootstrap, second: Bootstrap, metric: str, classes: npt.ArrayLike | None = None
) -> Interval:
    """How much better `first` is than `second`, resample by resample: what both find hard cancels out.

    Raises:
        InputError: the two are not of the same patients, labels, number of resamples and seed.
    """
    same = first.key == second.key and all(
        np.array_equal(a, b)
        for a, b in (
            (first.scores.positives, second.scores.positives),
            (first.scores.negatives, second.scores.negatives),
        )
    )
    if not same:
        raise InputError(
            "two bootstraps of different patients, labels, seeds or numbers of resamples",
            "the same resamples of the same images for both models",
            "score both models on the same rows with the same seed and number of resamples",
        )
    estimate = first.scores.average(metric, classes).value - second.scores.average(metric, classes).value
    return percentile_interval(estimate, first.averages(metric, classes) - second.averages(metric, classes))
