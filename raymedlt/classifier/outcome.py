"""From evaluations to the `Report` that page and model card show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raymedlt.classifier.bootstrap import Interval, paired_difference
from raymedlt.classifier.calibration import calibration_error
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.evaluation import Evaluation
from raymedlt.classifier.label_graph import cooccurrence_adjacency
from raymedlt.classifier.metrics import ALL, Floats, classes_of
from raymedlt.classifier.model import LabelGraphClassifier
from raymedlt.classifier.report import (
    GROUPS,
    UNDEFINED,
    AblationRow,
    ClassScores,
    Estimate,
    MapExample,
    Reliability,
    Report,
    SplitCounts,
    WorthRow,
)
from raymedlt.images.examples import Examples, Rows
from raymedlt.images.stages import rejected_reasons
from raymedlt.schema import SPLITS, TEST, TRAIN

if TYPE_CHECKING:
    from raymedlt.classifier.finish import Outcome

_MEASURES = {"ap": "average_precision", "auc": "roc_auc", "f1": "f1"}
_BINS = 15


def report_of(
    outcome: Outcome,
    examples: Examples,
    model: LabelGraphClassifier,
    evaluation: Evaluation,
    first: Evaluation,
    others: Mapping[str, Evaluation],
    worth: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    seconds: Mapping[str, float],
    rejected: Sequence[tuple[str, str, str]],
) -> Report:
    """All that page and card say.

    Args:
        model: the first member, for the attention maps.
        evaluation: of the ensemble (or the only network).
        first: of the first member, which the ablation's `others` are compared with.
        worth: of the synthetic images, as `worth_of` gives it.
        history: the first member's epochs.
        rejected: the first rejected rows.
    """
    from raymedlt.classifier.finish import versions

    config, arranged = outcome.config, outcome.arranged
    test, train = examples.rows(TEST), examples.rows(TRAIN)
    labels, known = examples.labels_NC[test], examples.known_NC[test]
    members = classes_of(evaluation.groups)
    raw = 1 / (1 + np.exp(-_uncalibrated(evaluation)))
    return Report(
        config=config,
        data=_data_words(config),
        model=_model_words(config),
        phantom=config.images.path is None,
        splits={
            split: SplitCounts(
                images=arranged["images"][split] + (arranged["synthetic"] if split == TRAIN else 0),
                patients=arranged["patients"][split],
                synthetic=arranged["synthetic"] if split == TRAIN else 0,
            )
            for split in SPLITS
        },
        summary={
            group: {
                short: _estimate(evaluation.test.interval(name, members[group])) for short, name in _MEASURES.items()
            }
            for group in (ALL, *GROUPS)
            if group in members
        },
        classes=_class_scores(examples, evaluation, test),
        curves={
            "epoch": list(range(1, len(history) + 1)),
            **{name: [float(line[name]) for line in history] for name in ("loss", "validation_map", "rate")},
        },
        best_epoch=1 + int(np.argmax([line["validation_map"] for line in history])) if history else None,
        reliability={
            "before calibration": _reliability(raw, labels, known),
            "after calibration": _reliability(evaluation.test_NC, labels, known),
        },
        labels_NC=np.where(known, labels, np.nan),
        probabilities_NC=evaluation.test_NC,
        adjacency_CC=cooccurrence_adjacency(examples.labels_NC[train], examples.known_NC[train]),
        maps=_maps(examples, model, evaluation, test, outcome),
        ablation=_ablation(first, others) if others else (),
        worth=_worth(worth) if worth else (),
        left_out=[(name, count, "too few positive training images") for name, count in arranged["left_out"].items()],
        rejected=rejected_reasons(outcome.labels, outcome.prepared),
        rejected_rows=rejected,
        warnings=_warnings(outcome, evaluation, examples),
        seconds=dict(seconds),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        where=f"{outcome.workers} workers, {outcome.where}; trained on {outcome.settings.device} in "
        f"{outcome.settings.precision} with {config.training.replicas} x {outcome.settings.threads} threads",
        versions=versions(),
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.estimate, interval.low, interval.high)


def _uncalibrated(evaluation: Evaluation) -> Floats:
    """The logits of the test images, from their probabilities."""
    p = evaluation.test_NC.clip(1e-300, 1 - 1e-16)
    calibrated = np.log(p) - np.log1p(-p)
    logits: Floats = (calibrated - np.array(evaluation.calibration.intercept)) / np.array(evaluation.calibration.scale)
    return logits


def _data_words(config: ClassifyConfig) -> str:
    if config.images.path is None:
        return f"phantom images with label sets of {config.phantom.prevalence}"
    return f"images of the folder {config.images.path.rstrip('/').rpartition('/')[2]}"


def _model_words(config: ClassifyConfig) -> str:
    own = config.model
    parts = [
        *(["channel reweighting"] if own.gate else []),
        *([] if own.attention == "off" else [f"{own.attention.replace('_', '-')} attention"]),
        *([] if own.graph == "off" else ["label graph"]),
    ]
    members = f"{config.evaluation.members} networks: " if config.evaluation.members > 1 else ""
    start = "random weights" if own.weights is None else "pretrained weights"
    return f"{members}{own.backbone} from {start}" + (f", with {', '.join(parts)}" if parts else "")


def _class_scores(examples: Examples, evaluation: Evaluation, test: Rows) -> list[ClassScores]:
    counts, scores = examples.counts(), evaluation.test.scores
    ece = calibration_error(evaluation.test_NC, examples.labels_NC[test], examples.known_NC[test]).per_class
    return [
        ClassScores(
            name=name,
            group=evaluation.groups[number],
            training_positives=int(counts[number]),
            test_positives=int(scores.positives[number]),
            test_known=int(scores.positives[number] + scores.negatives[number]),
            ap=_estimate(evaluation.test.interval("average_precision", [number])),
            auc=_estimate(evaluation.test.interval("roc_auc", [number])),
            f1=float(scores.f1[number]),
            threshold=float(evaluation.thresholds_C[number]),
            ece=float(ece[number]),
        )
        for number, name in enumerate(examples.classes)
    ]


def _reliability(
    probability_NC: Floats, labels_NC: npt.NDArray[np.float32], known_NC: npt.NDArray[np.bool_]
) -> Reliability:
    """Bins of equal width over all classes; the error is the mean of the classes'."""
    p, y = probability_NC[known_NC], labels_NC[known_NC]
    number = np.minimum((p * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(number, minlength=_BINS)
    filled = counts > 0
    predicted = np.bincount(number, weights=p, minlength=_BINS)[filled] / counts[filled]
    observed = np.bincount(number, weights=y, minlength=_BINS)[filled] / counts[filled]
    macro = calibration_error(probability_NC, labels_NC, known_NC).macro
    return Reliability(predicted=predicted, observed=observed, counts=counts[filled], ece=macro)


def _ablation(first: Evaluation, others: Mapping[str, Evaluation]) -> list[AblationRow]:
    members = classes_of(first.groups)
    tail = members.get("tail", [])
    rows = []
    for name, each in {"full": first, **others}.items():
        alone = each is first
        rows.append(
            AblationRow(
                variant=name,
                tail=_estimate(each.test.interval("average_precision", tail)) if tail else UNDEFINED,
                macro=_estimate(each.test.interval("average_precision")),
                tail_difference=None
                if alone or not tail
                else _estimate(paired_difference(each.test, first.test, "average_precision", tail)),
                macro_difference=None
                if alone
                else _estimate(paired_difference(each.test, first.test, "average_precision")),
            )
        )
    return rows


def _worth(worth: Mapping[str, Any]) -> list[WorthRow]:
    group = "tail" if "tail" in worth["rows"][0] else ALL
    return [
        WorthRow(
            use=row["variant"],
            tail=_from_json(row[group]),
            macro=_from_json(row[ALL]),
            seeds=[_from_json(each).value for each in worth["seeds"][row["variant"]]],
            tail_difference=None if number == 0 else _from_json(row[f"{group}_difference"]),
        )
        for number, row in enumerate(worth["rows"])
    ]


def _from_json(value: Mapping[str, float | None]) -> Estimate:
    return Estimate(*(math.nan if (found := value[name]) is None else found for name in ("estimate", "low", "high")))


def _maps(
    examples: Examples, model: LabelGraphClassifier, evaluation: Evaluation, test: Rows, outcome: Outcome
) -> list[MapExample]:
    """The most certain true and false positives of the rarest classes, two of each until there are enough."""
    if model.attention is None or not outcome.config.evaluation.maps:
        return []
    order = np.argsort(examples.counts(), kind="stable")
    chosen: list[tuple[int, int, bool]] = []
    for number in order.tolist():
        p = evaluation.test_NC[:, number]
        known, truth = examples.known_NC[test, number], examples.labels_NC[test, number] > 0
        called = known & (p >= evaluation.thresholds_C[number])
        for positive in (True, False):
            rows = np.flatnonzero(called & (truth == positive))
            best = rows[np.argsort(-p[rows], kind="stable")][:2]
            chosen += [(int(row), number, positive) for row in best]
    chosen = chosen[: outcome.config.evaluation.maps]
    if not chosen:
        return []
    images = examples.pixels.take(test[[row for row, _, _ in chosen]])
    device = next(model.parameters()).device
    with torch.inference_mode():
        maps = model(torch.from_numpy(images).unsqueeze(1).to(device), with_maps=True).maps_BCHW
    if maps is None:
        return []
    return [
        MapExample(
            image_id=str(examples.image_ids[test[row]]),
            class_name=examples.classes[number],
            probability=float(evaluation.test_NC[row, number]),
            positive=positive,
            truth=[examples.classes[c] for c in np.flatnonzero(examples.labels_NC[test[row]] > 0)],
            image_SS=images[place],
            map_HW=maps[place, number].cpu().numpy(),
        )
        for place, (row, number, positive) in enumerate(chosen)
    ]


def _warnings(outcome: Outcome, evaluation: Evaluation, examples: Examples) -> list[str]:
    found = []
    rejected = sum(outcome.labels["rejected"].values()) + sum(
        sum(summary["rejected"].values()) for summary in outcome.prepared.values()
    )
    if rejected:
        found.append(f"{rejected:,} rows were rejected; their reasons are in the table `rejected`.")
    if outcome.config.images.path is None and outcome.config.phantom.test_positives:
        found.append(
            "Rare classes were topped up among the test images, so they are commoner there than in training: average"
            " precision is higher and probabilities look too low for them."
        )
    if evaluation.no_threshold:
        names = ", ".join(examples.classes[number] for number in evaluation.no_threshold)
        found.append(f"No validation image shows {names}: the threshold there is 0.5, chosen by nobody.")
    return found
