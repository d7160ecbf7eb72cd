"""The page's sections on what came out: class by class, why images were refused, how real they are, copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raymedlt.runreport.figures import WARN, bars, label
from raymedlt.runreport.page import Block, Column, KeyValues, Paragraph, Table
from raymedlt.synthesis.figures import acceptance_forest, kid_forest, ratio_histogram
from raymedlt.synthesis.report import ClassReport, Likeness, Report
from raymedlt.synthesis.report_words import COPY, MEASURES, REASONS, UNDEFINED
from raymedlt.synthesis.warnings import LOW_ACCEPTANCE


def class_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    """How many images each class got."""
    shown = [each for each in report.classes if each.drawn]
    return [
        *([acceptance_forest(shown, LOW_ACCEPTANCE)] if shown else []),
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
        ),
        *([Paragraph(f"Each image with its reasons and scores: {paths['images']}")] if "images" in paths else []),
    ]


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


def refusal_blocks(report: Report) -> list[Block]:
    """Reasons, what they mean, and which class they met."""
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


def likeness_blocks(report: Report) -> list[Block]:
    """KID and its companions, beside what real images get."""
    every = {"all together": report.likeness} | {each.name: each.likeness for each in report.classes}
    measured = {name: each for name, each in every.items() if each.synthetic.kid is not None}
    blocks: list[Block] = [
        Paragraph(
            "Accepted images and as many held-out real images of the class were compared with its real training images."
            " The real ones' figures are the floor: what is there without any generator. All together: the three sets"
            " hold equally many images of each class, for rare classes differ from all real images by what they show."
        ),
        *([kid_forest(measured)] if measured else []),
        Table(
            caption="KID, 0 for no difference, with its standard error (from random halves of the sets).",
            columns=[
                Column(name="Class"),
                Column(name="Images", numeric=True, hint="Of each set"),
                Column(name="Accepted images", tight=True),
                Column(name="Real images", tight=True),
                Column(name="Not defined, because", wide=True),
            ],
            rows=[
                (name, each.compared, each.synthetic.kid_words, each.real.kid_words, each.why)
                for name, each in every.items()
            ],
        ),
    ]
    if measured:
        blocks.append(
            Table(
                caption="Precision and density: how many images lie where real ones lie. Recall and coverage: how much"
                " of the real variety is there. MS-SSIM: likeness of two images of a set; above the real one they are"
                " too much alike. In brackets: real images.",
                columns=[Column(name="Class"), *(Column(name=title, tight=True) for title in MEASURES.values())],
                rows=[(name, *(_with_floor(each, measure) for measure in MEASURES)) for name, each in measured.items()],
            )
        )
    return blocks


def _with_floor(each: Likeness, measure: str) -> str:
    own, real = getattr(each.synthetic, measure), getattr(each.real, measure)
    return UNDEFINED if own is None else f"{own:.2f} ({'–' if real is None else f'{real:.2f}'})"


def memorisation_blocks(report: Report) -> list[Block]:
    """How close drawn images come to training images."""
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
