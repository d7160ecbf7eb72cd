"""The condensed tree of a clustering as a picture: where groups of sentences part, and which groups are the clusters.

The tree hangs from its loosest level. Distances (1 / lambda) run down to 0, where sentences of equal meaning are, so
that an infinite lambda has a place too. `hdbscan.plots` draws every branch as wide as its points, which leaves a
cluster of 20 among 75,000 no pixel: here only clusters have a width, the branches above them are lines.

Shape suffixes: K branches, C clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.clustering.condensed import Branches, branches, tree_points
from raymedlt.clustering.fit import Clustering
from raymedlt.enrichment.clustermap import COLOURS
from raymedlt.runreport.figures import QUIET, axis, base_layout, label
from raymedlt.runreport.page import Figure

MOST_CLUSTERS = 150  # more would be narrower than a few pixels each
STEPS = 6  # widths in which a cluster narrows
_GAP = 0.6  # between clusters, where a cluster of one sentence would be 1 wide
_THINNEST = 0.004  # least height of a cluster, as a share of the picture


class Split(NamedTuple):
    """A place where two drawn groups part: what hangs below it, at which distance, and how many points there were."""

    below: tuple[int, int]
    distance: float
    points: int


def condensed_tree_figure(section: str, clustering: Clustering, clusters: pa.Table) -> Figure | None:
    """The tree of one section. O(N log N + K); under 100 kB of JSON whatever the size.

    Args:
        clusters: rows of this section alone (schema.CLUSTERS).

    Returns:
        None without clusters, without a tree (DBSCAN, k-means), or when its points are not the labelled rows (weights).
    """
    rows = {row["cluster_id"]: row for row in clusters.to_pylist()}
    if not rows or tree_points(clustering.condensed) != len(clustering.labels):
        return None
    tree = branches(clustering.condensed, clustering.labels)
    ranked = np.lexsort((np.arange(len(tree.selected_C)), -tree.size_K[tree.selected_C]))
    drawn, left_out = ranked[:MOST_CLUSTERS], ranked[MOST_CLUSTERS:]
    splits, top = visible_splits(tree, set(tree.selected_C[drawn].tolist()))
    across, width = _places(tree, splits, top)
    highest = max([splits[top].distance] if splits else [float(1 / tree.birth_K[top])])
    members = np.argsort(clustering.labels, kind="stable")
    starts = np.searchsorted(clustering.labels[members], np.arange(len(tree.selected_C) + 1))
    bars: dict[str, list[tuple[float, ...]]] = {sign: [] for sign in COLOURS}
    whole: dict[str, list[tuple[Any, ...]]] = {sign: [] for sign in COLOURS}
    for cluster in drawn.tolist():
        row, branch = rows[cluster], int(tree.selected_C[cluster])
        leaving = 1 / tree.leaves_N[members[starts[cluster] : starts[cluster + 1]]]
        birth = 1 / float(tree.birth_K[branch])
        steps = icicle(birth, leaving, _THINNEST * highest)
        bars[row["sign"]] += [(across[branch], low, high - low, width[branch] * share) for low, high, share in steps]
        low = min(step[0] for step in steps)
        text = (
            f"<b>{label(row['medoid'], width=56, longest=220)}</b><br>cluster {cluster} · {row['sign']} ·"
            f" {tree.size_K[branch]:,} sentences · persistence {row['persistence']:.3f}<br>"
            f"apart from distance {birth:.2f}, the last sentences hold together to {leaving.min():.2f}"
        )
        whole[row["sign"]].append((across[branch], low, birth - low, width[branch], text))
    data = [*_trunk(tree, splits, across)]
    for sign, colour in COLOURS.items():
        if bars[sign]:
            data += [_bars(sign, colour, bars[sign]), _hover(sign, whole[sign])]
    caption = (
        f"How the clusters of {section} sentences come about. From top to bottom sentences must be ever closer to hold"
        " together. Grey lines part where a group falls into two; a coloured shape is a cluster, wider with more"
        " sentences, and it narrows as sentences drop out. Tall shapes are firm clusters. Point at one to read its"
        " medoid, drag and scroll to look closer."
    )
    if len(left_out):
        caption += (
            f" The {len(drawn):,} largest clusters are drawn; {len(left_out):,} more, of"
            f" {tree.size_K[tree.selected_C[left_out]].max():,} sentences or fewer, are in the table."
        )
    lowest = min(base for sign in bars for _, base, *_ in bars[sign])
    return Figure(data=data, layout=_layout(lowest, highest), caption=caption, height=440, least_width=680)


def visible_splits(tree: Branches, drawn: set[int]) -> tuple[dict[int, Split], int]:
    """Splits with drawn clusters on both sides, by branch, and what hangs at the top (a split or a cluster).

    Branches that lead to one drawn cluster only are passed over.
    """
    splits: dict[int, Split] = {}
    below: dict[int, list[tuple[int, int]]] = {}  # branch -> (direct child, what is visible of it)
    for branch in range(len(tree.parent_K) - 1, -1, -1):  # children come first
        found = below.pop(branch, [])
        if branch in drawn:
            seen = branch
        elif len(found) == 2:
            (first, left), (second, right) = sorted(found, key=lambda pair: (-tree.size_K[pair[0]], pair[0]))
            points = int(tree.size_K[first] + tree.size_K[second])
            splits[branch] = Split((left, right), float(1 / tree.birth_K[first]), points)
            seen = branch
        elif found:
            seen = found[0][1]
        else:
            continue
        if branch == 0:
            break
        below.setdefault(int(tree.parent_K[branch]), []).append((branch, seen))
    return splits, seen


def _places(tree: Branches, splits: dict[int, Split], top: int) -> tuple[dict[int, float], dict[int, float]]:
    """Centres of clusters and splits, and widths of clusters, larger groups to the left."""
    across: dict[int, float] = {}
    width: dict[int, float] = {}
    edge, waiting = 0.0, [top]
    while waiting:
        node = waiting.pop()
        if node in splits:
            waiting += reversed(splits[node].below)
            continue
        width[node] = float(np.sqrt(tree.size_K[node]))
        across[node] = edge + width[node] / 2
        edge += width[node] + _GAP
    for node in sorted(splits, reverse=True):  # a branch has a larger number than the one it comes from
        left, right = splits[node].below
        across[node] = (across[left] + across[right]) / 2
    return across, width


def icicle(birth: float, leaving: npt.NDArray[np.float64], thinnest: float) -> list[tuple[float, float, float]]:
    """The shape of a cluster: (low, high, share of its members) from birth down, at most STEPS of them.

    Args:
        birth: distance at which it becomes a cluster of its own.
        leaving: distances at which its members drop out.
        thinnest: least height of the whole.
    """
    falling = np.sort(leaving)[::-1]
    total = len(falling)
    ranks = np.unique(np.linspace(0, total, STEPS + 1).astype(int))
    shape, high = [], birth
    for first, after in zip(ranks[:-1].tolist(), ranks[1:].tolist(), strict=True):
        low = float(falling[after - 1])
        if low < high:
            shape.append((low, high, (total - first) / total))
            high = low
    return shape if birth - high >= thinnest else [(max(birth - thinnest, 0.0), max(birth, thinnest), 1.0)]


def _trunk(tree: Branches, splits: dict[int, Split], across: dict[int, float]) -> list[dict[str, Any]]:
    """Lines from every split down to what hangs below it, and a dot to point at."""
    if not splits:
        return []
    x: list[float | None] = []
    y: list[float | None] = []
    for split in splits.values():
        left, right = split.below
        ends = [splits[node].distance if node in splits else float(1 / tree.birth_K[node]) for node in split.below]
        x += [_short(across[node]) for node in (left, left, right, right)] + [None]
        y += [_short(each) for each in (ends[0], split.distance, split.distance, ends[1])] + [None]
    line = {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": QUIET, "width": 1.2}}
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [_short(across[node]) for node in splits],
        "y": [_short(split.distance) for split in splits.values()],
        "hovertext": [f"{split.points:,} sentences part at distance {split.distance:.2f}" for split in splits.values()],
        "hoverinfo": "text",
        "marker": {"color": QUIET, "size": 5},
    }
    return [{**line, "hoverinfo": "skip", "showlegend": False}, {**dots, "showlegend": False}]


def _bars(sign: str, colour: str, bars: list[tuple[float, ...]]) -> dict[str, Any]:
    x, base, height, width = ([_short(value) for value in column] for column in zip(*bars, strict=True))
    return {
        "type": "bar",
        "name": sign,
        "legendgroup": sign,
        "x": x,
        "base": base,
        "y": height,
        "width": width,
        "marker": {"color": colour, "line": {"width": 0}},
        "hoverinfo": "skip",
    }


def _hover(sign: str, whole: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Invisible bars over whole clusters: one hover text for each, and easier to hit than its steps."""
    x, base, height, width, text = zip(*whole, strict=True)
    seen = _bars(sign, "rgba(0,0,0,0)", list(zip(x, base, height, width, strict=True)))
    return {**seen, "hovertext": text, "hoverinfo": "text", "showlegend": False}


def _layout(lowest: float, highest: float) -> dict[str, Any]:
    margin = 0.04 * (highest - lowest)
    return base_layout(
        showlegend=True,
        barmode="overlay",
        dragmode="pan",
        hovermode="closest",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        xaxis={"visible": False, "showgrid": False},
        yaxis=axis(
            "distance at which sentences hold together",
            range=[_short(max(lowest - margin, 0)), _short(highest + margin)],
        ),
    )


def _short(value: float) -> float:
    return round(float(value), 3)
