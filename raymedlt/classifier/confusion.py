"""Confusion of the tail: which findings the classifier calls on the images of rare ones.

Shape suffixes: N test images, C classes, T tail classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raymedlt.classifier.figures import tail_heat_map
from raymedlt.classifier.report import Floats, Report
from raymedlt.runreport.page import Block, Column, Paragraph, Table

MOST_TAIL = 24  # classes of the heat map, the rarest


def call_rates(labels_NC: Floats, probabilities_NC: Floats, thresholds_C: Floats, classes: Sequence[int]) -> Floats:
    """Share of the positives of each class on which each class is called, float64 [T, T].

    Off the diagonal only images count that are known not to show the column's class. NaN where there is no image.

    Args:
        classes: T columns of the matrices. A class without a finite threshold is never called.
    """
    called_NC = probabilities_NC >= np.where(np.isfinite(thresholds_C), thresholds_C, np.inf)
    rates_TT = np.full((len(classes), len(classes)), math.nan)
    for row, shown in enumerate(classes):
        for column, other in enumerate(classes):
            images = labels_NC[:, shown] == 1
            if other != shown:
                images &= labels_NC[:, other] == 0
            if images.any():
                rates_TT[row, column] = called_NC[images, other].mean()
    return rates_TT


def outranked(labels_NC: Floats, probabilities_NC: Floats, thresholds_C: Floats, shown: int) -> Floats:
    """Share of the positives of class `shown` on which each other class is claimed more strongly, float64 [C].

    A class is claimed by how far its logit clears its own threshold's: raw probabilities would always put common
    classes first. Classes that an image shows as well, or of which nothing is known, do not outrank on it. 0 for
    `shown` itself and for classes without a threshold; NaN throughout where there is no positive.
    """
    positives = labels_NC[:, shown] == 1
    if not positives.any():
        return np.full(labels_NC.shape[1], math.nan)
    claims_NC = _logit(probabilities_NC[positives]) - _logit(thresholds_C)
    above_NC = (claims_NC > claims_NC[:, [shown]]) & (labels_NC[positives] == 0)
    return np.asarray(above_NC.mean(axis=0, dtype=np.float64))


def _logit(probability: Floats) -> Floats:
    bounded = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))


def confusion_blocks(report: Report) -> list[Block]:
    """The page's section: a picture of the rarest classes and a table of all of the tail."""
    tail = [place for place, c in enumerate(report.classes) if c.group == "tail"]
    if not tail:
        return [
            Paragraph("No class is in the tail: every class has more than the tail's share of the training images.")
        ]
    tail = sorted(tail, key=lambda c: (report.classes[c].training_positives, report.classes[c].name))
    thresholds = np.array([c.threshold for c in report.classes])
    shown = tail[:MOST_TAIL]
    rates = call_rates(report.labels_NC, report.probabilities_NC, thresholds, shown)
    names = [report.classes[c].name for c in shown]
    rows = []
    for c in tail:
        scores = report.classes[c]
        above = outranked(report.labels_NC, report.probabilities_NC, thresholds, c)
        ranked = [int(n) for n in np.argsort(np.nan_to_num(1 - above, nan=1.0), kind="stable")[:3] if above[n] > 0]
        rivals = " · ".join(f"{report.classes[n].name} {above[n]:.0%}" for n in ranked)
        found = call_rates(report.labels_NC, report.probabilities_NC, thresholds, [c])[0, 0]
        rows.append((scores.name, scores.test_positives, 100 * float(found), rivals))
    return [
        Paragraph(
            "What becomes of the rare findings: how many of their test positives are found, and which findings the"
            " classifier claims more strongly on them although the image does not show them. A claim is measured from"
            " each class's own threshold, since raw probabilities would always put common findings first."
        ),
        tail_heat_map(rates, names, [report.classes[c].test_positives for c in shown]),
        Table(
            caption="Each class of the tail, the rarest first.",
            columns=[
                Column(name="Class"),
                Column(name="Test positives", numeric=True),
                Column(name="Found, %", numeric=True, hint="Share of the positives at or above the threshold"),
                Column(name="Claimed more strongly, on a share of them", wide=True),
            ],
            rows=rows,
        ),
    ]
