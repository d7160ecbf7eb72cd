"""Plotly figures as plain dictionaries: bars, histogram, flow, points, heat map.

Colours are names of the page's palette ("var(--normal)"): the page puts in the colours of the light or the dark scheme.
Plotly reads a little HTML in labels and hover texts, so every text from outside passes `label`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from raymedlt.runreport.page import Figure

INK, FAINT, GRID, SURFACE = "var(--ink)", "var(--ink-soft)", "var(--line)", "var(--surface)"
ACCENT, QUIET, WARN = "var(--accent)", "var(--quiet)", "var(--refused)"
LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}}

BAR_PIXELS = 26
FLOW_GAP, FLOW_MARGIN = 18, 12  # pixels between the nodes of a flow, above and below it


def label(text: object, width: int = 0, longest: int = 0) -> str:
    """`text` as plotly shall show it, letter by letter; cut after `longest` characters, wrapped at `width`."""
    words = str(text)
    if longest:
        words = shortened(words, longest)
    lines = textwrap.wrap(words, width) if width else [words]
    return "<br>".join(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines)


def shortened(text: str, longest: int) -> str:
    """`text` with an ellipsis where it is longer than `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def base_layout(**changes: Any) -> dict[str, Any]:
    """What all figures share: no background, quiet grid, hover labels in the page's colours."""
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True, "ticks": ""}
    layout: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 13},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "hoverlabel": {"bgcolor": SURFACE, "bordercolor": GRID, "font": {"color": INK, "size": 13}, "align": "left"},
        "showlegend": False,
        "dragmode": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": INK},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(layout.get(name), Mapping)
        layout[name] = {**layout[name], **value} if both else value
    return layout


def axis(words: str, **more: Any) -> dict[str, Any]:
    """An axis with a title, which can't be zoomed."""
    return {"title": {"text": words, "font": {"color": FAINT, "size": 12}, "standoff": 10}, "fixedrange": True, **more}


def upright(x: float, *, colour: str = INK, dash: str = "dash") -> dict[str, Any]:
    """A thin line over the whole height of a figure, for a layout's "shapes"."""
    line = {"color": colour, "width": 1, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def columns(
    names: Sequence[object], values: Sequence[float], *, caption: str, x_title: str, y_title: str, height: int = 300
) -> Figure:
    """Upright bars, one for each name, in the order given."""
    return Figure(
        data=[
            {
                "type": "bar",
                "x": [label(name) for name in names],
                "y": values,
                "marker": {"color": ACCENT},
                "text": [f"{value:,.0f}" for value in values],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertemplate": f"{x_title}: %{{x}}<br>{y_title}: %{{y:,}}<extra></extra>",
            }
        ],
        layout=base_layout(
            bargap=0.25,
            margin={"t": 24},
            xaxis=axis(x_title, showgrid=False, type="category"),
            yaxis=axis(y_title),
        ),
        caption=caption,
        height=height,
    )


def bars(
    names: Sequence[object],
    values: Sequence[float],
    *,
    caption: str,
    unit: str,
    digits: int = 0,
    colours: Sequence[str] = (),
    hover: Sequence[str] = (),
    name_characters: int = 46,
) -> Figure:
    """Lying bars, the first on top; `hover` texts are shown as they are (pass `label` over what comes from outside)."""
    shown = [label(name, longest=name_characters) for name in names]
    return Figure(
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "y": list(range(len(shown))),
                "x": values,
                "marker": {"color": list(colours) or ACCENT},
                "text": [f"{value:,.{digits}f}" for value in values],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertext": list(hover)
                or [f"{name}: {v:,.{digits}f} {unit}" for name, v in zip(shown, values, strict=True)],
                "hoverinfo": "text",
            }
        ],
        layout=base_layout(
            bargap=0.3,
            margin={"r": 56},
            xaxis=axis(unit, rangemode="tozero", tickangle=0),
            yaxis={
                "autorange": "reversed",
                "tickmode": "array",
                "tickvals": list(range(len(shown))),
                "ticktext": shown,
                "showgrid": False,
                "fixedrange": True,
                "ticklabelstandoff": 6,
            },
        ),
        caption=caption,
        height=max(130, BAR_PIXELS * len(shown) + 64),
        least_width=560 if max(map(len, shown), default=0) > 26 else 0,
    )


def flow(
    links: Sequence[tuple[str, str, int]], *, caption: str, colours: Mapping[str, str] | None = None, height: int = 400
) -> Figure:
    """A Sankey diagram of (from, to, rows), parents first; links without rows are left out.

    A node is named by its words. Nodes of one column stand in the order in which they are first named. `colours` are
    names of the palette that have a paler twin for the bands ("var(--accent)" and "var(--accent-veil)").
    """
    real = [link for link in links if link[2] > 0]
    names = list(dict.fromkeys(name for source, target, _ in real for name in (source, target)))
    number = {name: place for place, name in enumerate(names)}
    inflow = {name: sum(rows for _, target, rows in real if target == name) for name in names}
    outflow = {name: sum(rows for source, _, rows in real if source == name) for name in names}
    size = {name: max(inflow[name], outflow[name]) for name in names}
    across, down = _columns_of_flow(real, size, height - 2 * FLOW_MARGIN)
    paint = [(colours or {}).get(name, ACCENT) for name in names]
    return Figure(
        data=[
            {
                "type": "sankey",
                "arrangement": "fixed",
                "node": {
                    "label": [f"{label(name, longest=48)} <b>{size[name]:,}</b>" for name in names],
                    "color": paint,
                    "x": across,
                    "y": down,
                    "pad": FLOW_GAP,
                    "thickness": 12,
                    "line": {"width": 0},
                    "hovertemplate": "%{label}<extra></extra>",
                },
                "link": {
                    "source": [number[source] for source, _, _ in real],
                    "target": [number[target] for _, target, _ in real],
                    "value": [rows for _, _, rows in real],
                    "color": [paint[number[target]].replace(")", "-veil)") for _, target, _ in real],
                    "hovertemplate": "%{source.label} → %{target.label}: %{value:,}<extra></extra>",
                },
            }
        ],
        layout=base_layout(margin={"t": FLOW_MARGIN, "b": FLOW_MARGIN}),
        caption=caption,
        height=height,
        least_width=680,
    )


def _columns_of_flow(
    links: Sequence[tuple[str, str, int]], rows: Mapping[str, int], height: int
) -> tuple[list[float], list[float]]:
    """Centres of a flow's nodes, in (0, 1), in the order of `rows`; every column is stacked from the top.

    Plotly draws all rows to one scale, the one at which the fullest column fits with its gaps; the places must be
    computed at the same scale, or nodes overlap.
    """
    depth = dict.fromkeys(rows, 0)
    for source, target, _ in links:
        depth[target] = max(depth[target], depth[source] + 1)
    last = max(depth.values(), default=0) or 1
    sources = {source for source, _, _ in links}
    depth = {name: column if name in sources else last for name, column in depth.items()}  # ends stand at the edge
    nodes = {column: [name for name in rows if depth[name] == column] for column in depth.values()}
    scale = min(
        ((height - FLOW_GAP * (len(names) - 1)) / sum(rows[name] for name in names) for names in nodes.values()),
        default=1.0,
    )
    across, down = [], []
    filled = dict.fromkeys(depth.values(), 0.0)
    for name, column in depth.items():
        across.append(round(0.001 + 0.998 * column / last, 4))
        down.append(round((filled[column] + scale * rows[name] / 2) / height, 5))
        filled[column] += scale * rows[name] + FLOW_GAP
    return across, down


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    across: Sequence[str],
    hover: Sequence[Sequence[str]],
    *,
    caption: str,
    ticks: Mapping[float, str],
    limit: float,
) -> Figure:
    """A matrix coloured from below (-limit) over neutral (0) to above (+limit); None stays empty."""
    return Figure(
        data=[
            {
                "type": "heatmap",
                "z": values,
                "x": list(range(len(across))),
                "y": list(range(len(rows))),
                "zmin": -limit,
                "zmax": limit,
                "xgap": 2,
                "ygap": 2,
                "colorscale": [[0, "var(--below)"], [0.5, "var(--middle)"], [1, "var(--above)"]],
                "hovertext": hover,
                "hoverinfo": "text",
                "hoverongaps": False,
                "colorbar": {
                    "orientation": "h",
                    "y": 0,
                    "yanchor": "top",
                    "ypad": 14,
                    "thickness": 10,
                    "len": 0.5,
                    "outlinewidth": 0,
                    "tickvals": list(ticks),
                    "ticktext": list(ticks.values()),
                },
            }
        ],
        layout=base_layout(
            xaxis={
                "side": "top",
                "tickangle": -50,
                "tickvals": list(range(len(across))),
                "ticktext": [label(name, longest=34) for name in across],
                "showgrid": False,
                "fixedrange": True,
                "tickfont": {"size": 11.5},
            },
            yaxis={
                "autorange": "reversed",
                "tickvals": list(range(len(rows))),
                "ticktext": [label(name, longest=44) for name in rows],
                "showgrid": False,
                "fixedrange": True,
                "tickfont": {"size": 11.5},
            },
        ),
        caption=caption,
        height=19 * len(rows) + 290,
        least_width=820,
    )


def points(groups: Sequence[Mapping[str, Any]], *, caption: str, height: int = 620) -> Figure:
    """A map without axes. Each group is one legend entry: name, x, y, hover (escaped texts), colour, size, opacity."""
    bare = {"visible": False, "showgrid": False}
    return Figure(
        data=[
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(group["name"]),
                "x": group["x"],
                "y": group["y"],
                "hovertext": group["hover"],
                "hoverinfo": "text",
                "marker": {
                    "color": group["colour"],
                    "size": group["size"],
                    "opacity": group["opacity"],
                    "line": {"width": group.get("outline", 0), "color": SURFACE},
                },
            }
            for group in groups
        ],
        layout=base_layout(
            showlegend=True,
            dragmode="pan",
            hovermode="closest",
            legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemsizing": "constant"},
            xaxis=bare,
            yaxis=bare,
        ),
        caption=caption,
        height=height,
    )
