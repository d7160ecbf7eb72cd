"""How sure a clustering is of itself, and the checks behind it.

With exhaustive search every edge of the tree is proved. With a partial index the proof of an edge rests on lists that
may miss a neighbour; so the certificate measures, by exhaustive search that the index has no part in:

- recall: the share of true neighbours that the lists of a fresh sample hold;
- wrong edges: an edge joins two groups of points; is there really nothing lighter that leaves the smaller group
  (cut property of minimum spanning trees)? Asked for a sample of edges;
- agreement: the same settings on a sample of the points, against the exact mode (adjusted Rand index).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.neighbours import Index
from raymedlt.clustering.screening import Distances, Ids

Z_95 = 1.959964
_CHECKED_EDGES = 400
_CHECKED_POINTS = 64  # of one group: a larger group is checked in part
SOUND_RECALL = 0.98
SOUND_WRONG_SHARE = 0.02
SOUND_AGREEMENT = 0.995


@dataclass(frozen=True)
class Certificate:
    """What is known of a clustering's quality.

    certified_edges: spanning-tree edges with a proof that no unseen edge is lighter; the proof of a partial index
        counts on its lists, see `recall` and `wrong_edges`.
    least_weight: with these core distances the tree of least weight weighs at least this (tree_weight, where everything
        is certified); a partial index counts core distances and floors from what it sees.
    recall, recall_lower: share of true neighbours in the lists, and the lower end of its 95 % interval (Wilson).
    checked_edges, wrong_edges, wrong_share_upper: sampled edges, those that a lighter edge should replace, and the
        upper end of the 95 % interval of their share.
    sample_points, sample_agreement: adjusted Rand index to the exact mode on so many points; None: not needed.
    """

    method: str
    points: int
    clusters: int
    noise_share: float
    certified_edges: int
    edges: int
    tree_weight: float
    second_searches: int  # points that had to look beyond their list, with repeats
    rounds: int
    seconds_neighbours: float
    seconds_tree: float
    seconds_hierarchy: float
    mode: str = "exact"
    search: str = ""
    least_weight: float = 0.0
    exhaustive_searches: int = 0
    persistence: float = 0.0  # median over clusters
    recall: float = 1.0
    recall_lower: float = 1.0
    checked_edges: int = 0
    wrong_edges: int = 0
    wrong_share_upper: float = 0.0
    sample_points: int = 0
    sample_agreement: float | None = None
    seconds_checks: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether the clusters can be taken for those of exhaustive search: everything certified; of a partial index
        also, with 95 % confidence, at least 98 % recall and at most 2 % wrong edges, and .995 agreement on a sample."""
        return not self.shortcomings()

    def shortcomings(self) -> list[str]:
        """What a user should know, in words; empty for a sound certificate."""
        found = []
        if self.certified_edges < self.edges:
            found.append(
                f"{self.edges - self.certified_edges:,} of {self.edges:,} spanning-tree edges are not certified"
            )
        if self.recall_lower < SOUND_RECALL:
            found.append(
                f"the index may find only {100 * self.recall_lower:.1f} % of the neighbours (expected: at least 98 %)"
            )
        if self.wrong_share_upper > SOUND_WRONG_SHARE:
            found.append(
                f"{self.wrong_edges} of {self.checked_edges} sampled edges are wrong: up to"
                f" {100 * self.wrong_share_upper:.1f} % may be (expected: at most 2 %)"
            )
        if self.sample_agreement is not None and self.sample_agreement < SOUND_AGREEMENT:
            found.append(
                f"on a sample of {self.sample_points:,} points the adjusted Rand index to exact mode is"
                f" {self.sample_agreement:.4f} (expected: at least {SOUND_AGREEMENT})"
            )
        return found


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) of nothing."""
    if of == 0:
        return 0.0, 1.0
    share, z2 = hits / of, Z_95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z_95 / (1 + z2 / of) * float(np.sqrt(share * (1 - share) / of + z2 / (4 * of * of)))
    return max(0.0, middle - half), min(1.0, middle + half)


def index_recall(index: Index, sample: Ids, k: int) -> tuple[float, float]:
    """Recall of the lists of sampled points against exhaustive search, and the lower end of its interval.

    The neighbours of one point are found or missed together, so the interval counts points, not pairs.
    """
    listed_BK = index.neighbours(sample, k, 1).ids_BK
    true_BK = index.exhaustive().neighbours(sample, k, k).ids_BK
    hits_B = (true_BK[:, :, None] == listed_BK[:, None, :]).any(2).mean(1)
    recall = float(hits_B.mean())
    return recall, wilson(round(recall * len(sample)), len(sample))[0]


def wrong_edges(
    index: Index,
    linkage: npt.NDArray[np.float64],
    core_N: Distances,
    point_of: Ids,
    seed: int,
    checked: int = _CHECKED_EDGES,
) -> tuple[int, int]:
    """(wrong, checked) among sampled merges of a single-linkage tree.

    A merge at distance w says that nothing lighter than w leaves either of its two groups. The smaller one is checked:
    all its points where they are few, `_CHECKED_POINTS` of them otherwise.

    Args:
        linkage: float64 [R-1, 4], rows as in SciPy.
        core_N: core distances. point_of: int64 [R], the point of each row.
    """
    random = np.random.default_rng(seed)
    rows = len(linkage) + 1
    sizes = np.r_[np.ones(rows, np.int64), linkage[:, 3].astype(np.int64)]
    exhaustive, wrong, done = index.exhaustive(), 0, 0
    waiting: list[tuple[float, Ids]] = []
    for number in random.permutation(rows - 1).tolist():
        if len(waiting) == checked:
            break
        left, right = linkage[number, :2].astype(np.int64)
        smaller, larger = (left, right) if sizes[left] <= sizes[right] else (right, left)
        members = np.unique(point_of[_members(linkage, int(smaller), rows)])
        other = point_of[_members(linkage, int(larger), rows, most=1)]
        if len(members) > 1 or other[0] != members[0]:  # else copies of one point
            waiting.append((float(linkage[number, 2]), members))
    while waiting:  # groups without a common point are asked together
        component_N, batch, later = np.zeros(len(core_N), np.int32), list[tuple[float, Ids]](), []
        for weight, members in waiting:
            if component_N[members].any():
                later.append((weight, members))
            else:
                batch.append((weight, members))
                component_N[members] = len(batch)
        asked = np.concatenate([_some(members, random) for _, members in batch])
        lightest = exhaustive.outside(asked, component_N, core_N).weight_B
        least = np.full(len(batch) + 1, np.inf)
        np.minimum.at(least, component_N[asked], lightest)
        wrong += int((least[1:] < np.array([weight for weight, _ in batch]) * (1 - 1e-9)).sum())
        done, waiting = done + len(batch), later
    return wrong, done


def _some(members: Ids, random: np.random.Generator) -> Ids:
    return members if len(members) <= _CHECKED_POINTS else np.sort(random.choice(members, _CHECKED_POINTS, False))


def _members(linkage: npt.NDArray[np.float64], node: int, rows: int, most: int | None = None) -> Ids:
    """The rows below a node (the first few, if `most` says so)."""
    found: list[int] = []
    stack = [node]
    while stack and (most is None or len(found) < most):
        node = stack.pop()
        if node < rows:
            found.append(node)
        else:
            stack.extend((int(linkage[node - rows, 0]), int(linkage[node - rows, 1])))
    return np.array(found, np.int64)


def adjusted_rand_index(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> float:
    """Agreement of two partitions, 1 for the same (Hubert and Arabie 1985); noise counts as a group of its own."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))
