"""How sure a clustering is of itself, and the checks behind it.

With exhaustive search every edge of the tree is proved. With a partial index the proof of an edge rests on lists that
may miss a neighbour; so the certificate measures, by exhaustive search that the index has no part in:

- recall: the share of true neighbours that the lists of a fresh sample hold;
- wrong edges: an edge joins two groups of points; is there really nothing lighter that leaves the smaller group
  (cut property of minimum spanning trees)? Asked for a sample of edges;
- agreement: the same settings on a sample of the points, against the exact mode (adjusted Rand index).

The splits that most hangs on are not sampled but checked and mended, before any of this (repair.py). And the margin
says how narrowly the clusters were chosen (margin.py): what hangs on less than the lists' errors is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymedlt.clustering.neighbours import Index
from raymedlt.clustering.repair import Cut, across, cut_at, node_sizes
from raymedlt.clustering.screening import Distances, Ids
from raymedlt.intervals import wilson

_CHECKED_EDGES = 400
_CHECKED_POINTS = 64  # of one group: a larger group is checked in part
SOUND_RECALL = 0.98
SOUND_WRONG_SHARE = 0.02
SOUND_AGREEMENT = 0.995
SOUND_MARGIN = 0.01  # with repaired lists stabilities move by less than this, see docs/scaling.md


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
    checked_splits, repaired_edges: splits at the top of the hierarchy that were checked by looking everywhere, and
        lighter edges that this brought into the tree.
    margin, margin_points, margin_clusters: the narrowest choice between one cluster and those within it, as a share of
        stability; the points it concerns, the number of clusters within. None: no choice concerned 5 % of the points.
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
    checked_splits: int = 0
    repaired_edges: int = 0
    seconds_repair: float = 0.0
    margin: float | None = None
    margin_points: int = 0
    margin_clusters: int = 0

    @property
    def sound(self) -> bool:
        """Whether the clusters can be taken for those of exhaustive search: everything certified; of a partial index
        also, with 95 % confidence, at least 98 % recall and at most 2 % wrong edges, .995 agreement on a sample, and
        no choice of clusters that hangs on less than 1 % of stability."""
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
        if self.sample_agreement is not None and self.margin is not None and self.margin < SOUND_MARGIN:
            found.append(
                f"the choice between one cluster of {self.margin_points:,} points and {self.margin_clusters:,} clusters"
                f" within it hangs on {100 * self.margin:.2g} % of stability: exact search might choose otherwise"
            )
        return found


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
    random, sizes = np.random.default_rng(seed), node_sizes(linkage)
    cuts = list[Cut]()
    for merge in random.permutation(len(linkage)).tolist():
        if len(cuts) == checked:
            break
        cut = cut_at(linkage, sizes, merge, point_of)
        if cut is not None:
            cuts.append(cut)
    asked = [_some(cut.members, random) for cut in cuts]
    exhaustive = index.exhaustive()
    found = across(cuts, asked, len(core_N), lambda points, parts: exhaustive.outside(points, parts, core_N))
    wrong = [edges.weight.min(initial=np.inf) < cut.weight * (1 - 1e-9) for edges, cut in zip(found, cuts, strict=True)]
    return int(sum(wrong)), len(cuts)


def _some(members: Ids, random: np.random.Generator) -> Ids:
    return members if len(members) <= _CHECKED_POINTS else np.sort(random.choice(members, _CHECKED_POINTS, False))


def adjusted_rand_index(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> float:
    """Agreement of two partitions, 1 for the same (Hubert and Arabie 1985); noise counts as a group of its own."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))
