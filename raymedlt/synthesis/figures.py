"""Figures of the synthesize job's page: acceptance, KID, distances to real images, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from raymedlt.runreport.figures import ACCENT, LEGEND, QUIET, WARN, axis, base_layout, label, upright
from raymedlt.runreport.forest import dots, forest
from raymedlt.runreport.page import Figure
from raymedlt.synthesis.report import ClassReport, Likeness, Memorisation

BINS = 60
MOST_POINTS = 400  # of a training curve


def acceptance_forest(classes: Sequence[ClassReport], low: float) -> Figure:
    """Accepted share of each class with its interval; a dashed line at `low`."""
    shares = [each.acceptance for each in classes]
    return forest(
        [
            dots(
                range(len(classes)),
                [share.part / share.whole for share in shares],
                [share.interval for share in shares],
                hover=[f"{label(each.name)}: {share}" for each, share in zip(classes, shares, strict=True)],
            )
        ],
        [f"{each.name} ({each.accepted:,} of {each.drawn:,})" for each in classes],
        xaxis=axis("accepted share of the drawn images", range=[-0.01, 1.01], tickformat=".0%"),
        lines=[upright(low)],
        longest=40,
        caption="Acceptance by class with its 95 % interval (Wilson), the rarest class on top. Left of the dashed line"
        f" ({100 * low:.0f}\u00a0%) the gate keeps only what the classifier finds easy.",
    )


def kid_forest(measured: Mapping[str, Likeness]) -> Figure:
    """KID of accepted and of real images, one above the other in each row."""
    traces = []
    for name, own, colour, shift in (
        ("real images", [each.real for each in measured.values()], QUIET, -0.14),
        ("accepted images", [each.synthetic for each in measured.values()], ACCENT, 0.14),
    ):
        kids = [math.nan if each.kid is None else each.kid for each in own]
        errors = [math.nan if each.kid_error is None else 2 * each.kid_error for each in own]
        traces.append(
            dots(
                [row + shift for row in range(len(own))],
                kids,
                [(kid - error, kid + error) for kid, error in zip(kids, errors, strict=True)],
                hover=[f"{label(row)}, {name}: {each.kid_words}" for row, each in zip(measured, own, strict=True)],
                name=name,
                colour=colour,
            )
        )
    return forest(
        traces,
        list(measured),
        xaxis=axis("KID"),
        caption="KID of the accepted images and of as many held-out real images, with two standard errors either way."
        " The scale depends on the network that gives the features: compare a dot with the grey one, not with other"
        " papers.",
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
            legend=LEGEND,
            shapes=[upright(own.threshold)],
            xaxis=axis("distance to the nearest training image, 1: usual for a real image", range=[0, top]),
            yaxis=axis("share of the images", tickformat=".0%", rangemode="tozero"),
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
    scale = {"type": "log", "tickvals": _log_ticks(min(losses), max(losses))} if steep else {"rangemode": "tozero"}
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
            xaxis=axis("step", tickformat=","),
            yaxis=axis("training loss", **scale),
        ),
        caption=f"Training of the {name}: mean loss between two reports.",
        height=280,
        least_width=420,
    )  # fmt: skip


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; plotly leaves the power out."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
