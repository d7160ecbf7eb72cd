"""The part of the page that says how far additions can be trusted: coverage against contradiction.

Labels of the reports are read here, after everything was written; what was added never depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.evidence import MEASURES, Point, against_labels, curve, evidence_of, human_floor
from raymedlt.enrichment.sections import percent
from raymedlt.enrichment.writing import NO_FINDINGS, OTHER_LANGUAGE, OTHER_SPLIT
from raymedlt.reports.labels import scheme_of
from raymedlt.runreport.figures import ACCENT, INK, QUIET, axis, base_layout
from raymedlt.runreport.page import Block, Column, Figure, Paragraph, Table

SCHEME_NAMES = {"openi_mesh": "OpenI's MeSH codes", "padchest": "PadChest's labels", "chexpert": "CheXpert's labels",
                "nih14": "ChestX-ray14's labels"}  # fmt: skip
ASKED_FOR = {"opposite": "opposites at most", "lift_lower": "lift at least", "confidence": "confidence at least",
             "support": "support at least"}  # fmt: skip
LABEL_SAMPLE = 5000  # reports whose labels tell the scheme, and whose own sentences give the human floor


def evidence_blocks(
    enriched: pa.Table, additions: pa.Table, edges: pa.Table, config: EnrichConfig, summary: Mapping[str, Any]
) -> list[Block]:
    """Coverage against contradiction. The labels are read here and never where additions are chosen."""
    if config.control != "semantic":
        return [Paragraph(f"Nothing vouches for the sentences of the control '{config.control}': there is no curve.")]
    if not additions.num_rows:
        return [Paragraph("No report got an addition, so there is no curve.")]
    enriched, additions, sample = _judged_rows(enriched, additions, summary)
    if not additions.num_rows:
        return [Paragraph("The sample of this page holds no whole report with an addition, so there is no curve.")]
    evidence = evidence_of(additions, edges)
    labels, languages = (
        dict(zip(enriched["report_id"].to_pylist(), enriched[name].to_pylist(), strict=True))
        for name in ("labels", "language")
    )
    scheme = scheme_of(label for given in list(labels.values())[:LABEL_SAMPLE] for label in given)
    verdicts = against_labels(additions, labels, scheme, languages) if scheme else None
    if verdicts is None or not verdicts.checkable.any():
        points = curve(evidence, enriched.num_rows, None)
        rate = "estimate: contradicting without the guard"
        caption = f"Estimate, for want of labels{sample}. From left to right weaker evidence is let in."
        text = (
            "The reports have no labels to check additions by. What is shown is an estimate from the training reports"
            " alone, of what adding without a guard would get wrong at worst: the share of studies with the same"
            f" findings that state the opposite, {100 * points[-1].rate:.0f} % on average. The guard refuses where a"
            " report itself does so, so that the true share is far lower. Read the order, not the height."
        )
        return [Paragraph(text), evidence_curve({ASKED_FOR["opposite"]: points}, caption, rate), _points_table(points)]
    curves = {ASKED_FOR[name]: curve(evidence, enriched.num_rows, verdicts, name) for name in MEASURES}
    points = curves[ASKED_FOR["opposite"]]
    run, names = points[-1], SCHEME_NAMES[str(scheme)]
    wrong, normal = human_floor(enriched.slice(0, LABEL_SAMPLE), str(scheme))
    text = (
        f"The additions were checked against {names}, which enrichment never sees: {int(verdicts.wrong.sum()):,} of"
        f" {run.checked:,} checkable additions deny a finding that their report's labels name ({100 * run.rate:.2f} %,"
        f" 95 % interval {100 * run.low:.2f} to {100 * run.high:.2f}). Labels err too: so do {percent(wrong, normal)}"
        f" of the {normal:,} checkable normal sentences that the reports hold themselves."
    )
    caption = (
        f"What asking for stronger evidence would change{sample}: from left to right weaker evidence is let in, up to"
        " all that this run added. Opposites: the share of training studies with the same findings that state the"
        " opposite of the addition. Where the curve lies within the interval of this run's point, stronger evidence"
        " buys nothing for the reports that it costs."
    )
    return [
        Paragraph(text),
        evidence_curve(curves, caption, "checkable additions that contradict"),
        _points_table(points),
    ]


def _judged_rows(enriched: pa.Table, additions: pa.Table, summary: Mapping[str, Any]) -> tuple[pa.Table, pa.Table, str]:
    """Reports that could have got an addition, all additions to them, and words for a sample of a larger run."""
    whole = sum(int(number) * reports for number, reports in summary["added"].items())
    if additions.num_rows < whole:  # rows come in the order of report ids; the last report may be cut in two
        last = pc.max(additions["report_id"])
        enriched = enriched.filter(pc.less(enriched["report_id"], last))
    others = pa.array([NO_FINDINGS, OTHER_SPLIT, OTHER_LANGUAGE])
    could = enriched.filter(pc.invert(pc.is_in(enriched["why_unchanged"], others)))
    kept = additions.filter(pc.is_in(additions["report_id"], could["report_id"].combine_chunks()))
    few = could.num_rows < summary["with_findings"]
    return could, kept, f" (the first {could.num_rows:,} of {summary['with_findings']:,} reports)" if few else ""


def _points_table(points: list[Point]) -> Table:
    shown = [*points[:-1][:: max(1, len(points) // 8)], points[-1]]
    return Table(
        caption="The same in figures. The last row is this run.",
        columns=[
            Column(name="Opposites at most", numeric=True, digits=3),
            Column(name="Reports with an addition, %", numeric=True, digits=1),
            Column(name="Additions", numeric=True),
            Column(name="Checkable", numeric=True),
            Column(name="Contradicting, %", numeric=True, digits=2),
            Column(name="at least", numeric=True, digits=2, hint="Lower end of Wilson's 95 % interval"),
            Column(name="at most", numeric=True, digits=2, hint="Upper end"),
        ],
        rows=[
            (p.limit, 100 * p.coverage, p.additions, p.checked, 100 * p.rate, 100 * p.low, 100 * p.high) for p in shown
        ],
    )


def evidence_curve(curves: Mapping[str, Sequence[Point]], caption: str, y_title: str) -> Figure:
    """Coverage against contradiction: the first curve with its interval and the run's own point, the others fainter.

    Args:
        curves: what the evidence is asked for, in words -> `evidence.curve`, not empty.
    """
    (name, chosen), *others = curves.items()
    run = chosen[-1]
    # The interval of a few additions is wide: it may leave the picture, so that the curve doesn't flatten.
    highest = max(point.rate for points in curves.values() for point in points if point.checked >= run.checked / 10)
    top = 100 * max(2 * highest, 1.25 * run.high if math.isfinite(run.high) else 0, 0.001)
    traces: list[dict[str, Any]] = []
    if math.isfinite(run.high):
        around = [point for point in chosen if point.checked]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [100 * point.coverage for point in (*around, *reversed(around))],
                "y": [100 * point.high for point in around] + [100 * point.low for point in reversed(around)],
                "fill": "toself",
                "fillcolor": "var(--accent-veil)",
                "line": {"width": 0},
                "name": "95 % interval",
                "hoverinfo": "skip",
            }
        )
    for number, (words, points) in enumerate(others):
        dash = ("dot", "dash", "dashdot")[number % 3]
        traces.append(_line(words, points, {"color": QUIET, "width": 1.5, "dash": dash}))
    traces.append({**_line(name, chosen, {"color": ACCENT, "width": 2.5}), "legendrank": 1})
    traces.append(
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [100 * run.coverage],
            "y": [100 * run.rate],
            "marker": {"color": INK, "size": 11, "symbol": "diamond"},
            "text": ["this run"],
            "textposition": "bottom center",
            "textfont": {"color": INK},
            "cliponaxis": False,
            "hovertext": [_told(run, "all additions")],
            "hoverinfo": "text",
            "showlegend": False,
        }
    )
    layout = base_layout(
        margin={"t": 12, "r": 24},
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        xaxis=axis("% of reports with findings that keep an addition", range=[0, min(100.0, 108 * run.coverage)]),
        yaxis=axis(y_title, range=[-0.06 * top, top], ticksuffix=" %"),
    )
    return Figure(data=traces, layout=layout, caption=caption, height=380, least_width=520)


def _line(words: str, points: Sequence[Point], line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [100 * point.coverage for point in points],
        "y": [100 * point.rate for point in points],
        "line": dict(line),
        "name": words,
        "hovertext": [_told(point, f"{words} {point.limit:.3g}") for point in points],
        "hoverinfo": "text",
    }


def _told(point: Point, what: str) -> str:
    """A point of the evidence curve as a hover text."""
    spread = f" ({100 * point.low:.2f} to {100 * point.high:.2f})" if math.isfinite(point.high) else " (estimate)"
    return (
        f"<b>{what}</b><br>{100 * point.coverage:.1f} % of reports keep an addition ({point.additions:,} additions)<br>"
        f"{100 * point.rate:.2f} %{spread} contradict"
    )
