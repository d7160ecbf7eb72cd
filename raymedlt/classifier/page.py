"""The classify job's page: what was trained on what, how good it is on common and rare findings, and what to distrust.

All that it says comes from a `Report` (see report.py), and so does the model card (card.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymedlt.classifier.attentionmaps import map_blocks
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.confusion import confusion_blocks
from raymedlt.classifier.figures import ablation_forest, class_forest, learning_curves, reliability_diagram
from raymedlt.classifier.graphfigure import cooccurrence_graph
from raymedlt.classifier.report import (
    GROUPS,
    UNCERTAIN,
    ClassScores,
    Estimate,
    Report,
    judged,
    undefined_classes,
    warnings_of,
)
from raymedlt.config import config_hash, flatten
from raymedlt.runreport import render
from raymedlt.runreport.about import configuration_blocks, rejected_blocks, time_bars
from raymedlt.runreport.page import Block, Column, KeyFigure, KeyValues, Page, Paragraph, Section, Table
from raymedlt.runreport.words import class_count


def classifier_page(report: Report, *, command: str = "", paths: Mapping[str, str] | None = None) -> str:
    """One HTML file.

    Args:
        command: what to type to resume or repeat the run.
        paths: table -> where it lies, as it shall be shown ("predictions", "rejected").

    O(test images x classes); about a second for 30 classes and 24 maps.
    """
    places = dict(paths or {})
    sections = [
        Section(title="Class by class", blocks=_class_blocks(report, places)),
        Section(title="Confusion of the tail", blocks=confusion_blocks(report)),
        Section(title="Where the classifier looks", blocks=map_blocks(report)),
        Section(title="Calibration and thresholds", blocks=_calibration_blocks(report)),
        Section(title="What each part is worth", blocks=_ablation_blocks(report)),
        *([Section(title="What the synthetic images are worth", blocks=_worth_blocks(report))] if report.worth else []),
        Section(title="What goes together", blocks=_graph_blocks(report)),
        Section(title="Training", blocks=[learning_curves(report.curves, report.best_epoch)]),
        Section(title="Data", blocks=_data_blocks(report)),
        Section(title="Rejected rows", blocks=rejected_blocks(report.rejected, report.rejected_rows, places)),
        Section(title="Run", blocks=_run_blocks(report)),
        Section(title="Configuration", blocks=configuration_blocks(flatten(report.config), flatten(ClassifyConfig()))),
    ]
    return render(
        Page(
            title="Chest X-ray classifier",
            verdict=verdict(report),
            about=f"{report.model}. {_data_line(report)}",
            key_figures=_key_figures(report),
            warnings=warnings_of(report),
            sections=sections,
            config_hash=config_hash(report.config),
            resume=command,
        )
    )


def verdict(report: Report) -> str:
    """The outcome in one sentence."""
    groups = [(name, report.score(name, "ap")) for name in GROUPS]
    told = [f"{value.value:.2f} on {name}" for name, value in groups if math.isfinite(value.value)]
    best = max((c.ap.value for c in report.classes if math.isfinite(c.ap.value)), default=math.nan)
    if not told:
        return "No class has both positive and negative test images, so no score exists."
    words = ", ".join(told[:-1]) + (" and " if told[:-1] else "") + told[-1]
    return (
        f"Trained on {report.splits['train'].images:,} {report.data}: mean average precision {words} classes,"
        f" {len(report.classes) - len(undefined_classes(report))} in all (the best alone: {best:.2f})."
    )


def _data_line(report: Report) -> str:
    test = report.splits["test"]
    return f"Scored once, on {test.images:,} test images of {test.patients:,} patients that had no part in training."


def _key_figures(report: Report) -> list[KeyFigure]:
    shown = [
        ("Macro AP", report.score("all", "ap"), "all classes"),
        ("Macro AUC", report.score("all", "auc"), "all classes"),
        ("Macro F1", report.score("all", "f1"), "thresholds from validation"),
    ]
    for group in GROUPS:
        classes = sum(c.group == group for c in report.classes)
        shown.append(
            (f"AP, {group}", report.score(group, "ap"), f"{class_count(classes)}, {_group_words(report, group)}")
        )
    return [
        KeyFigure(
            label=name,
            value=f"{value.value:.3f}" if math.isfinite(value.value) else "–",
            hint=f"95 %: {value.interval} · {hint}" if value.interval else hint,
        )
        for name, value, hint in shown
    ]  # fmt: skip


def _group_words(report: Report, group: str) -> str:
    head, tail = 100 * report.config.split.head_above, 100 * report.config.split.tail_up_to
    return {
        "head": f"in over {head:g}\u00a0% of training images",
        "medium": f"in {tail:g} to {head:g}\u00a0% of them",
        "tail": f"in at most {tail:g}\u00a0% of them",
    }[group]


def _class_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    if undefined := undefined_classes(report):
        blocks.append(
            Paragraph(
                f"Undefined: {', '.join(undefined)}. The test images hold no positive or no negative of"
                f" {'it' if len(undefined) == 1 else 'them'}, so there is nothing to score. Nothing is put in its place"
                " (not 0, not 0.5)."
            )
        )
    measures = ("ap", "auc", "f1")
    groups = Table(
        caption="Means over the classes of a group, with 95 % intervals from resampling whole patients.",
        columns=[
            Column(name="Group", tag=True),
            Column(name="Classes", numeric=True),
            *(Column(name=name, tight=True) for name in ("AP", "AUC", "F1")),
        ],
        rows=[
            (
                group,
                sum(group in ("all", c.group) for c in report.classes),
                *(str(report.score(group, measure)) for measure in measures),
            )
            for group in ("all", *GROUPS)
        ],
    )
    table = Table(
        caption="Every class. Guessing: the average precision of a classifier that knows nothing, which is the share of"
        " positives. AUC: how often a positive image is ranked above a negative one; guessing gets 0.5.",
        columns=[
            Column(name="Class"),
            Column(name="Group", tag=True),
            Column(name="Train +", numeric=True, hint="Positive training images"),
            Column(name="Test +", numeric=True, hint="Positive test images"),
            Column(name="AP", numeric=True, digits=3, hint="Average precision"),
            Column(name="95 %", tight=True, hint="Interval of AP"),
            Column(name="Guessing", numeric=True, digits=3, hint="AP of guessing: share of positives"),
            Column(name="AUC", numeric=True, digits=3),
            Column(name="95 % ", tight=True, hint="Interval of AUC"),
        ],
        rows=[_class_row(c) for c in sorted(report.classes, key=lambda c: (-c.training_positives, c.name))],
    )
    blocks += [class_forest(report.classes), groups, table]
    if where := paths.get("predictions", ""):
        blocks.append(Paragraph(f"Each image's labels and probabilities: {where}"))
    return blocks


def _class_row(c: ClassScores) -> tuple[Any, ...]:
    return (
        c.name,
        c.group,
        c.training_positives,
        c.test_positives,
        c.ap.value,
        _dashed(c.ap) if math.isfinite(c.ap.value) else "undefined",
        c.chance,
        c.auc.value,
        _dashed(c.auc),
    )


def _dashed(estimate: Estimate) -> str:
    """The interval to two places, for a narrow column."""
    return f"{estimate.low:.2f}–{estimate.high:.2f}" if estimate.interval else ""


def _calibration_blocks(report: Report) -> list[Block]:
    table = Table(
        caption="At the thresholds, which were chosen on the validation images.",
        columns=[
            Column(name="Class"),
            Column(name="Group", tag=True),
            Column(name="Threshold", numeric=True, digits=3),
            Column(name="F1", numeric=True, digits=3),
            Column(name="ECE", numeric=True, digits=3, hint="Expected calibration error, after calibration"),
        ],
        rows=[
            (c.name, c.group, c.threshold, c.f1, c.ece)
            for c in sorted(report.classes, key=lambda c: (-c.training_positives, c.name))
        ],
    )
    if not report.reliability:
        return [Paragraph("The probabilities were not checked."), table]
    rows: list[tuple[str, str]] = [(f"Error {name}", f"{one.ece:.4f}") for name, one in report.reliability.items()]
    if report.temperature is not None:
        rows.append(("Temperature", f"{report.temperature:.3f} (logits are divided by it; fitted on validation)"))
    return [
        Paragraph(
            "Calibration was fitted on the validation images and is checked here on the test images. The error (ECE) is"
            " the distance between the probability said and the share found, averaged over bins and classes."
        ),
        KeyValues(rows),
        reliability_diagram(report.reliability),
        table,
    ]


def _ablation_blocks(report: Report) -> list[Block]:
    if not report.ablation:
        return [
            Paragraph("Not measured in this run; `--ablate true` trains again with each part switched off in turn.")
        ]
    figure = ablation_forest(report.ablation)
    tail = _ablation_table("On the tail", [(row.variant, row.tail, row.tail_difference) for row in report.ablation])
    macro = _ablation_table(
        "Over all classes", [(row.variant, row.macro, row.macro_difference) for row in report.ablation]
    )
    return [
        Paragraph(
            "Each network was trained with one thing changed and everything else the same. A difference is variant"
            " minus full, over the same test patients. The verdict is on the part: it helps when the network is worse"
            " without it and the interval of the difference leaves out 0. Training with another seed moves figures"
            " too, and these intervals do not hold that."
            + (" Full is the first network here, not the ensemble." if report.config.evaluation.members > 1 else "")
        ),
        *([figure] if figure is not None else []),
        tail,
        macro,
    ]


def _ablation_table(caption: str, rows: Sequence[tuple[str, Estimate, Estimate | None]]) -> Table:
    return Table(
        caption=caption,
        columns=[
            Column(name="Network"),
            Column(name="mAP", numeric=True, digits=3),
            Column(name="95 %", tight=True),
            Column(name="Difference to full", tight=True),
            Column(name="The part", tag=True),
        ],
        rows=[
            (name, estimate.value, estimate.interval, _signed(difference), judged(difference))
            for name, estimate, difference in rows
        ],
    )


def _worth_blocks(report: Report) -> list[Block]:
    first = report.worth[0]
    return [
        Paragraph(
            "mix: synthetic images beside the real ones; pretrain: a stage on synthetic images alone comes first;"
            " real-images-again: for each synthetic image a real one of its rarest class once more, which is the fair"
            " control; real-images-only: neither. Synthetic images are worth something where the controls are worse and"
            " the interval of the difference leaves out 0."
        ),
        Table(
            caption=f"On the tail: {len(first.seeds)} networks each, their mean probability; then each of them alone",
            columns=[
                Column(name="Use"),
                Column(name="mAP", numeric=True, digits=3),
                Column(name="95 %", tight=True),
                Column(name=f"Difference to {first.use}", tight=True),
                Column(name="Alone", tight=True),
                Column(name="All classes", numeric=True, digits=3),
            ],
            rows=[
                (
                    row.use, row.tail.value, row.tail.interval, _signed(row.tail_difference),
                    " ".join(f"{value:.3f}" for value in row.seeds), row.macro.value,
                )
                for row in report.worth
            ],
        ),
    ]  # fmt: skip


def _signed(difference: Estimate | None) -> str:
    if difference is None:
        return ""
    words = f"{difference.value:+.3f}"
    if difference.interval:
        words += f" ({difference.low:+.3f} to {difference.high:+.3f})"
    return words.replace("-", "−")


def _graph_blocks(report: Report) -> list[Block]:
    figure = cooccurrence_graph(report.adjacency_CC, report.classes)
    return [figure if figure is not None else Paragraph("No two classes are seen together often enough for a line.")]


def _data_blocks(report: Report) -> list[Block]:
    positives = sum(c.training_positives for c in report.classes)
    uncertain = report.config.labels.uncertain
    blocks: list[Block] = [
        Table(
            columns=[Column(name="Split")]
            + [Column(name=name, numeric=True) for name in ("Images", "Patients", "Synthetic images")],
            rows=[(name, counts.images, counts.patients, counts.synthetic) for name, counts in report.splits.items()],
        ),
        KeyValues(
            [
                ("Images", report.data),
                ("Split", "by patient; a patient in two splits fails the run"),
                ("Positive labels", f"{positives:,} in training, over {class_count(len(report.classes))}"),
                ("Uncertain label", UNCERTAIN[uncertain]),
            ]
        ),
    ]
    if report.left_out:
        blocks.append(
            Table(
                caption="Classes of the label table that were not learnt.",
                columns=[
                    Column(name="Class"),
                    Column(name="Training positives", numeric=True),
                    Column(name="Why", wide=True),
                ],
                rows=report.left_out,
            )
        )  # fmt: skip
    return blocks


def _run_blocks(report: Report) -> list[Block]:
    return [
        time_bars(report.seconds, report.startup_seconds),
        KeyValues(
            [
                ("Network", report.model, f"{report.parameters:,} parameters" if report.parameters else ""),
                *([("Machine", report.where)] if report.where else []),
                *report.versions.items(),
            ]
        ),
    ]
