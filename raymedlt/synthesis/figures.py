"""Figures of the synthesize job's page: dots with intervals, the histogram of distances to real images, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymedlt.runreport.figures import ACCENT, FAINT, INK, QUIET, WARN, base_layout, label
from raymedlt.runreport.page import Figure
from raymedlt.synthesis.report import Memorisation, number

BINS = 60
MOST_POINTS = 400  # of a training curve


def dots(
    names: Sequence[str],
    values: Sequence[float | None],
    ends: Sequence[tuple[float, float]],
    *,
    ticks: Sequence[float | None] = (),
    line: float | None = None,
    x_title: str,
    layout: Mapping[str, Any],
    caption: str,
) -> Figure:
    """A dot with its interval per name, the first on top; grey ticks and a dashed line to compare with."""
    places = list(range(len(names)))
    gaps = [(v - low, high - v) if v is not None else (0.0, 0.0) for v, (low, high) in zip(values, ends, strict=True)]
    dots = {
        "type": "scatter", "mode": "markers", "x": values, "y": places, "marker": {"color": ACCENT, "size": 9},
        "error_x": {
            "type": "data", "symmetric": False, "arrayminus": [low for low, _ in gaps], "array": [up for _, up in gaps],
            "color": ACCENT, "thickness": 1.6, "width": 0,
        },
        "hovertext": [f"{label(name)}: {number(v)}" for name, v in zip(names, values, strict=True)],
        "hoverinfo": "text",
    }  # fmt: skip
    grey = {
        "type": "scatter", "mode": "markers", "x": list(ticks), "y": places, "hoverinfo": "skip",
        "marker": {"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": QUIET}},
    }  # fmt: skip
    return Figure(
        data=[*([grey] if len(ticks) else []), dots],
        layout=base_layout(
            margin={"t": 12, "r": 20},
            hovermode="closest",
            shapes=[] if line is None else [_upright(line)],
            xaxis={**_titled(x_title), **layout},
            yaxis={
                "range": [len(names) - 0.4, -0.6],
                "tickvals": places,
                "ticktext": [label(name, longest=40) for name in names],
                "fixedrange": True,
                "ticklabelstandoff": 6,
            },
        ),
        caption=caption,
        height=24 * len(names) + 110,
        least_width=520,
    )


def ratio_histogram(own: Memorisation) -> Figure:
    """Distance ratios as shares of each set, in common bins."""
    sets = [("held-out real", own.held_out_N, QUIET), ("synthetic", own.synthetic_N, ACCENT)]
    if own.planted_N is not None:
        sets.append(("planted copies", own.planted_N, WARN))
    top = 1.02 * max([own.threshold, *(float(np.max(each)) for _, each, _ in sets if len(each))])
    edges = np.linspace(0, top, BINS + 1)
    traces = []
    for name, ratios, colour in sets:
        counts = np.histogram(ratios, edges)[0]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"{name} ({len(ratios):,})", "fill": "tozeroy",
                "line": {"color": colour, "width": 2, "shape": "hvh"}, "opacity": 0.9,
                "fillcolor": colour.replace(")", "-veil)"),
                "x": np.round((edges[:-1] + edges[1:]) / 2, 4), "y": counts / max(1, len(ratios)),
                "hovertemplate": f"{name}<br>ratio %{{x:.2f}}: %{{y:.1%}}<extra></extra>",
            }
        )  # fmt: skip
    return Figure(
        data=traces,
        layout=base_layout(
            margin={"t": 12, "r": 20},
            showlegend=True,
            hovermode="closest",
            legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
            shapes=[_upright(own.threshold)],
            xaxis={**_titled("distance to the nearest training image, 1: usual for a real image"), "range": [0, top]},
            yaxis={**_titled("share of the images"), "tickformat": ".0%", "rangemode": "tozero"},
        ),
        caption="How close images come to a training image. Left of the dashed line they are refused as copies. A"
        " generator that remembers its training images puts synthetic images left of the real ones.",
        height=340,
        least_width=420,
    )


def training_curve(name: str, entries: Sequence[Mapping[str, float]]) -> Figure:
    """Loss by step; on a logarithmic axis where it falls to less than a tenth."""
    shown = entries[:: -(-len(entries) // MOST_POINTS)]
    losses = [each["loss"] for each in shown]
    steep = min(losses) > 0 and max(losses) > 10 * min(losses)
    scale = {"type": "log", "dtick": "D2"} if steep else {"rangemode": "tozero"}
    return Figure(
        data=[
            {
                "type": "scatter", "mode": "lines", "x": [each["step"] for each in shown], "y": losses,
                "line": {"color": ACCENT, "width": 2}, "customdata": [each.get("rate") for each in shown],
                "hovertemplate": "step %{x:,}<br>loss %{y:.4g}<br>rate %{customdata:.2g}<extra></extra>",
            }
        ],
        layout=base_layout(
            margin={"t": 12, "r": 12},
            hovermode="x",
            xaxis=_titled("step"),
            yaxis={**_titled("training loss"), **scale},
        ),
        caption=f"Training of the {name}: mean loss between two reports.",
        height=280,
        least_width=420,
    )  # fmt: skip


def _upright(x: float) -> dict[str, Any]:
    line = {"color": INK, "width": 1, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _titled(words: str) -> dict[str, Any]:
    return {"title": {"text": words, "font": {"color": FAINT, "size": 12}, "standoff": 10}, "fixedrange": True}
