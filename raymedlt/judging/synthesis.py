"""Drawn images, judged: of one finished run of jobs/synthesize.py, or of two.

Acceptance and reasons are counted anew from the tables; likeness and the search for copies cost the images themselves
and are taken from the run's metrics.json. Two runs draw different images, so nothing here is paired.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raymedlt.errors import ConsistencyError
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.intervals import Share
from raymedlt.judging.finished import FinishedRun
from raymedlt.judging.judged import Judged, Measured, difference_forest, scores_block, verdict_words
from raymedlt.resampling import Interval
from raymedlt.runreport.page import Block, Column, KeyFigure, KeyValues, Paragraph, Section, Table
from raymedlt.schema import PLAN, SYNTHETIC_IMAGES
from raymedlt.synthesis.report_words import COPY, MEASURES, REASONS, REPEAT, kind_of, number

_ROWS = pa.schema([SYNTHETIC_IMAGES.field(name) for name in ("row_id", "accepted", "reasons")])
_TARGETS = pa.schema([PLAN.field(name) for name in ("row_id", "target")])


@dataclass
class Counts:
    """Of a run's images, by the class that each was drawn for."""

    drawn: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Kinds of reasons; an image may have several."""
    by_class: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: FinishedRun) -> Counts:
        """From the tables `plan` and `images`.

        Raises:
            ConsistencyError: they don't agree with the run's metrics.json.
        """
        found = cls(metrics=run.metrics)
        targets = run.table("plan", _TARGETS).to_pydict()
        target_of = dict(zip(targets["row_id"], targets["target"], strict=True))
        for row in run.table("images", _ROWS).to_pylist():
            target = target_of[row["row_id"]]
            kinds = {kind_of(reason) for reason in row["reasons"]}
            found.drawn[target] += 1
            found.accepted[target] += row["accepted"]
            found.reasons.update(kinds)
            found.by_class[target].update(kinds)
        totals = (found.drawn.total(), found.accepted.total())
        if totals != (found.metrics["drawn"], found.metrics["accepted"]):
            raise ConsistencyError(
                f"{totals[1]} of {totals[0]} images accepted in the tables of '{run.uri}'",
                f"{found.metrics['accepted']} of {found.metrics['drawn']}, as its metrics.json says",
            )
        return found

    @property
    def all(self) -> Share:
        """Accepted of drawn."""
        return Share(self.accepted.total(), self.drawn.total())

    def share(self, name: str) -> Share:
        """Of one class."""
        return Share(self.accepted[name], self.drawn[name])


def judge(config: EvaluateConfig, run: FinishedRun, against: FinishedRun | None) -> Judged:
    """Acceptance, reasons, likeness and copies of the run; with another run differences of independent shares."""
    own = Counts.of(run)
    other = None if against is None else Counts.of(against)
    measured = [_acceptance("", "All", own.all, None if other is None else other.all)]
    measured += [
        _acceptance(name, name, own.share(name), None if other is None else other.share(name))
        for name in sorted(own.drawn, key=lambda each: (-own.share(each).part, each))
    ]
    likeness = own.metrics["likeness"]
    copies = own.reasons[COPY] + own.reasons[REPEAT]
    return Judged(
        title="Drawn images" if other is None else "Two runs that draw images",
        verdict=_verdict(own, measured[0]),
        headline=[
            ("Accepted", f"{own.all.part:,} of {own.all.whole:,}"),
            ("KID, drawn and real", " and ".join(number(likeness[side]["kid"]) for side in ("synthetic", "real"))),
            ("Copies and repeats refused", f"{copies:,}"),
        ],
        key_figures=[
            KeyFigure(
                label="Accepted by the gate", value=_percent(own.all),
                hint=f"of {own.all.whole:,}" if other is None else f"the other: {_percent(other.all)}",
            ),
            KeyFigure(
                label="KID", value=number(likeness["synthetic"]["kid"]),
                hint=f"real images: {number(likeness['real']['kid'])}",
            ),
            KeyFigure(label="Copies and repeats", value=f"{copies:,}", hint="refused by the gate"),
        ],
        sections=[
            Section(title="What the gate accepted", blocks=_class_blocks(measured)),
            Section(title="Why images were refused", blocks=[_reasons(own, other)]),
            Section(title="How like real images", blocks=_likeness(own, other)),
            Section(title="Copies", blocks=_copies(own)),
        ],
        measured=measured,
        warnings=[
            "Accepted means that a classifier trained on real images saw the planned classes: what that is worth"
            " jobs/classify.py says (--synthetic.path), and --what classifier of its runs with and without them."
        ],
        figures={"reasons": dict(own.reasons.most_common()), "likeness": likeness},
    )  # fmt: skip


def newcombe(first: Share, second: Share) -> Interval:
    """first - second of independent shares with its 95 % interval (Newcombe, Stat Med 1998, method 10)."""
    if first.value is None or second.value is None:
        return Interval(math.nan, math.nan, math.nan, 0)
    (l1, u1), (l2, u2) = first.interval, second.interval
    estimate = first.value - second.value
    below = math.hypot(first.value - l1, u2 - second.value)
    above = math.hypot(u1 - first.value, second.value - l2)
    return Interval(estimate, estimate - below, estimate + above, 0)


def _acceptance(part: str, title: str, own: Share, other: Share | None) -> Measured:
    return Measured(
        name="accepted", part=part, title=title, count=own.whole, run=_interval(own),
        against=None if other is None else _interval(other),
        difference=None if other is None else newcombe(own, other),
    )  # fmt: skip


def _interval(share: Share) -> Interval:
    if share.value is None:
        return Interval(math.nan, math.nan, math.nan, 0)
    return Interval(share.value, *share.interval, 0)


def _verdict(own: Counts, main: Measured) -> str:
    said = f"The gate accepted {own.all.part:,} of {own.all.whole:,} drawn images"
    if main.difference is None:
        return f"{said}, {own.all}."
    return f"{said}: a share of {verdict_words(main, 'more', 'less')}."


def _percent(share: Share) -> str:
    return "–" if share.value is None else f"{100 * share.value:.1f}\u00a0%"


def _class_blocks(measured: Sequence[Measured]) -> list[Block]:
    paired = measured[0].difference is not None
    caption = "Share of the images drawn for a class that the gate accepted, with Wilson's 95 % interval."
    if paired:
        caption += " The two runs' images are different ones: differences of independent shares, Newcombe's interval."
    blocks: list[Block] = [scores_block(measured, caption, first="Class", counted="Drawn")]
    if paired:
        blocks.append(difference_forest(measured[1:], "Difference of the accepted share, class by class.", "share"))
    return blocks


def _reasons(own: Counts, other: Counts | None) -> Table:
    names = sorted({*own.reasons, *(other.reasons if other else ())}, key=lambda each: (-own.reasons[each], each))
    columns = [Column(name="Reason", tight=True), Column(name="Images", numeric=True), Column(name="Share", tight=True)]
    columns += [] if other is None else [Column(name="The other", numeric=True), Column(name="Share ", tight=True)]
    rows = [
        (
            name, own.reasons[name], _percent(Share(own.reasons[name], own.all.whole)),
            *(() if other is None else (other.reasons[name], _percent(Share(other.reasons[name], other.all.whole)))),
            REASONS.get(name, ""),
        )
        for name in names
    ]  # fmt: skip
    return Table(
        caption="Of all drawn images; one may have several reasons.",
        columns=[*columns, Column(name="What it means", wide=True)], rows=rows,
    )  # fmt: skip


def _likeness(own: Counts, other: Counts | None) -> list[Block]:
    """KID and its companions: drawn images beside as many held-out real ones, all classes and each."""
    runs = [("This run", own)] + ([] if other is None else [("The other", other)])
    rows = []
    for title, run in runs:
        sets = [
            ("all classes", run.metrics["likeness"]),
            *((k, v["likeness"]) for k, v in run.metrics["classes"].items()),
        ]
        for name, found in sets:
            for side, words in (("synthetic", "drawn"), ("real", "real")):
                if not found["why"]:
                    values = (found[side]["kid"], *(found[side][key] for key in MEASURES))
                    rows.append((*([title] if other else []), name, words, found["compared"], *values))
    if not rows:
        return [Paragraph("Not defined: too few accepted or held-out images.")]
    return [
        Table(
            caption="Distances to the real training images, of accepted images and of as many held-out real ones, which"
            " are the floor. A class with too few images has none.",
            columns=[
                *([Column(name="Run", tight=True)] if other else []),
                Column(name="Class", tight=True), Column(name="Images", tight=True),
                Column(name="Number", numeric=True), Column(name="KID", numeric=True, digits=3),
                *(Column(name=name, numeric=True, digits=2) for name in MEASURES.values()),
            ],
            rows=rows,
        )
    ]  # fmt: skip


def _copies(own: Counts) -> list[Block]:
    memory = own.metrics["memorisation"]
    rows: list[tuple[str, str, str]] = [
        ("Refused as copies", f"{own.reasons[COPY]:,}", "of training images"),
        ("Refused as repeats", f"{own.reasons[REPEAT]:,}", "of earlier drawn ones"),
    ]
    if memory is not None:
        rows += [
            ("Planted copies caught", "{:,} of {:,}".format(*memory["caught"]), "moved, turned, exposed, JPEG, noise"),
            ("Real images refused", "{:,} of {:,}".format(*memory["false_refusals"]), "of other patients"),
        ]
    return [KeyValues(rows)]
