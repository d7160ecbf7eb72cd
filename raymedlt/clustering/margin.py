"""How narrowly the flat clusters were chosen.

The excess of mass makes a node of the condensed tree one cluster if its own stability is at least the total of the
clusters below. Where the two are nearly equal, any change of a distance may turn one large cluster into thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_LARGE = 0.05  # share of the points that a decision must concern


class Margin(NamedTuple):
    """The narrowest decision: |own stability / total of those below - 1|, the points it concerns, and the number of
    clusters below, which were taken (or the node in their place, if `coarse`). `relative` is infinite for none."""

    relative: float = np.inf
    points: int = 0
    clusters: int = 0
    coarse: bool = False


def narrowest(condensed: npt.NDArray[np.void], stability: Mapping[int, float]) -> Margin:
    """The narrowest decision that concerns at least 5 % of the points (with weights: of the expanded rows).

    Decisions below a chosen node do not count: the labels feel them only if that node's own decision falls the other
    way, and that one counts. The root is never a cluster. O(nodes).
    """
    splits = condensed[condensed["child_size"] > 1]
    if len(splits) == 0:
        return Margin()
    root = int(condensed["parent"].min())
    parent_of = dict(zip(splits["child"].tolist(), splits["parent"].tolist(), strict=True))
    sizes = dict(zip(splits["child"].tolist(), splits["child_size"].tolist(), strict=True))
    total, clusters = dict.fromkeys([root, *parent_of], 0.0), dict.fromkeys([root, *parent_of], 0)
    chosen = dict[int, bool]()
    for node in sorted(parent_of, reverse=True):  # children before parents
        below, own = total[node], float(stability[node])
        chosen[node] = not below > own
        total[parent_of[node]] += own if chosen[node] else below
        clusters[parent_of[node]] += 1 if chosen[node] else clusters[node]
    best, under = Margin(), {root: False}
    for node in sorted(parent_of):  # parents before children
        under[node] = under[parent_of[node]] or chosen.get(parent_of[node], False)
        below, own = total[node], float(stability[node])
        if under[node] or not clusters[node] or sizes[node] < _LARGE * root:
            continue
        if 0 < below < np.inf and np.isfinite(own) and abs(own / below - 1) < best.relative:
            best = Margin(abs(own / below - 1), sizes[node], clusters[node], chosen[node])
    return best
