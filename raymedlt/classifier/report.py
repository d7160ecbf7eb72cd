"""What the classify job's page and model card say about a run, in plain values, and what to distrust in it.

Shape suffixes: N test images, C classes, S height and width of an image, H and W of an attention map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.classifier.config import ClassifyConfig
from raymedlt.runreport.words import NOT_FOR_DIAGNOSIS, class_count, listed

Floats = npt.NDArray[np.float64] | npt.NDArray[np.float32]

GROUPS = ("head", "medium", "tail")
PHANTOM = (
    "Trained and tested on drawn images (the procedural phantom), not on patients'. The figures compare methods; they"
    " say nothing about real chest X-rays."
)
FEW_POSITIVES = 30  # of a class in the test images: fewer, and its figures say little
HIGH_ECE = 0.05
UNCERTAIN = {
    "ignore": "has no part in loss and metrics",
    "positive": "counts as positive",
    "negative": "counts as negative",
}


class Estimate(NamedTuple):
    """A figure with its 95 % interval; NaN where it is undefined, NaN ends where there is no interval."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def interval(self) -> str:
        """The interval in words; "" without one."""
        return f"{self.low:.3f} to {self.high:.3f}" if math.isfinite(self.low) and math.isfinite(self.high) else ""

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "undefined"
        return f"{self.value:.3f}" + (f" ({self.interval})" if self.interval else "")


UNDEFINED = Estimate(math.nan)


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class on the test images."""

    name: str
    group: str
    """One of GROUPS."""
    training_positives: int
    test_positives: int
    test_known: int
    """Test images of which the table says whether they show the class."""
    ap: Estimate = UNDEFINED
    """Average precision. By chance it is the share of positives."""
    auc: Estimate = UNDEFINED
    f1: float = math.nan
    threshold: float = math.nan
    """Chosen on the validation images."""
    ece: float = math.nan
    """Expected calibration error, after calibration."""

    @property
    def chance(self) -> float:
        """Average precision of a classifier that guesses: the share of positives; NaN of nothing."""
        return self.test_positives / self.test_known if self.test_known else math.nan


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Predictions in bins: mean probability, share of positives, how many; and the expected calibration error."""

    predicted: Floats
    observed: Floats
    counts: npt.NDArray[np.int64]
    ece: float


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """A network trained with one thing switched off; differences are variant minus full, on the same test images."""

    variant: str
    tail: Estimate
    macro: Estimate
    tail_difference: Estimate | None = None
    """None for the full network itself."""
    macro_difference: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class WorthRow:
    """Networks with synthetic images used in one way, or without; differences are to the configured way."""

    use: str
    tail: Estimate
    macro: Estimate
    seeds: Sequence[float]
    """Tail mAP of each network alone."""
    tail_difference: Estimate | None = None
    """None for the configured way itself."""


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """One split."""

    images: int
    patients: int
    synthetic: int = 0
    """Of the images."""


@dataclass(frozen=True, kw_only=True)
class MapExample:
    """A test image with the attention map of a class that the classifier called on it."""

    image_id: str
    class_name: str
    probability: float
    positive: bool
    """The image shows the class (a true positive), or does not (a false one)."""
    truth: Sequence[str]
    """All classes that the image shows."""
    image_SS: npt.NDArray[np.uint8]
    map_HW: Floats
    """Not negative; its scale does not matter."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that page and model card say about a run. Figures are of the test images where nothing else is said."""

    config: ClassifyConfig
    data: str
    """What the images are, in a few words: "phantom images with PadChest's label sets"."""
    model: str
    """What was trained, in a few words: "resnet10t from random weights, with gate, attention and label graph"."""
    phantom: bool
    splits: Mapping[str, SplitCounts]
    """By schema.SPLITS."""
    summary: Mapping[str, Mapping[str, Estimate]]
    """"all" and GROUPS -> "ap", "auc", "f1" -> mean over the classes that are defined. A group without such a
    class is left out or undefined."""
    classes: Sequence[ClassScores]
    curves: Mapping[str, Sequence[float] | Floats]
    """"epoch", "loss", "validation_map", "rate" -> one number per epoch."""
    best_epoch: int | None = None
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    """"before calibration", "after calibration" -> bins over all classes."""
    temperature: float | None = None
    labels_NC: Floats
    """Truth of the test images in the order of `classes`: 1, 0, NaN where the source does not say."""
    probabilities_NC: Floats
    """Calibrated."""
    adjacency_CC: Floats
    """Weights of the co-occurrence graph of the training labels (whether or not the network used it)."""
    maps: Sequence[MapExample] = ()
    ablation: Sequence[AblationRow] = ()
    """The full network first."""
    worth: Sequence[WorthRow] = ()
    """What synthetic images are worth (`--synthetic.compare`): the configured use first."""
    left_out: Sequence[tuple[str, int, str]] = ()
    """Classes of the label table that were not learnt: name, positive training images, why."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> rows, of all rows."""
    rejected_rows: Sequence[tuple[str, str, str]] = ()
    """The first rejected rows: row, source, reason."""
    warnings: Sequence[str] = ()
    """The job's own; what follows from the figures is added by `warnings_of`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds of work."""
    startup_seconds: float = 0.0
    parameters: int = 0
    """Of the network."""
    where: str = ""
    """Machine and workers, in words."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""

    def score(self, group: str, measure: str) -> Estimate:
        """A figure of `summary`; UNDEFINED where it has none."""
        return self.summary.get(group, {}).get(measure, UNDEFINED)


def undefined_classes(report: Report) -> list[str]:
    """Classes whose test images hold no positive or no negative: their AP and AUC do not exist."""
    return [c.name for c in report.classes if not 0 < c.test_positives < c.test_known]


def warnings_of(report: Report) -> list[str]:
    """What to distrust, the gravest first."""
    found = [NOT_FOR_DIAGNOSIS]
    if report.phantom:
        found.append(PHANTOM)
    found += report.warnings
    if undefined := undefined_classes(report):
        found.append(
            f"{class_count(len(undefined))} without a positive or without a negative test image: {listed(undefined)}."
            " Average precision and AUC do not exist there; the means leave such classes out."
        )
    if few := [c.name for c in report.classes if 0 < c.test_positives < FEW_POSITIVES]:
        found.append(
            f"{class_count(len(few))} with fewer than {FEW_POSITIVES} test positives: {listed(few)}. One image more or"
            " less moves their figures visibly: read the intervals, not the points."
        )
    if unsure := [c.name for c in report.classes if c.ap.low <= c.chance]:
        found.append(
            f"{class_count(len(unsure))} where average precision may be no better than guessing (the interval reaches"
            f" the share of positives): {listed(unsure)}."
        )
    after = list(report.reliability.values())[-1:]
    if after and after[0].ece > HIGH_ECE:
        found.append(
            f"Probabilities are off by {100 * after[0].ece:.1f} points on average (expected calibration error), even"
            " after calibration: use them to rank, not as probabilities."
        )
    if report.left_out:
        found.append(f"{class_count(len(report.left_out))} of the label table not learnt: see Data.")
    return found


def judged(difference: Estimate | None) -> str:
    """What switching a part off says about the part, from the paired difference (variant minus full)."""
    if difference is None or not math.isfinite(difference.low) or not math.isfinite(difference.high):
        return ""
    return "helps" if difference.high < 0 else "hurts" if difference.low > 0 else "no clear difference"
