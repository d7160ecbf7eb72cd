"""The synthesize job's page: what was planned, drawn, accepted and refused, how real it is, and what to distrust.

All that it says comes from a `Report` (see report.py), and so do the cards (card.py). Contact sheets are in sheets.py,
figures in figures.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raymedlt.runreport import render
from raymedlt.runreport.figures import ACCENT, QUIET, WARN, bars, label
from raymedlt.runreport.page import Block, Code, Column, KeyFigure, KeyValues, Page, Paragraph, Section, Table
from raymedlt.synthesis.figures import dots, ratio_histogram, training_curve
from raymedlt.synthesis.report import (
    COPY,
    LOW_ACCEPTANCE,
    REASONS,
    UNDEFINED,
    ClassReport,
    Figures,
    Likeness,
    Report,
    capital,
    class_count,
    kid,
    number,
)
from raymedlt.synthesis.sheets import sheet_blocks
from raymedlt.synthesis.warnings import warnings_of

NO_THRESHOLD = "Not defined: too few real validation images show the class, so every image for it is refused."


def synthesis_page(
    report: Report, *, folder: str = "", command: str = "", paths: Mapping[str, str] | None = None
) -> str:
    """One HTML file.

    Args:
        folder: where the run's tables lie, as it shall stand in the example of use.
        command: what to type to resume or repeat the run.
        paths: table -> where it lies, as it shall be shown ("images", "plan", "rejected").

    O(classes + images shown); a second for 20 classes and their sheets.
    """
    places = dict(paths or {})
    sections = [
        Section(title="Class by class", blocks=_class_blocks(report, places)),
        Section(title="Contact sheets", blocks=sheet_blocks(report)),
        Section(title="Why images were refused", blocks=_refusal_blocks(report)),
        Section(title="How real, how varied", blocks=_likeness_blocks(report)),
        Section(title="Memorisation", blocks=_memorisation_blocks(report)),
        Section(title="The plan", blocks=_plan_blocks(report, places)),
        Section(title="The gate", blocks=_gate_blocks(report)),
        Section(title="Training", blocks=_training_blocks(report)),
        Section(title="Cost", blocks=_cost_blocks(report)),
        Section(title="How to use the images", blocks=_use_blocks(folder)),
        Section(title="Rejected rows", blocks=_rejected_blocks(report, places)),
        Section(title="Run", blocks=_run_blocks(report)),
        Section(title="Configuration", blocks=_configuration_blocks(report)),
    ]
    return render(
        Page(
            title="Synthetic chest X-rays of rare classes",
            verdict=verdict(report),
            about=f"{capital(report.generator.words)}. Real images: {report.data}.",
            key_figures=_key_figures(report),
            warnings=warnings_of(report),
            sections=sections,
            config_hash=report.config_hash,
            resume=command,
        )
    )


def verdict(report: Report) -> str:
    """The outcome in one sentence."""
    kept, drawn = report.acceptance
    words = f"{report.planned:,} images were planned for {class_count(len(report.classes))}, {drawn:,} were drawn"
    if not drawn:
        return f"{words}."
    told = f"{words}: {kept:,} were accepted ({100 * kept / drawn:.0f}\u00a0%) and {drawn - kept:,} refused"
    reasons = list(report.reasons().items())[:2]
    return f"{told}{', mostly: ' if reasons else ''}{', '.join(f'{name} ({n:,})' for name, n in reasons)}."


def _key_figures(report: Report) -> list[KeyFigure]:
    share, own = report.acceptance, report.likeness
    reasons = report.reasons()
    some = sum(each.accepted > 0 for each in report.classes)
    copies = reasons.get(COPY, 0)
    return [
        KeyFigure(label="Planned", value=f"{report.planned:,}", hint=f"for {class_count(len(report.classes))}"),
        KeyFigure(label="Drawn", value=f"{share.whole:,}", hint=f"{report.planned - share.whole:,} not drawn"),
        KeyFigure(
            label="Accepted",
            value=f"{share.part:,}",
            hint=f"{share} of the drawn; {some} of {class_count(len(report.classes))} got some"
            if share.whole
            else "nothing was drawn",
        ),
        KeyFigure(
            label="Refused",
            value=f"{report.refused:,}",
            hint=" · ".join(f"{count:,} {name}" for name, count in list(reasons.items())[:3]),
        ),
        KeyFigure(
            label="KID",
            value=number(own.synthetic.kid),
            hint=f"real images get {kid(own.real)} · 0: no difference" if own.synthetic.kid is not None else own.why,
        ),
        KeyFigure(
            label="Copies refused",
            value=f"{copies:,}" if report.memorisation or copies else "–",
            hint=f"{report.memorisation.caught} of planted copies caught"
            if report.memorisation
            else "memorisation was not measured",
        ),
    ]  # fmt: skip


# Sections


def _class_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    shown = [each for each in report.classes if each.drawn]
    shares = [each.acceptance for each in shown]
    blocks: list[Block] = []
    if shown:
        blocks.append(
            dots(
                [f"{each.name} ({each.accepted:,} of {each.drawn:,})" for each in shown],
                [share.value for share in shares],
                [share.interval for share in shares],
                line=LOW_ACCEPTANCE,
                x_title="accepted share of the drawn images",
                layout={"range": [-0.01, 1.01], "tickformat": ".0%"},
                caption="Acceptance by class with its 95 % interval (Wilson), the rarest class on top. Left of the"
                f" dashed line ({100 * LOW_ACCEPTANCE:.0f}\u00a0%) the gate keeps only what the classifier finds easy.",
            )
        )
    blocks.append(
        Table(
            caption="Every class that was planned for.",
            columns=[
                Column(name="Class"),
                Column(name="Real", numeric=True, hint="Real training images that show it"),
                Column(name="Planned", numeric=True, hint="Rows of the plan that are for it"),
                Column(name="Drawn", numeric=True),
                Column(name="Accepted", numeric=True),
                Column(name="%", numeric=True, hint="Accepted of drawn"),
                Column(name="95 %", tight=True, hint="Wilson's interval"),
                Column(name="Mostly refused for", tight=True),
            ],
            rows=[_class_row(each) for each in report.classes],
        )
    )
    if where := paths.get("images", ""):
        blocks.append(Paragraph(f"Each image with its reasons and scores: {where}"))
    return [*blocks, *_truth_blocks(report)]


def _class_row(each: ClassReport) -> tuple[Any, ...]:
    share = each.acceptance
    low, high = share.interval
    worst = max(each.refused.items(), key=lambda item: item[1], default=("", 0))
    return (
        each.name, each.real, each.planned, each.drawn, each.accepted,
        None if share.value is None else 100 * share.value,
        UNDEFINED if share.value is None else f"{100 * low:.0f}–{100 * high:.0f}",
        f"{worst[0]} ({worst[1]:,})" if worst[1] else "",
    )  # fmt: skip


def _truth_blocks(report: Report) -> list[Block]:
    rows = [(each.name, str(each.truth.drawn), str(each.truth.accepted)) for each in report.classes if each.truth]
    if not rows:
        return []
    return [
        Table(
            caption="Does the class show? The share of images that show the class they are for, according to a second"
            " classifier that was trained on other images and has no part in the gate, with 95 % intervals.",
            columns=[
                Column(name="Class"),
                Column(name="Of all drawn", tight=True),
                Column(name="Of the accepted", tight=True),
            ],
            rows=rows,
        )
    ]


def _refusal_blocks(report: Report) -> list[Block]:
    reasons = report.reasons()
    if not reasons:
        return [Paragraph("No image was refused.")]
    drawn = report.acceptance.whole
    shown = list(reasons)[:5]
    return [
        bars(
            list(reasons),
            list(reasons.values()),
            caption="Refused images by reason. An image with several reasons counts for each of them, so bars add up to"
            " more than the refused images.",
            unit=f"images, of {drawn:,} drawn",
            colours=[WARN] * len(reasons),
            hover=[
                f"{label(name)}: {count:,} ({100 * count / max(1, drawn):.1f} %)<br>{label(REASONS.get(name, ''), 56)}"
                for name, count in reasons.items()
            ],
        ),
        KeyValues([(name, REASONS[name]) for name in reasons if name in REASONS]),
        Table(
            caption="Refused images of each class by the commonest reasons.",
            columns=[
                Column(name="Class"),
                Column(name="Refused", numeric=True),
                *(Column(name=name, numeric=True) for name in shown),
            ],
            rows=[
                (each.name, each.drawn - each.accepted, *(each.refused.get(name, 0) for name in shown))
                for each in report.classes
            ],
        ),
    ]


def _likeness_blocks(report: Report) -> list[Block]:
    every = [("all together", report.likeness), *((each.name, each.likeness) for each in report.classes)]
    measured = [(name, each) for name, each in every if each.synthetic.kid is not None]
    blocks: list[Block] = [
        Paragraph(
            "Accepted images and as many held-out real images were compared with the real training images. The real"
            " ones' figures are the floor: what is there without any generator. KID: 0 for no difference. Precision and"
            " density: how many images lie where real ones lie. Recall and coverage: how much of the real variety is"
            " there. MS-SSIM: likeness of two images of a set; above the real one they are too much alike."
        )
    ]
    if measured:
        blocks.append(
            dots(
                [name for name, _ in measured],
                [each.synthetic.kid for _, each in measured],
                [_around(each.synthetic) for _, each in measured],
                ticks=[each.real.kid for _, each in measured],
                x_title="KID",
                layout={},
                caption="KID of the accepted images (dots, with two standard errors where these are known) and of real"
                " images (grey ticks). The scale depends on the network that gives the features: compare a dot with"
                " its tick, not with other papers.",
            )
        )
    names = ("precision", "recall", "density", "coverage", "ms_ssim")
    titles = ("Precision", "Recall", "Density", "Coverage", "MS-SSIM")
    blocks.append(
        Table(
            caption="In brackets: real images.",
            columns=[
                Column(name="Class"),
                Column(name="Images", numeric=True, hint="Of each set"),
                Column(name="KID", tight=True),
                *(Column(name=title, tight=True) for title in titles),
                Column(name="Not defined, because", wide=True),
            ],
            rows=[
                (
                    name,
                    each.compared,
                    f"{kid(each.synthetic)} ({kid(each.real)})" if each.synthetic.kid is not None else UNDEFINED,
                    *(_with_floor(each, measure) for measure in names),
                    each.why,
                )
                for name, each in every
            ],
        )
    )
    return blocks


def _with_floor(each: Likeness, measure: str) -> str:
    own, real = getattr(each.synthetic, measure), getattr(each.real, measure)
    return UNDEFINED if own is None else f"{own:.2f} ({'–' if real is None else f'{real:.2f}'})"


def _around(own: Figures) -> tuple[float, float]:
    value, error = own.kid or 0.0, 2 * (own.kid_error or 0.0)
    return value - error, value + error


def _memorisation_blocks(report: Report) -> list[Block]:
    own = report.memorisation
    if own is None:
        return [Paragraph("Not measured.")]
    ratios = np.asarray(own.synthetic_N, np.float64)
    closest = f"{ratios.min():.2f}" if len(ratios) else UNDEFINED
    return [
        ratio_histogram(own),
        KeyValues(
            [
                ("Planted copies caught", f"{own.caught.part:,} of {own.caught.whole:,}", str(own.caught)),
                (
                    "Real images refused",
                    f"{own.false_refusals.part:,} of {own.false_refusals.whole:,}",
                    str(own.false_refusals),
                ),
                ("Drawn images refused", f"{report.reasons().get(COPY, 0):,} of {report.acceptance.whole:,}"),
                ("Closest drawn image", closest, f"the threshold is {own.threshold:.2f}"),
            ]
        ),
        Paragraph(
            "Planted copies are training images that were shifted, turned, mirrored, exposed otherwise, noised and"
            " stored as JPEG. A patch of a training image inside an otherwise new one is not found: a passed image is"
            " no proof of privacy. The threshold was set on the held-out real images themselves: the share of them that"
            " is refused is as was asked for, and no finding."
        ),
    ]


def _plan_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    plan = report.plan
    shift = f"{100 * plan.shift:.1f} points" if plan.shift_pair[0] else UNDEFINED
    pair = " with ".join(reversed(plan.shift_pair)) if plan.shift_pair[0] else "no class has enough rows"
    return [
        KeyValues(
            [
                ("Rows", f"{plan.rows:,}"),
                ("Label sets", f"{plan.label_sets:,}", f"{plan.new_sets:,} of them on no real training image"),
                ("Rows with such a new set", f"{plan.new_rows:,}"),
                ("Drawn from smoothed co-occurrence", f"{plan.smoothed:,}", "the others have a real image's label set"),
                ("Largest shift of a co-occurrence", shift, pair),
            ]
        ),
        Table(
            caption="Classes in the plan, the rarest first. An image counts for every class of its label set.",
            columns=[
                Column(name="Class"),
                Column(name="Real", numeric=True, hint="Real training images"),
                Column(name="Rows for it", numeric=True),
                Column(name="Rows with it", numeric=True, hint="Whichever class they are for"),
                Column(name="Real and planned", numeric=True, hint="If the gate accepts all"),
                Column(name="Label sets", numeric=True, hint="Distinct ones of its rows"),
                Column(name="New", numeric=True, hint="Of these, on no real training image"),
            ],
            rows=[
                (each.name, each.real, each.rows, each.planned, each.total, each.label_sets, each.new_sets)
                for each in plan.classes
            ],
        ),
        *([Paragraph(f"Each row with its prompt and seed: {paths['plan']}")] if "plan" in paths else []),
    ]


def _gate_blocks(report: Report) -> list[Block]:
    return [
        KeyValues([("Classifier", report.classifier), *report.gate]),
        Table(
            caption="Thresholds of the classifier's probability, from real validation images. Precision is that at the"
            " gate's expected share of images that show the class; recall is the share of real images that reach it.",
            columns=[
                Column(name="Class"),
                Column(name="Validation images", numeric=True, hint="Real ones that show it"),
                Column(name="Threshold", tight=True),
                Column(name="Precision", tight=True),
                Column(name="Recall", tight=True),
            ],
            rows=[
                (
                    each.name,
                    each.validation,
                    *(
                        UNDEFINED if value is None else f"{value:.3f}"
                        for value in (each.threshold, each.gate_precision, each.gate_recall)
                    ),
                )
                for each in report.classes
            ],
        ),
        *([Paragraph(NO_THRESHOLD)] if any(each.threshold is None for each in report.classes) else []),
    ]


def _training_blocks(report: Report) -> list[Block]:
    own = report.generator
    blocks: list[Block] = [training_curve(name, entries) for name, entries in report.curves.items() if entries]
    if not blocks:
        blocks.append(Paragraph("Nothing was trained in this run; the generator was used as it is."))
    if (loss := own.held_out) is not None:
        known = loss.low is not None and loss.high is not None
        interval = f"{loss.after - loss.before:+.4g}" + (
            f" (95 %: {loss.low:+.4g} to {loss.high:+.4g})" if known else ""
        )
        blocks.append(
            KeyValues(
                [
                    ("Before", f"{loss.before:.5g}"),
                    ("After", f"{loss.after:.5g}"),
                    ("Change", interval.replace("-", "−"), "below 0: better"),
                ],
                title=f"Denoising loss on {loss.images:,} held-out real images, with the same noise",
            )
        )
    return blocks


def _cost_blocks(report: Report) -> list[Block]:
    cost = report.cost
    work = sum(cost.seconds.values())
    return [
        bars(
            [*cost.seconds, "start-up (Ray, imports)"],
            [*cost.seconds.values(), cost.startup_seconds],
            caption=f"{work:,.1f} s of work; {cost.startup_seconds:,.1f} s of start-up, the same for any number of"
            " images, is listed apart.",
            unit="seconds",
            digits=1,
            colours=[ACCENT] * len(cost.seconds) + [QUIET],
        ),
        KeyValues(
            [
                ("Images per second", number(cost.images_per_second), "drawn, by all workers together"),
                (
                    "One denoising step",
                    f"{number(cost.step_seconds)} s" if cost.step_seconds else UNDEFINED,
                    "of a batch",
                ),
                ("GPU hours", "none: on CPU only" if cost.gpu_hours is None else f"{cost.gpu_hours:.2f}"),
                *([("Machine", cost.where)] if cost.where else []),
            ]
        ),
    ]


def _use_blocks(folder: str) -> list[Block]:
    place = folder or "FOLDER"
    return [
        Paragraph(
            "Train the classifier with the accepted images beside the real ones. They join the training images alone,"
            " with half the weight of a real one after the warm-up; --synthetic.use pretrain puts them into a stage of"
            " their own first. Compare with a run that has none, over several seeds, before you believe in a gain."
        ),
        Code(f"python jobs/classify.py --synthetic.path {place}"),
        Paragraph("Or read the table; refused images are in it too, with their reasons:"),
        Code(
            f'images = datasets.load_dataset({place!r}, "images", split="train")\n'
            'images = images.filter(lambda row: row["accepted"])'
        ),
    ]


def _rejected_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    if not report.rejected:
        return [Paragraph("No row of the label table was rejected.")]
    ranked = sorted(report.rejected.items(), key=lambda item: (-item[1], item[0]))
    return [
        KeyValues([(reason, f"{rows:,}") for reason, rows in ranked]),
        Table(
            columns=[Column(name="Row", wide=True), Column(name="Source"), Column(name="Reason", wide=True)],
            rows=report.rejected_rows,
            total=sum(report.rejected.values()),
            where=paths.get("rejected", ""),
        ),
    ]


def _run_blocks(report: Report) -> list[Block]:
    own = report.generator
    return [
        KeyValues(
            [
                ("Generator", own.words),
                *([("Learnt on top of", own.base)] if own.base else []),
                ("Method", own.method or "nothing was learnt"),
                ("Parameters", _count(own.parameters), "" if own.trained is None else f"{own.trained:,} learnt"),
                ("Training images", _count(own.images)),
                ("Size", f"{own.size} x {own.size} pixels"),
                ("Generator hash", own.checkpoint_hash),
                ("Seed", str(report.seed)),
                *report.versions.items(),
            ]
        )
    ]


def _configuration_blocks(report: Report) -> list[Block]:
    words = {None: "default", "": "none", True: "yes", False: "no"}
    rows = []
    for key, value in report.config.items():
        shown = words[value] if value is None or isinstance(value, bool) or value == "" else str(value)
        usual = report.defaults.get(key)
        rows.append((key, shown, "" if value == usual else f"changed; the default is {usual}"))
    return [KeyValues(rows)]


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"
