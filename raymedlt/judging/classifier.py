"""Predictions, judged: of one finished run of jobs/classify.py, or of two on the test images and classes of both.

Frequency groups and thresholds are the run's own, as its metrics.json holds them.

Shape suffixes: N images, C classes, P patients, R permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy.stats import rankdata

from raymedlt.classifier.bootstrap import Bootstrap, bootstrap, paired_difference
from raymedlt.classifier.metrics import ALL, METRICS, Floats, classes_of, measure, rank
from raymedlt.errors import InputError
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.images.splits import HEAD, MEDIUM, TAIL
from raymedlt.judging.finished import FinishedRun
from raymedlt.judging.judged import (
    OF_MODELS,
    Judged,
    Measured,
    compared_figure,
    difference_forest,
    scores_block,
    signed,
    verdict_words,
)
from raymedlt.resampling import Patients, means
from raymedlt.runreport.page import Block, Section, Switch
from raymedlt.runreport.words import class_count, counted
from raymedlt.schema import PREDICTIONS, TEST
from raymedlt.seeds import generator

_NAMES = {
    "average_precision": ("Average precision", "mean over classes; chance is the class's frequency"),
    "roc_auc": ("Area under ROC", "mean over classes; chance is 0.5"),
    "f1": ("F1", "mean over classes, at the thresholds that each run chose on validation"),
}
_TESTED = METRICS[:2]
"""Those that follow from the order of the images alone, so that two runs' predictions may change places."""
_GROUPS = (ALL, HEAD, MEDIUM, TAIL)
_BLOCK = 256  # permutations that are measured together
_EQUAL = 1e-12  # differences that differ by rounding only


@dataclass(frozen=True, eq=False)
class Predicted:
    """A run's calibrated probabilities of its test images."""

    image_ids: list[str]
    patient_ids: list[str]
    classes: list[str]
    probability_NC: Floats
    label_NC: Floats
    """1, 0, or NaN where nobody knows."""
    thresholds_C: Floats
    groups: dict[str, str]
    """Frequency group of each class."""

    @classmethod
    def of(cls, run: FinishedRun) -> Predicted:
        """From the table `predictions` and metrics.json.

        Raises:
            InputError: no test image, or an image without one prediction for each class.
        """
        table = run.table("predictions", PREDICTIONS)
        table = table.filter(pc.equal(table["split"], TEST))
        image_ids, image_N = np.unique(table["image_id"].to_numpy(zero_copy_only=False), return_inverse=True)
        classes, class_N = np.unique(table["class"].to_numpy(zero_copy_only=False), return_inverse=True)
        if not len(image_ids) or table.num_rows != len(image_ids) * len(classes):
            raise InputError(
                f"{table.num_rows:,} test predictions of {len(image_ids):,} images and {len(classes)} classes in"
                f" '{run.uri}'",
                "one for each image and class",
            )
        shape = (len(image_ids), len(classes))
        probability, label = np.full(shape, np.nan), np.full(shape, np.nan)
        probability[image_N, class_N] = table["probability"].to_numpy()
        label[image_N, class_N] = table["label"].to_numpy(zero_copy_only=False)
        whose = np.empty(len(image_ids), object)
        whose[image_N] = table["patient_id"].to_numpy(zero_copy_only=False)
        known = {row["class"]: row for row in run.metrics["per_class"]}
        names = [str(name) for name in classes]
        return cls(
            [str(name) for name in image_ids], whose.tolist(), names, probability, label,
            np.array([known[name]["threshold"] for name in names]), {name: known[name]["group"] for name in names},
        )  # fmt: skip

    def only(self, image_ids: set[str], classes: set[str]) -> Predicted:
        """Some of the images and classes."""
        rows = [row for row, name in enumerate(self.image_ids) if name in image_ids]
        columns = [number for number, name in enumerate(self.classes) if name in classes]
        return Predicted(
            [self.image_ids[row] for row in rows], [self.patient_ids[row] for row in rows],
            [self.classes[number] for number in columns], self.probability_NC[np.ix_(rows, columns)],
            self.label_NC[np.ix_(rows, columns)], self.thresholds_C[columns], self.groups,
        )  # fmt: skip

    @property
    def known_NC(self) -> npt.NDArray[np.bool_]:
        """Where there is a label."""
        return ~np.isnan(self.label_NC)

    @property
    def members(self) -> dict[str, list[int]]:
        """Numbers of the classes of each group, and of all."""
        return classes_of({number: self.groups[name] for number, name in enumerate(self.classes)})


def judge(config: EvaluateConfig, run: FinishedRun, against: FinishedRun | None) -> Judged:
    """Scores of the run's predictions; with another run of both on the same images, differences and tests.

    Raises:
        InputError: the two runs have no test image or class in common, or other labels or patients.
    """
    own = Predicted.of(run)
    warnings: list[str] = []
    other = None if against is None else Predicted.of(against)
    if other is not None:
        own, other = _common(own, other, warnings)
    first, second = _bootstrap(config, own), None if other is None else _bootstrap(config, other)
    p_values = {} if other is None else randomisation_tests(own, other, config.permutations, config.seed)
    by_group = _by_group(own, first, second, p_values)
    by_class = _by_class(own, first, second)
    main = next(each for each in by_group if each.name == METRICS[0] and each.part == ALL)
    patients = len(set(own.patient_ids))
    shown = [each for each in by_group if each.part in (ALL, TAIL) and each.name in _TESTED]
    return Judged(
        title="A classifier" if other is None else "Two classifiers",
        verdict=_verdict(main, len(own.image_ids), patients, len(own.classes)),
        headline=[
            (each.title, f"{each.run.estimate:.3f}" + (f" ({signed(each.difference)})" if other is not None else ""))
            for each in shown
        ],
        key_figures=[compared_figure(each, each.title) for each in shown],
        sections=[
            Section(title="Scores", blocks=_group_blocks(by_group, len(own.image_ids), patients)),
            Section(title="Class by class", blocks=_class_blocks(by_class)),
        ],
        measured=[*by_group, *by_class],
        warnings=warnings,
        figures={"images": len(own.image_ids), "patients": patients, "classes": len(own.classes)},
    )  # fmt: skip


def _common(own: Predicted, other: Predicted, warnings: list[str]) -> tuple[Predicted, Predicted]:
    images, classes = set(own.image_ids) & set(other.image_ids), set(own.classes) & set(other.classes)
    if not images or not classes:
        raise InputError(
            f"the runs have {len(images):,} test images and {len(classes)} classes in common",
            "two runs over the same images: the same data, seed and splits",
            "check --run and --against",
        )
    apart = [
        f"{counted(len(set(mine) ^ set(theirs)), what)} of one run alone left out."
        for mine, theirs, what in (
            (own.image_ids, other.image_ids, "test image"), (own.classes, other.classes, "name of classes")
        )
        if set(mine) != set(theirs)
    ]  # fmt: skip
    warnings += apart
    first, second = own.only(images, classes), other.only(images, classes)
    changed = int((~((first.label_NC == second.label_NC) | (~first.known_NC & ~second.known_NC))).sum())
    if changed or first.patient_ids != second.patient_ids:
        raise InputError(
            f"{changed:,} labels of {len(images):,} test images of both runs differ, or their patients",
            "the same labels and patients in both",
            "compare runs over the same data",
        )
    return first, second


def _bootstrap(config: EvaluateConfig, own: Predicted) -> Bootstrap:
    return bootstrap(
        own.probability_NC, own.label_NC == 1, own.known_NC, own.patient_ids, thresholds_C=own.thresholds_C,
        resamples=config.bootstrap, seed=config.seed,
    )  # fmt: skip


def randomisation_tests(own: Predicted, other: Predicted, permutations: int, seed: int) -> dict[tuple[str, str], float]:
    """Two-sided p of "both runs order the images equally well": (metric, group) -> p (see evaluation.paired).

    A coin decides for each patient whether the two runs' predictions change places. Before that each run's
    probabilities become ranks within their class, which changes neither metric: else a run would look worse for mixing
    two scales. Both runs' images are ranked together once a class, with 2 P patients; which of them count for which
    side are a permutation's weights.

    Complexity: O(R N C) multiplications.
    """
    whose = Patients.of(own.patient_ids)
    members = own.members
    observed: dict[tuple[str, str], float] = {}
    as_large: dict[tuple[str, str], int] = {}
    rankings = [_both_ranked(own, other, number, whose) for number in range(len(own.classes))]
    unmoved = np.ones((whose.count, 1), np.bool_)
    blocks = [
        np.stack(
            [generator(seed, "randomisation", number).random(whose.count) < 0.5 for number in numbers], axis=1
        )
        for start in range(0, permutations, _BLOCK)
        if (numbers := range(start, min(start + _BLOCK, permutations)))
    ]  # fmt: skip
    for stays_PR in (unmoved, *blocks):
        sides = [np.concatenate(pair).astype(np.float64) for pair in ((stays_PR, ~stays_PR), (~stays_PR, stays_PR))]
        values = [np.stack([measure(ranking, side) for ranking in rankings], axis=2) for side in sides]
        for metric in _TESTED:
            for group, columns in members.items():
                one, two = (means(each[METRICS.index(metric)][:, columns]) for each in values)
                key, differences = (metric, group), np.abs(one - two)
                if stays_PR is unmoved:
                    observed[key], as_large[key] = float(differences[0]), 0
                else:
                    as_large[key] += int((differences >= observed[key] - _EQUAL).sum())
    return {key: (1 + count) / (1 + permutations) for key, count in as_large.items() if np.isfinite(observed[key])}


def _both_ranked(own: Predicted, other: Predicted, number: int, whose: Patients) -> Any:
    known = own.known_NC[:, number]
    positive = own.label_NC[known, number] == 1
    ranks = [rankdata(each.probability_NC[known, number]) for each in (own, other)]
    patients = whose.number_N[known]
    return rank(
        np.concatenate(ranks), np.concatenate([positive, positive]), np.inf,
        np.concatenate([patients, patients + whose.count]), 2 * whose.count,
    )  # fmt: skip


def _measured(
    own: Predicted, first: Bootstrap, second: Bootstrap | None, metric: str, part: str, numbers: list[int]
) -> dict[str, Any]:
    return {
        "name": metric, "part": part, "run": first.interval(metric, numbers),
        "against": None if second is None else second.interval(metric, numbers),
        "difference": None if second is None else paired_difference(first, second, metric, numbers),
    }  # fmt: skip


def _by_group(
    own: Predicted, first: Bootstrap, second: Bootstrap | None, p_values: dict[tuple[str, str], float]
) -> list[Measured]:
    found = []
    for metric in METRICS:
        title, meaning = _NAMES[metric]
        for group in _GROUPS:
            if group in own.members:
                numbers = own.members[group]
                where = "" if group == ALL else f", {group}"
                found.append(
                    Measured(
                        **_measured(own, first, second, metric, group, numbers), title=f"{title}{where}",
                        meaning=meaning if group == ALL else "", count=len(numbers), p=p_values.get((metric, group)),
                    )
                )  # fmt: skip
    return found


def _by_class(own: Predicted, first: Bootstrap, second: Bootstrap | None) -> list[Measured]:
    """The rarest class first."""
    positives = first.scores.positives
    return [
        Measured(
            **_measured(own, first, second, metric, own.classes[number], [int(number)]), title=own.classes[number],
            count=int(positives[number]),
        )
        for metric in METRICS
        for number in np.argsort(positives, kind="stable")
    ]  # fmt: skip


def _verdict(main: Measured, images: int, patients: int, classes: int) -> str:
    return (
        f"On {counted(images, 'test image')} of {counted(patients, 'patient')} the mean average precision over"
        f" {class_count(classes)} is {verdict_words(main)}."
    )


def _group_blocks(measured: Sequence[Measured], images: int, patients: int) -> list[Block]:
    caption = f"{counted(images, 'test image')} of {counted(patients, 'patient')}."
    return [
        scores_block(
            measured,
            f"{caption} {OF_MODELS}" if measured[0].difference is not None else caption,
            counted="Classes",
        )
    ]


def _class_blocks(measured: Sequence[Measured]) -> list[Block]:
    panels: list[tuple[str, list[Block]]] = []
    for metric in METRICS:
        own = [each for each in measured if each.name == metric]
        title = _NAMES[metric][0]
        blocks: list[Block] = []
        if own[0].difference is not None:
            blocks.append(difference_forest(own, f"Difference in {title.lower()}, the rarest class on top.", title))
        blocks.append(
            scores_block(own, f"{title} of each class, the rarest first.", first="Class", counted="Positives")
        )
        panels.append((title, blocks))
    return [Switch(panels)]
