"""Pictures of the classify job's page: scores per class, curves, calibration, confusion, ablation.

The circle of the label graph is in graphfigure.py, attention maps are in attentionmaps.py.

Shape suffix: T tail classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymedlt.classifier.report import GROUPS, AblationRow, ClassScores, Floats, Reliability
from raymedlt.runreport.figures import ACCENT, FAINT, GRID, LEGEND, QUIET, axis, base_layout, label, upright
from raymedlt.runreport.forest import dots, forest, ticks
from raymedlt.runreport.page import Figure

COLOURS = {"head": ACCENT, "medium": "var(--mixed)", "tail": "var(--abnormal)"}
FOREST_CLASSES = 60  # rows of the picture of all classes


def class_forest(classes: Sequence[ClassScores]) -> Figure:
    """Average precision of every class with its interval, the commonest class on top; a tick is what guessing gets."""
    ranked = [classes[place] for place in commonest_and_rarest(classes, FOREST_CLASSES)]
    rows = {c.name: row for row, c in enumerate(ranked)}
    traces = [ticks([c.chance for c in ranked], name="guessing")]
    for group in GROUPS:
        members = [c for c in ranked if c.group == group and math.isfinite(c.ap.value)]
        if members:
            traces.append(
                dots(
                    [rows[c.name] for c in members],
                    [c.ap.value for c in members],
                    [(c.ap.low, c.ap.high) for c in members],
                    hover=[_told(c) for c in members],
                    name=group,
                    colour=COLOURS[group],
                )
            )
    return forest(
        traces,
        [c.name for c in ranked],
        xaxis=axis("average precision on the test images", range=[-0.01, 1.01], dtick=0.2),
        caption="Average precision of each class with its 95 % interval, the commonest class of the training images on"
        " top. A grey tick is what guessing would get (the share of positives): a rare class starts from next to"
        " nothing, so compare a point with its tick before you compare it with another class."
        + (f" Shown are the {len(ranked)} commonest and rarest classes." if len(ranked) < len(classes) else ""),
    )


def _told(scores: ClassScores) -> str:
    return (
        f"<b>{label(scores.name)}</b> ({scores.group})<br>average precision {scores.ap}<br>AUC {scores.auc}<br>"
        f"{scores.training_positives:,} training and {scores.test_positives:,} test positives"
    )


def learning_curves(curves: Mapping[str, Sequence[float] | Floats], best_epoch: int | None) -> Figure:
    """Loss, validation mAP and learning rate by epoch, one under the other.

    Args:
        curves: "epoch", "loss", "validation_map", "rate" -> one number per epoch (NaN where there is none).
        best_epoch: the epoch whose weights were kept, marked.
    """
    panels = (
        ("loss", "training loss", ACCENT, [0.7, 1.0]),
        ("validation_map", "validation mAP", "var(--normal)", [0.34, 0.62]),
        ("rate", "learning rate", QUIET, [0.0, 0.26]),
    )
    traces, axes = [], {}
    for number, (name, words, colour, domain) in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": curves["epoch"],
                "y": curves[name],
                "yaxis": f"y{suffix}",
                "line": {"color": colour, "width": 2},
                "marker": {"size": 5},
                "name": words,
                "hovertemplate": f"epoch %{{x}}<br>{words} %{{y:.4g}}<extra></extra>",
            }
        )
        axes[f"yaxis{suffix}"] = {
            **axis(words, domain=domain, nticks=4, rangemode="tozero"), "gridcolor": GRID, "linecolor": GRID,
            "zeroline": False, "automargin": True,
        }  # fmt: skip
    marks = []
    if best_epoch is not None:
        marks.append(upright(best_epoch, colour=FAINT, dash="dot"))
    words = f" The dotted line is epoch {best_epoch}, whose weights were kept." if best_epoch is not None else ""
    return Figure(
        data=traces,
        layout=base_layout(
            shapes=marks,
            hovermode="x",
            margin={"t": 12, "r": 12},
            xaxis=axis("epoch", anchor=f"y{len(panels)}", dtick=1 + len(curves["epoch"]) // 13),
            **axes,
        ),
        caption="Training loss, mean average precision on the validation images, and learning rate of the new layers,"
        f" by epoch.{words} The test images have no part in this.",
        height=480,
        least_width=420,
    )


def reliability_diagram(bins: Mapping[str, Reliability]) -> Figure:
    """Probability said against share found, e.g. "before" and "after" calibration. The last one is drawn strongest."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "name": "as said",
            "line": {"color": FAINT, "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for number, (name, one) in enumerate(bins.items(), 1):
        filled = np.flatnonzero(one.counts)
        counts = one.counts[filled]
        last = number == len(bins)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{label(name)} (ECE {one.ece:.3f})",
                "x": one.predicted[filled],
                "y": one.observed[filled],
                "line": {"color": ACCENT if last else QUIET, "width": 2},
                "marker": {"size": 5 + 2.2 * np.log10(np.maximum(counts, 1)), "opacity": 0.85},
                "hovertext": [
                    f"{label(name)}<br>said {p:.1%}, found {o:.1%}<br>{n:,} predictions"
                    for p, o, n in zip(one.predicted[filled], one.observed[filled], counts, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
    return Figure(
        data=traces,
        layout=base_layout(
            margin={"t": 12, "r": 20},
            showlegend=True,
            hovermode="closest",
            legend=LEGEND,
            xaxis=axis("probability said", range=[-0.03, 1.03], tickformat=".0%"),
            yaxis=axis("share that shows the class", range=[-0.03, 1.03], tickformat=".0%"),
        ),
        caption="What the classifier says against what is so, over all classes and test images. On the dotted line a"
        " probability means what it says; below it the classifier is too sure. Larger dots hold more predictions (by"
        " their logarithm); most predictions of rare classes lie near 0.",
        height=420,
        least_width=420,
    )


def tail_heat_map(rates_TT: Floats, names: Sequence[str], positives: Sequence[int]) -> Figure:
    """How often a tail class (column) is called on the test positives of a tail class (row); see `call_rates`."""
    hover = [
        [
            f"{label(column)} called on {rate:.1%} of the {count:,} test positives of {label(row)}"
            if math.isfinite(rate)
            else f"{label(row)} has no such test positive"
            for column, rate in zip(names, rates, strict=True)
        ]
        for row, count, rates in zip(names, positives, rates_TT.tolist(), strict=True)
    ]
    return Figure(
        data=[
            {
                "type": "heatmap",
                "z": rates_TT,
                "x": list(range(len(names))),
                "y": list(range(len(names))),
                "zmin": 0,
                "zmax": 1,
                "xgap": 2,
                "ygap": 2,
                "colorscale": [[0, "var(--middle)"], [1, "var(--above)"]],
                "hovertext": hover,
                "hoverinfo": "text",
                "hoverongaps": False,
                "text": [[f"{rate:.0%}" if math.isfinite(rate) else "" for rate in row] for row in rates_TT.tolist()],
                "texttemplate": "%{text}",
                "textfont": {"size": 11},
                "showscale": False,
            }
        ],
        layout=base_layout(
            xaxis={
                "side": "top",
                "tickangle": -40,
                "tickvals": list(range(len(names))),
                "ticktext": [label(name, longest=26) for name in names],
                "showgrid": False,
                "fixedrange": True,
            },
            yaxis={
                "autorange": "reversed",
                "tickvals": list(range(len(names))),
                "ticktext": [label(f"{name} ({n:,})", longest=38) for name, n in zip(names, positives, strict=True)],
                "showgrid": False,
                "fixedrange": True,
                "ticklabelstandoff": 6,
            },
        ),
        caption="Rows: what a test image shows (number of positives). Columns: what the classifier calls, at its"
        " thresholds. On the diagonal: the share found. Elsewhere: the share of the row's images that do not show the"
        " column's class but are called so. An image may show and be called several classes, so rows do not add up.",
        height=34 * len(names) + 190,
        least_width=520,
    )  # fmt: skip


def commonest_and_rarest(classes: Sequence[ClassScores], most: int) -> list[int]:
    """Places of at most so many classes, the commonest first: all, or half of them the commonest, half the rarest."""
    ranked = sorted(range(len(classes)), key=lambda c: (-classes[c].training_positives, classes[c].name))
    return ranked if len(ranked) <= most else ranked[: most // 2] + ranked[-most // 2 :]


def ablation_forest(rows: Sequence[AblationRow]) -> Figure | None:
    """Paired differences of tail mAP to the full network, with intervals. None without any."""
    shown = [(row.variant, row.tail_difference) for row in rows if row.tail_difference is not None]
    if not shown:
        return None
    differences = [difference for _, difference in shown]
    trace = dots(
        range(len(shown)),
        [100 * d.value for d in differences],
        [(100 * d.low, 100 * d.high) for d in differences],
        hover=[f"{label(name)}: {d}" for name, d in shown],
    )
    return forest(
        [trace],
        [name for name, _ in shown],
        xaxis=axis("tail mAP minus the full network's, points", zeroline=False),
        lines=[upright(0, dash="solid")],
        caption="What is lost (left of the line) or won (right) on the tail when one thing is switched off, with 95 %"
        " intervals over the same test patients. An interval that crosses the line says: no clear difference.",
    )
