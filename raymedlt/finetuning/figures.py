"""Figures of the finetune job's page: findings, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymedlt.finetuning.report import FindingCounts, TrainingReport
from raymedlt.intervals import Share
from raymedlt.runreport.figures import ACCENT, BAR_PIXELS, FAINT, LEGEND, QUIET, WARN, axis, base_layout, label, upright
from raymedlt.runreport.forest import dots, forest
from raymedlt.runreport.page import Figure

MOST_FINDINGS = 40
_MISSED = "var(--accent-veil)"
_LABEL_CHARACTERS = 30


def finding_bars(findings: Sequence[FindingCounts]) -> Figure:
    """For each finding: found and missed to the right, wrongly claimed to the left."""
    shown = findings[:MOST_FINDINGS]
    rows = list(range(len(shown)))
    traces = [
        _bar("found", rows, [each.hits for each in shown], ACCENT, shown),
        _bar("missed", rows, [each.missed for each in shown], _MISSED, shown),
        _bar("wrongly claimed", rows, [-each.false for each in shown], WARN, shown),
    ]
    return Figure(
        data=traces,
        layout=base_layout(
            barmode="relative",
            bargap=0.28,
            margin={"t": 12, "r": 20},
            showlegend=True,
            legend={**LEGEND, "traceorder": "normal"},
            hovermode="closest",
            xaxis=axis("reports", **_both_ways(shown)),
            yaxis={
                "autorange": False,
                "range": [len(shown) - 0.4, -0.6],
                "tickvals": rows,
                "ticktext": [label(each.name, longest=_LABEL_CHARACTERS) for each in shown],
                "showgrid": False,
                "fixedrange": True,
                "ticklabelstandoff": 6,
            },
            shapes=[upright(0, dash="solid")],
        ),
        caption="Reports that name the finding rightly, that miss it (both to the right of the line: what is there),"
        f" and that name it though it is not there (to the left); the commonest finding on top.{_cut(findings)}",
        height=BAR_PIXELS * len(shown) + 110,
        least_width=520,
    )


def _bar(
    name: str, rows: Sequence[int], values: Sequence[int], colour: str, shown: Sequence[FindingCounts]
) -> dict[str, Any]:
    return {
        "type": "bar", "orientation": "h", "name": name, "y": rows, "x": values, "marker": {"color": colour},
        "hovertext": [
            f"<b>{label(each.name)}</b><br>{each.hits:,} found, {each.missed:,} missed, {each.false:,} wrongly claimed"
            for each in shown
        ],
        "hoverinfo": "text",
    }  # fmt: skip


def _both_ways(shown: Sequence[FindingCounts]) -> dict[str, Any]:
    """Ticks without a sign, since left of the line are counts too."""
    widest = max([1, *(max(each.positives, each.false) for each in shown)])
    step = next(step for power in range(12) for step in (10**power, 2 * 10**power, 5 * 10**power) if widest / step <= 6)
    ticks = [step * number for number in range(-(widest // step) - 1, widest // step + 2)]
    left = max([0, *(each.false for each in shown)])
    return {
        "tickvals": ticks,
        "ticktext": [f"{abs(tick):,}" for tick in ticks],
        "range": [-1.06 * left - 0.02 * widest, 1.06 * max([1, *(each.positives for each in shown)])],
    }


def finding_forest(findings: Sequence[FindingCounts]) -> Figure:
    """Recall and precision of each finding with their intervals."""
    shown = findings[:MOST_FINDINGS]
    traces = []
    for name, shares, colour, shift in (
        ("recall: found of those that are there", [each.recall for each in shown], ACCENT, -0.14),
        ("precision: right of those that are claimed", [each.precision for each in shown], QUIET, 0.14),
    ):
        traces.append(
            dots(
                [row + shift for row in range(len(shown))],
                [math.nan if share.value is None else share.value for share in shares],
                [share.interval for share in shares],
                hover=[_told(each, name, share) for each, share in zip(shown, shares, strict=True)],
                name=name,
                colour=colour,
            )
        )
    return forest(
        traces,
        [f"{each.name} ({each.positives:,})" for each in shown],
        xaxis=axis("share", range=[-0.01, 1.01], tickformat=".0%"),
        caption="Recall and precision of each finding with 95 % intervals (Wilson; several images of one patient count"
        f" as if they were several patients'); in brackets how many reports have it.{_cut(findings)}",
        longest=_LABEL_CHARACTERS + 8,
    )


def _told(each: FindingCounts, name: str, share: Share) -> str:
    return f"<b>{label(each.name)}</b><br>{name.partition(':')[0]} {share}, {share.part:,} of {share.whole:,}"


def _cut(findings: Sequence[FindingCounts]) -> str:
    return f" Shown are the {MOST_FINDINGS} commonest of {len(findings)}." if len(findings) > MOST_FINDINGS else ""


def loss_curves(training: TrainingReport) -> Figure:
    """Training and validation loss by epoch, the kept one marked."""
    kept = training.kept
    x = [int(entry["epoch"]) + 1 for entry in training.history]
    rates = [entry.get("rate", math.nan) for entry in training.history]
    traces = [
        _curve(x, [entry[key] for entry in training.history], words, colour, rates)
        for key, words, colour in (("loss", "training", QUIET), ("validation_loss", "validation", ACCENT))
    ]
    mark = "" if kept is None else f" The dotted line is epoch {int(kept['epoch']) + 1}, whose weights were kept."
    return Figure(
        data=traces,
        layout=base_layout(
            margin={"t": 12, "r": 12},
            showlegend=True,
            legend=LEGEND,
            hovermode="x unified",
            shapes=[] if kept is None else [upright(int(kept["epoch"]) + 1, colour=FAINT, dash="dot")],
            xaxis=_epochs(x),
            yaxis=axis("loss per token"),
        ),
        caption=f"Mean cross-entropy of a token of the reports, by epoch.{mark} Test reports have no part in this.",
        height=320,
        least_width=420,
    )


def seeing_curves(seeing: Sequence[Mapping[str, float]]) -> Figure:
    """Loss of the encoder's first lesson, and how well it sees on validation images, one under the other."""
    x = [int(entry["epoch"]) + 1 for entry in seeing]
    scores = [entry.get("micro_f1", math.nan) for entry in seeing]
    measured = any(map(math.isfinite, scores))
    none = [math.nan] * len(x)
    traces = [_curve(x, [entry["loss"] for entry in seeing], "training loss", QUIET, none)]
    axes: dict[str, Any] = {"yaxis": axis("loss", rangemode="tozero", nticks=4)}
    if measured:
        traces.append({**_curve(x, scores, "micro F1", ACCENT, none), "yaxis": "y2"})
        axes = {
            "yaxis": axis("loss", rangemode="tozero", nticks=4, domain=[0.58, 1.0]),
            "yaxis2": {
                **base_layout()["yaxis"], **axis("micro F1", rangemode="tozero", nticks=4, domain=[0.0, 0.46]),
            },
        }  # fmt: skip
    return Figure(
        data=traces,
        layout=base_layout(
            margin={"t": 12, "r": 12},
            hovermode="x",
            xaxis={**_epochs(x), "anchor": "y2" if measured else "y"},
            **axes,
        ),
        caption="The encoder's first lesson: which findings do the training texts claim of this image? Its loss"
        + (", and the F1 of all findings of the validation images." if measured else "."),
        height=380 if measured else 260,
        least_width=420,
    )


def _curve(x: Sequence[int], y: Sequence[float], name: str, colour: str, rates: Sequence[float]) -> dict[str, Any]:
    told = [f", rate {rate:.2g}" if math.isfinite(rate) else "" for rate in rates]
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "marker": {"size": 6},
        "line": {"color": colour, "width": 2}, "customdata": told,
        "hovertemplate": f"{name} %{{y:.4g}}%{{customdata}}<extra></extra>",
    }  # fmt: skip


def _epochs(x: Sequence[int]) -> dict[str, Any]:
    return axis("epoch", dtick=1 + len(x) // 13, range=[min(x, default=1) - 0.3, max(x, default=1) + 0.3])
