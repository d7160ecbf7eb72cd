"""Forest plots: a row per name, the first on top, with a dot and its interval for each of one or more sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymedlt.runreport.figures import ACCENT, LEGEND, QUIET, base_layout, label
from raymedlt.runreport.page import Figure


def dots(
    rows: Sequence[float],
    values: Sequence[float],
    ends: Sequence[tuple[float, float]],
    *,
    hover: Sequence[str],
    name: str = "",
    colour: str = ACCENT,
) -> dict[str, Any]:
    """A trace of dots.

    Args:
        rows: where each stands, from 0 at the top.
        ends: of each one's interval; a dot whose ends are not finite has none.
        hover: shown as they are (pass `label` over what comes from outside).
        name: in the legend.
    """
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": values, "y": rows,
        "error_x": {
            "type": "data", "symmetric": False, "color": colour, "thickness": 1.6, "width": 0,
            "arrayminus": [_gap(value - low) for value, (low, _) in zip(values, ends, strict=True)],
            "array": [_gap(high - value) for value, (_, high) in zip(values, ends, strict=True)],
        },
        "marker": {"color": colour, "size": 9}, "hovertext": hover, "hoverinfo": "text",
    }  # fmt: skip


def ticks(values: Sequence[float], *, name: str) -> dict[str, Any]:
    """A trace with a grey upright tick in every row, to compare the dots with."""
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": values, "y": list(range(len(values))),
        "marker": {"symbol": "line-ns", "size": 11, "line": {"width": 2, "color": QUIET}}, "hoverinfo": "skip",
    }  # fmt: skip


def forest(
    traces: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    xaxis: Mapping[str, Any],
    caption: str,
    lines: Sequence[Mapping[str, Any]] = (),
    longest: int = 34,
) -> Figure:
    """The figure; several traces get a legend.

    Args:
        names: of the rows, cut after `longest` characters.
        xaxis: see `figures.axis`. lines: see `figures.upright`.
    """
    return Figure(
        data=traces,
        layout=base_layout(
            margin={"t": 12, "r": 20},
            showlegend=len(traces) > 1,
            hovermode="closest",
            legend=LEGEND,
            shapes=list(lines),
            xaxis=xaxis,
            yaxis={
                "autorange": False,
                "range": [len(names) - 0.4, -0.6],
                "tickvals": list(range(len(names))),
                "ticktext": [label(name, longest=longest) for name in names],
                "fixedrange": True,
                "ticklabelstandoff": 6,
            },
        ),
        caption=caption,
        height=24 * len(names) + 110,
        least_width=520,
    )


def _gap(value: float) -> float:
    return max(value, 0.0) if math.isfinite(value) else 0.0
