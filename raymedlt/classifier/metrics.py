"""Average precision, area under the ROC curve and F1 per class, macro, micro, by frequency group and by source.

Conventions are CXR-LT's (Holste et al., Medical Image Analysis 2024): macro means over classes. A class without a known
positive is undefined (NaN), left out of every mean and listed; so is a class without a known negative for the area
under the ROC curve. Where a label is uncertain or unknown, the pair of image and class has no part in anything.

Ties are handled as in scikit-learn: images with one score enter together. With tp_g positives in the g-th group of
equal scores (largest score first), TP_g and FP_g positives and negatives down to its end, t_g negatives in it, and P, N
of them in all:
    average precision = sum_g (tp_g / P) TP_g / (TP_g + FP_g)
    area under ROC    = sum_g tp_g (N - FP_g + t_g / 2) / (P N)   (Mann-Whitney: ties count half)
Both sum over groups with a positive only. `Ranking` holds the counts that this needs for each patient, so that scoring
any weights of the patients (a bootstrap's resamples) is one sparse product.

Shape suffixes: N images, C classes, P patients, G groups of equal scores with a positive, R sets of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raymedlt.errors import InputError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

METRICS = ("average_precision", "roc_auc", "f1")
ALL = "all"


class Average(NamedTuple):
    """A mean over classes. value: NaN where none is defined; classes: how many are; undefined: how many were not."""

    value: float
    classes: int
    undefined: int


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one set of predictions, all [C]; NaN where a class is undefined."""

    average_precision: Floats
    roc_auc: Floats
    f1: Floats
    """At the thresholds given, 2 TP / (2 TP + FP + FN)."""
    positives: Integers
    """Images known to have the class."""
    negatives: Integers
    """Images known not to have it."""

    def of(self, metric: str) -> Floats:
        """One of `METRICS`, [C]."""
        values: Floats = getattr(self, metric)
        return values

    def average(self, metric: str, classes: npt.ArrayLike | None = None) -> Average:
        """Mean of a metric over the classes of these numbers (all, if not given) that are defined."""
        values = self.of(metric) if classes is None else self.of(metric)[np.asarray(classes, dtype=np.int64)]
        defined = values[~np.isnan(values)]
        value = float(defined.mean()) if len(defined) else float("nan")
        return Average(value, len(defined), len(values) - len(defined))

    def undefined(self, metric: str) -> list[int]:
        """Numbers of the classes on which a metric says nothing."""
        return [int(number) for number in np.flatnonzero(np.isnan(self.of(metric)))]


class Ranking(NamedTuple):
    """One class's images in order of probability, as counts that any weights of the patients can be applied to.

    counts: [3G + 3, P] sparse float64. Rows: G of positives in a group; G of negatives with the same score as a group's
    positives; G + 1 of negatives between groups (before the first, ..., after the last); true positives at the
    threshold; all images at or above the threshold.
    """

    counts: sparse.csr_array
    groups: int


def score(
    P_NC: npt.ArrayLike,
    Y_NC: npt.ArrayLike,
    known_NC: npt.ArrayLike | None = None,
    *,
    thresholds_C: npt.ArrayLike | None = None,
) -> Scores:
    """Scores of every class.

    Args:
        P_NC: probabilities (or anything that orders the images), float. An image is called positive at its threshold
            or above.
        Y_NC: labels, 0 or 1 (or flags). Read only where known.
        known_NC: flags; None: all are known.
        thresholds_C: for F1. Default: 0.5 for every class. Take them from validation (`calibration.best_thresholds`).

    Raises:
        InputError: the shapes differ, or a probability of a known label isn't a number.

    Complexity: O(N C log N) time, O(N) memory.
    """
    probability_NC, positive_NC, known = checked(P_NC, Y_NC, known_NC)
    one_patient_N = np.zeros(len(probability_NC), dtype=np.int64)
    thresholds = checked_thresholds(thresholds_C, probability_NC.shape[1])
    values = np.full((len(METRICS), probability_NC.shape[1]), np.nan)
    for number, threshold in enumerate(thresholds.tolist()):
        rows = known[:, number]
        ranking = rank(
            probability_NC[rows, number], positive_NC[rows, number], threshold, one_patient_N[rows], patients=1
        )
        values[:, number] = measure(ranking, np.ones((1, 1)))[:, 0]
    return Scores(
        average_precision=values[0],
        roc_auc=values[1],
        f1=values[2],
        positives=(positive_NC & known).sum(axis=0).astype(np.int64),
        negatives=(~positive_NC & known).sum(axis=0).astype(np.int64),
    )


def rank(p_N: Floats, y_N: Flags, threshold: float, patient_N: Integers, patients: int) -> Ranking:
    """The ranking of one class's known images. patient_N: number of each image's patient, in [0, patients)."""
    levels = np.unique(p_N[y_N])  # scores that a positive has, ascending
    groups = len(levels)
    below = np.searchsorted(levels, p_N, side="left")
    above = groups - np.searchsorted(levels, p_N, side="right")
    tied = below + above < groups  # always so for a positive
    row_N = np.where(y_N, above, np.where(tied, groups + above, 2 * groups + above))
    called = p_N >= threshold
    rows = np.concatenate([row_N, np.full((called & y_N).sum(), 3 * groups + 1), np.full(called.sum(), 3 * groups + 2)])
    columns = np.concatenate([patient_N, patient_N[called & y_N], patient_N[called]])
    counts = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(3 * groups + 3, patients))
    return Ranking(counts, groups)


def measure(ranking: Ranking, weights_PR: Floats) -> Floats:
    """The `METRICS` of one class under R sets of whole-number weights of the patients; [3, R], NaN where undefined.

    Complexity: O(R N) multiplications, O(R (G + P)) memory.
    """
    sums = np.asarray(ranking.counts @ weights_PR, dtype=np.float64)
    groups = ranking.groups
    tp_GR, tied_GR, between_GR = sums[:groups], sums[groups : 2 * groups], sums[2 * groups : 3 * groups]
    true_positives_R, called_R = sums[-2], sums[-1]
    TP_GR = np.cumsum(tp_GR, axis=0)
    FP_GR = np.cumsum(between_GR + tied_GR, axis=0)
    after_R = sums[3 * groups]
    positives_R = TP_GR[-1] if groups else np.zeros_like(after_R)
    negatives_R = FP_GR[-1] + after_R if groups else after_R
    retrieved_GR = TP_GR + FP_GR
    precision_GR = np.divide(TP_GR, retrieved_GR, out=np.zeros_like(TP_GR), where=retrieved_GR > 0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is the NaN that says undefined
        average_precision_R = (tp_GR * precision_GR).sum(axis=0) / positives_R
        roc_auc_R = (tp_GR * (negatives_R - FP_GR + tied_GR / 2)).sum(axis=0) / (positives_R * negatives_R)
        f1_R = np.where(positives_R > 0, 2 * true_positives_R / (positives_R + called_R), np.nan)
    return np.stack([average_precision_R, roc_auc_R, f1_R])


def micro(
    P_NC: npt.ArrayLike,
    Y_NC: npt.ArrayLike,
    known_NC: npt.ArrayLike | None = None,
    *,
    thresholds_C: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """The `METRICS` over all known pairs of image and class at once (common classes dominate). Arguments as `score`."""
    probability_NC, positive_NC, known = checked(P_NC, Y_NC, known_NC)
    thresholds = checked_thresholds(thresholds_C, probability_NC.shape[1])
    ranking_scores = score(probability_NC[known][:, None], positive_NC[known][:, None])
    called = probability_NC >= thresholds
    positives = int((positive_NC & known).sum())
    hits = int((called & positive_NC & known).sum())
    return {
        "average_precision": float(ranking_scores.average_precision[0]),
        "roc_auc": float(ranking_scores.roc_auc[0]),
        "f1": 2 * hits / (positives + int((called & known).sum())) if positives else float("nan"),
    }


def by_source(
    P_NC: npt.ArrayLike,
    Y_NC: npt.ArrayLike,
    known_NC: npt.ArrayLike | None,
    sources: Sequence[str],
    *,
    thresholds_C: npt.ArrayLike | None = None,
) -> dict[str, Scores]:
    """Scores within each source (data set, hospital) by name: a label that goes with a source scores well without it.

    sources: [N]; the other arguments as `score`.
    """
    probability_NC, positive_NC, known = checked(P_NC, Y_NC, known_NC)
    return {
        source: score(probability_NC[rows], positive_NC[rows], known[rows], thresholds_C=thresholds_C)
        for source, rows in rows_of(sources).items()
    }


def rows_of(sources: Sequence[str]) -> dict[str, Integers]:
    """Row numbers of each source, by name; for `by_source` and for a bootstrap of one source."""
    names, source_N = np.unique(np.asarray(sources, dtype=object), return_inverse=True)
    return {str(name): np.flatnonzero(source_N == number) for number, name in enumerate(names)}


def classes_of(groups: Mapping[int, str]) -> dict[str, list[int]]:
    """Classes of each group, and "all", from the group of each class (see `images.splits.groups`)."""
    members: dict[str, list[int]] = {ALL: sorted(groups)}
    for number in sorted(groups):
        members.setdefault(groups[number], []).append(number)
    return members


def checked(P_NC: npt.ArrayLike, Y_NC: npt.ArrayLike, known_NC: npt.ArrayLike | None) -> tuple[Floats, Flags, Flags]:
    """Probabilities (or logits), labels and known flags as arrays [N, C].

    Raises:
        InputError: the shapes differ, or a value of a known label isn't a finite number.
    """
    values_NC = np.asarray(P_NC, dtype=np.float64)
    positive_NC = np.asarray(Y_NC) > 0
    known = np.ones_like(positive_NC) if known_NC is None else np.asarray(known_NC, dtype=bool)
    if values_NC.ndim != 2 or not values_NC.shape == positive_NC.shape == known.shape:
        raise InputError(
            f"predictions {values_NC.shape}, labels {positive_NC.shape} and known flags {known.shape}",
            "three arrays of one shape [images, classes]",
            "give the rows and classes in the same order to all of them",
        )
    wrong = int((~np.isfinite(values_NC) & known).sum())
    if wrong:
        raise InputError(
            f"{wrong} of {int(known.sum())} predictions aren't finite numbers",
            "a number for every known label",
            "the training diverged: lower the learning rates or loss.margin",
        )
    return values_NC, positive_NC & known, known


def checked_thresholds(thresholds_C: npt.ArrayLike | None, classes: int) -> Floats:
    """Thresholds [C]; 0.5 for each class where none are given."""
    thresholds = np.full(classes, 0.5) if thresholds_C is None else np.asarray(thresholds_C, dtype=np.float64)
    if thresholds.shape != (classes,):
        raise InputError(
            f"thresholds of shape {thresholds.shape}", f"one for each of the {classes} classes", "see best_thresholds"
        )
    return thresholds
