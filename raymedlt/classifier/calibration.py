"""Probabilities that mean what they say, and thresholds; both from validation, never from test.

Repeat-factor sampling, class weights and margins make a classifier's logits answer another question than "how likely is
this finding?". A scale and an intercept per class bring them back (Platt, "Probabilistic outputs for support vector
machines", 1999); where a class has too few cases for its own, all classes together give one scale, a temperature (Guo
et al., "On calibration of modern neural networks", ICML 2017), and one intercept. Scales are positive, so the order of
the images within a class stays: average precision and the area under the ROC curve do not change.

Shape suffixes: N images, C classes, B bins, K pairs of image and class.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from raymedlt.classifier.metrics import Flags, Floats, checked
from raymedlt.errors import InputError

Method = Literal["platt", "temperature"]
BINS = 15
_NEWTON_STEPS = 100
_TOLERANCE = 1e-10  # of the mean gradient


class Thresholds(NamedTuple):
    """values: [C]. undefined: classes that validation has no positive of; theirs is 0.5."""

    values: Floats
    undefined: list[int]


class CalibrationError(NamedTuple):
    """Expected calibration error. per_class: [C], NaN for a class of which nothing is known; macro: its mean."""

    per_class: Floats
    macro: float


@dataclass(frozen=True)
class Calibration:
    """From logits to probabilities: sigmoid(scale_c * logit + intercept_c). Fit it on validation with `fit`."""

    method: Method
    scale: tuple[float, ...]
    """Of each class, positive; 1 / temperature."""
    intercept: tuple[float, ...]
    own: tuple[bool, ...]
    """Which classes have a scale and intercept of their own; the others have what all classes share."""

    @staticmethod
    def fit(
        logits_NC: npt.ArrayLike,
        Y_NC: npt.ArrayLike,
        known_NC: npt.ArrayLike | None = None,
        *,
        method: Method = "platt",
        min_positives: int = 10,
    ) -> Calibration:
        """Scale and intercept that minimise the binary cross-entropy of the known labels.

        Their targets are Platt's, (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which keep scales finite where classes are
        separable. "temperature": one scale for all, no intercept (Guo et al., with a sigmoid for each class). "platt":
        a scale and an intercept for each class with at least `min_positives` known positives and as many negatives. All
        other classes, and those that a negative scale would fit best (worse than chance on validation), get the scale
        and intercept fit to all classes together. If even these ask for a negative scale, the scale is 1.

        Args:
            logits_NC: of validation images, float.
            Y_NC, known_NC: as `metrics.score`.

        Raises:
            InputError: shapes differ, a logit isn't finite, or no label is known.

        Complexity: O(N C) for each of some ten Newton steps.
        """
        logit_NC, positive_NC, known = checked(logits_NC, Y_NC, known_NC)
        if not known.any():
            raise InputError(
                "no known label to calibrate on", "validation images with labels", "raise split.validation"
            )
        classes = logit_NC.shape[1]
        shared = _fitted(logit_NC[known], positive_NC[known], intercept=method == "platt")
        lines = [shared] * classes
        own = [False] * classes
        for number in range(classes) if method == "platt" else ():
            rows = known[:, number]
            positive_K = positive_NC[rows, number]
            if min(positive_K.sum(), (~positive_K).sum()) < min_positives:
                continue
            line = _newton(logit_NC[rows, number], positive_K, free=slice(0, 2))
            if line[0] > 0:
                lines[number], own[number] = (float(line[0]), float(line[1])), True
        return Calibration(method, tuple(line[0] for line in lines), tuple(line[1] for line in lines), tuple(own))

    def apply(self, logits_NC: npt.ArrayLike) -> Floats:
        """Probabilities of logits [N, C], float64."""
        probability_NC: Floats = expit(
            np.asarray(logits_NC, dtype=np.float64) * np.array(self.scale) + np.array(self.intercept)
        )
        return probability_NC

    def to_json(self) -> str:
        """All of it; `from_json` gives back exactly the same numbers."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Calibration:
        """What `to_json` wrote."""
        stored = json.loads(text)
        return Calibration(stored["method"], *(tuple(stored[name]) for name in ("scale", "intercept", "own")))


def best_thresholds(P_NC: npt.ArrayLike, Y_NC: npt.ArrayLike, known_NC: npt.ArrayLike | None = None) -> Thresholds:
    """The threshold of each class with the largest F1, an image being positive at the threshold or above.

    It lies half way between the last probability that is called positive and the next one (at the last, if there is
    none). Of several with the same F1 it is the largest, which calls the fewest images positive. A class without known
    positives keeps 0.5 and is listed.

    Args: as `metrics.score`, of validation images.

    Complexity: O(N C log N).
    """
    probability_NC, positive_NC, known = checked(P_NC, Y_NC, known_NC)
    values = np.full(probability_NC.shape[1], 0.5)
    undefined = []
    for number in range(len(values)):
        rows = known[:, number]
        positive = positive_NC[rows, number]
        if not positive.any():
            undefined.append(number)
            continue
        levels, level_of = np.unique(-probability_NC[rows, number], return_inverse=True)
        levels = -levels  # largest first
        called = np.cumsum(np.bincount(level_of))
        hits = np.cumsum(np.bincount(level_of, weights=positive))
        best = int(np.argmax(2 * hits / (called + positive.sum())))  # argmax: the first, so the largest threshold
        values[number] = levels[best]
        if best + 1 < len(levels):
            middle = (levels[best] + levels[best + 1]) / 2
            values[number] = middle if middle > levels[best + 1] else levels[best]  # neighbouring floats
    return Thresholds(values, undefined)


def calibration_error(
    P_NC: npt.ArrayLike,
    Y_NC: npt.ArrayLike,
    known_NC: npt.ArrayLike | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> CalibrationError:
    """Expected calibration error of each class: sum_b (n_b / n) |mean label - mean probability| over bins of images.

    Bins are of equal width on [0, 1] (Naeini, Cooper and Hauskrecht, AAAI 2015), each with its upper edge, or hold
    about equally many images (Nixon et al., CVPR workshops 2019; equal probabilities stay together). For rare classes
    nearly all images are in the lowest bin of equal width: look at equal mass there.

    Args: as `metrics.score`; bins: at most so many.
    """
    probability_NC, positive_NC, known = checked(P_NC, Y_NC, known_NC)
    values = np.full(probability_NC.shape[1], np.nan)
    for number in range(len(values)):
        rows = known[:, number]
        if not rows.any():
            continue
        p, y = probability_NC[rows, number], positive_NC[rows, number]
        if equal_mass:
            inner = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="inverted_cdf"))
        else:
            inner = np.arange(1, bins) / bins
        bin_of = np.searchsorted(inner, p, side="left")  # an image at an edge is in the bin below
        gaps = np.bincount(bin_of, weights=y - p)
        values[number] = np.abs(gaps).sum() / len(p)
    defined = values[~np.isnan(values)]
    return CalibrationError(values, float(defined.mean()) if len(defined) else float("nan"))


def _fitted(logit_K: Floats, positive_K: Flags, *, intercept: bool) -> tuple[float, float]:
    """Scale and intercept (or 0) for all pairs together; scale 1 where the best isn't positive."""
    line = _newton(logit_K, positive_K, free=slice(0, 2 if intercept else 1))
    if line[0] <= 0:
        line = _newton(logit_K, positive_K, free=slice(1, 2)) if intercept else np.array([1.0, 0.0])
    return float(line[0]), float(line[1])


def _newton(logit_K: Floats, positive_K: Flags, *, free: slice) -> Floats:
    """(scale, intercept) of the least mean cross-entropy to Platt's targets; what isn't `free` stays at (1, 0).

    Newton's method with step halving; the loss is convex. Start and ridge after Lin, Lin and Weng, "A note on Platt's
    probabilistic outputs for support vector machines", Machine Learning 2007.
    """
    positives = int(positive_K.sum())
    negatives = len(positive_K) - positives
    target_K = np.where(positive_K, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # From a scale of 0, where no probability is saturated, so that the Hessian isn't singular however large the logits.
    line = np.array([1.0, 0.0])
    line[free] = 0.0
    if free.stop == 2:
        line[1] = np.log((positives + 1) / (negatives + 1)) - line[0] * logit_K.mean()
    inputs_K2 = np.stack([logit_K, np.ones_like(logit_K)], axis=1)[:, free]

    def loss(line: Floats) -> float:
        z_K = line[0] * logit_K + line[1]
        return float(np.mean(np.logaddexp(0, z_K) - target_K * z_K))

    current = loss(line)
    for _ in range(_NEWTON_STEPS):
        p_K = expit(line[0] * logit_K + line[1])
        gradient = inputs_K2.T @ (p_K - target_K) / len(p_K)
        if np.abs(gradient).max() < _TOLERANCE:
            break
        curvature_K = p_K * (1 - p_K)
        hessian = (inputs_K2 * curvature_K[:, None]).T @ inputs_K2 / len(p_K)
        step = np.linalg.solve(hessian + 1e-12 * np.eye(len(gradient)), gradient)
        size = 1.0
        while size > 1e-10:
            moved = line.copy()
            moved[free] -= size * step
            lower = loss(moved)
            if lower <= current - 1e-4 * size * float(gradient @ step):
                break
            size /= 2
        else:
            break  # no step lowers the loss any more: rounding is all that is left
        line, current = moved, lower
    return line
