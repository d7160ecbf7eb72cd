"""The co-occurrence graph of the training labels as a circle of classes.

Shape suffix: C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.classifier.figures import COLOURS, commonest_and_rarest
from raymedlt.classifier.report import GROUPS, ClassScores, Floats
from raymedlt.runreport.figures import INK, LEGEND, QUIET, SURFACE, base_layout, label
from raymedlt.runreport.page import Figure

GRAPH_CLASSES = 40  # on the circle, half of them the commonest, half the rarest
GRAPH_EDGES = 160  # the strongest


def circle_order(adjacency_CC: Floats) -> npt.NDArray[np.int64]:
    """Classes in an order that puts those which go together side by side.

    Connected parts follow each other, the largest first; within one, the order of its Fiedler vector, the second
    eigenvector of the Laplacian (Fiedler, Czech Math J 1973), whose sign is fixed by its largest entry. O(C^3).
    """
    from scipy.sparse.csgraph import connected_components

    weights = np.asarray(adjacency_CC, np.float64)
    weights = (weights + weights.T) / 2
    np.fill_diagonal(weights, 0)
    _, part_C = connected_components(weights, directed=False)
    parts = [np.flatnonzero(part_C == part) for part in range(part_C.max(initial=-1) + 1)]
    return np.array([c for part in sorted(parts, key=len, reverse=True) for c in part[_along(weights, part)]], np.int64)


def _along(weights: npt.NDArray[np.float64], part: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    own = weights[np.ix_(part, part)]
    if len(part) < 3:
        return np.arange(len(part))
    _, vectors = np.linalg.eigh(np.diag(own.sum(axis=0)) - own)
    fiedler = vectors[:, 1] * np.sign(vectors[np.argmax(np.abs(vectors[:, 1])), 1])
    return np.lexsort((np.arange(len(part)), np.round(fiedler, 6)))


def cooccurrence_graph(adjacency_CC: Floats, classes: Sequence[ClassScores]) -> Figure | None:
    """Classes on a circle, larger when commoner; lines join classes that are seen together. None without lines.

    Args:
        adjacency_CC: symmetric weights in the order of `classes`, 0 for no edge; the diagonal is not read.
    """
    kept = commonest_and_rarest(classes, GRAPH_CLASSES)
    weights = np.array(adjacency_CC, np.float64)[np.ix_(kept, kept)]
    np.fill_diagonal(weights, 0)
    pairs = np.argwhere(np.triu(weights) > 0)
    if not len(pairs):
        return None
    pairs = pairs[np.argsort([-weights[a, b] for a, b in pairs], kind="stable")][:GRAPH_EDGES]
    order = circle_order(weights)
    angle = np.empty(len(kept))
    angle[order] = np.pi / 2 - 2 * np.pi * np.arange(len(kept)) / len(kept)
    x, y = np.cos(angle), np.sin(angle)
    shown = [classes[c] for c in kept]
    traces = _edge_traces(weights, pairs, x, y, shown)
    frequent = np.array([c.training_positives for c in shown], float)
    sizes = 7 + 23 * np.sqrt(frequent / max(frequent.max(), 1))
    for group in GROUPS:
        of = [row for row, c in enumerate(shown) if c.group == group]
        if of:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": group,
                    "x": x[of],
                    "y": y[of],
                    "marker": {
                        "color": COLOURS[group],
                        "size": sizes[of],
                        "opacity": 1,
                        "line": {"width": 1.5, "color": SURFACE},
                    },
                    "hovertext": [_neighbours(row, weights, shown) for row in of],
                    "hoverinfo": "text",
                }
            )
    bare = {"visible": False, "showgrid": False, "fixedrange": True}
    return Figure(
        data=traces,
        layout=base_layout(
            showlegend=True,
            hovermode="closest",
            legend={**LEGEND, "itemsizing": "constant"},
            xaxis={**bare, "range": [-1.75, 1.75]},
            yaxis={**bare, "range": [-1.22, 1.22], "scaleanchor": "x"},
            annotations=[_name(c.name, a) for c, a in zip(shown, angle.tolist(), strict=True)],
        ),
        caption="Which findings go together in the training labels. A class is larger the more training images show"
        " it; a line is thicker the more often two classes are seen together (the weight that the label graph uses)."
        " Neighbours on the circle tend to belong together."
        + (f" Shown are the {len(shown)} commonest and rarest classes." if len(shown) < len(classes) else "")
        + (f" Only the {GRAPH_EDGES} strongest lines are drawn." if len(pairs) == GRAPH_EDGES else ""),
        height=640,
        least_width=640,
    )  # fmt: skip


def _edge_traces(
    weights: npt.NDArray[np.float64], pairs: npt.NDArray[np.int64], x: Floats, y: Floats, shown: Sequence[ClassScores]
) -> list[dict[str, Any]]:
    """Lines in four widths, and one invisible dot in the middle of each for its hover text."""
    strengths = np.array([weights[a, b] for a, b in pairs])
    steps = np.minimum((4 * strengths / strengths.max()).astype(int), 3)
    traces: list[dict[str, Any]] = []
    for step in range(4):
        points = [((x[a], x[b], None), (y[a], y[b], None)) for a, b in pairs[steps == step].tolist()]
        if points:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [value for across, _ in points for value in across],
                    "y": [value for _, down in points for value in down],
                    "line": {"width": (0.7, 1.8, 3.4, 5.5)[step], "color": QUIET},
                    "opacity": (0.35, 0.5, 0.65, 0.8)[step],
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [(x[a] + x[b]) / 2 for a, b in pairs.tolist()],
            "y": [(y[a] + y[b]) / 2 for a, b in pairs.tolist()],
            "marker": {"size": 12, "opacity": 0},
            "hovertext": [
                f"{label(shown[a].name)} and {label(shown[b].name)}: {weights[a, b]:.3f}" for a, b in pairs.tolist()
            ],
            "hoverinfo": "text",
            "showlegend": False,
        }
    )
    return traces


def _neighbours(row: int, weights: npt.NDArray[np.float64], shown: Sequence[ClassScores]) -> str:
    nearest = [n for n in np.argsort(-weights[row], kind="stable")[:4].tolist() if weights[row, n] > 0]
    partners = "".join(f"<br>{label(shown[n].name)} {weights[row, n]:.3f}" for n in nearest)
    scores = shown[row]
    return f"<b>{label(scores.name)}</b> ({scores.group})<br>{scores.training_positives:,} training images{partners}"


def _name(name: str, angle: float) -> dict[str, Any]:
    """A class name outside the circle, reading away from it."""
    across, down = math.cos(angle), math.sin(angle)
    anchor = "center" if abs(across) < 0.2 else "left" if across > 0 else "right"
    return {
        "x": 1.08 * across,
        "y": 1.08 * down,
        "xanchor": anchor,
        "yanchor": "middle" if anchor != "center" else "bottom" if down > 0 else "top",
        "text": label(name, longest=24),
        "showarrow": False,
        "font": {"size": 11.5, "color": INK},
    }
