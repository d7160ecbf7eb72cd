"""The margin: how narrowly the clusters were chosen."""

from __future__ import annotations

import numpy as np
import pytest
from clustering_reference import DATA, blobs
from hdbscan._hdbscan_tree import compute_stability

from raymedlt.clustering import Certificate, hdbscan_fit
from raymedlt.clustering.hierarchy import NO_TREE
from raymedlt.clustering.margin import Margin, narrowest

SPLITS = [(100, 101, 60), (100, 102, 40), (101, 103, 30), (101, 104, 25), (103, 105, 20), (103, 106, 4)]
"""Parent, child, points: 100 is the root of 100 points; 101 may part in 103 and 104, 103 in 105 and 106."""
LEAVES = {100: 0.0, 102: 30.0, 104: 6.0, 105: 1.0, 106: 3.0}


def tree(splits: list[tuple[int, int, int]] = SPLITS, points: int = 100) -> np.ndarray:
    condensed = np.zeros(len(splits) + 1, NO_TREE.dtype)
    condensed["parent"], condensed["child"] = [*(s[0] for s in splits), points], [*(s[1] for s in splits), 0]
    condensed["child_size"] = [*(s[2] for s in splits), 1]
    return condensed


@pytest.mark.parametrize(
    ("own_101", "own_103", "expected"),
    [
        # 103 holds its own against 4: 101 against 103 + 104 = 5 + 6
        (10.9, 5.0, Margin(1 - 10.9 / 11, 60, 2, False)),
        (11.1, 5.0, Margin(11.1 / 11 - 1, 60, 2, True)),
        # 103 falls apart: 101 against 4 + 6, and three clusters within
        (9.0, 2.0, Margin(1 - 9 / 10, 60, 3, False)),
        # the nearest decision is 103's, and nothing above it was chosen
        (5.0, 3.9, Margin(1 - 3.9 / 4, 30, 2, False)),
        # 103's decision is nearer, but 101 was chosen in any case
        (20.0, 3.9, Margin(1.0, 60, 3, True)),
    ],
)
def test_by_hand(own_101: float, own_103: float, expected: Margin):
    margin = narrowest(tree(), LEAVES | {101: own_101, 103: own_103})
    assert margin.relative == pytest.approx(expected.relative)
    assert margin[1:] == expected[1:]


def test_small_decisions_do_not_count():
    """20 points of 1,000 choose narrowly, 600 do not."""
    splits = [(1000, 1001, 600), (1000, 1002, 300), (1001, 1003, 400), (1001, 1004, 20)]
    splits += [(1004, 1005, 9), (1004, 1006, 9)]
    stability = {1000: 0.0, 1001: 1.0, 1002: 9.0, 1003: 8.0, 1004: 2.01, 1005: 1.0, 1006: 1.0}
    margin = narrowest(tree(splits, 1000), stability)
    assert margin.points == 600
    assert margin.relative == pytest.approx(1 - 1 / 10.01)


def test_no_decision():
    assert narrowest(tree([], 10), {10: 0.0}) == Margin()
    assert narrowest(tree([(100, 101, 50), (100, 102, 50)]), {100: 0.0, 101: 1.0, 102: 1.0}) == Margin()
    infinite = LEAVES | {101: np.inf, 103: np.inf}
    assert narrowest(tree(), infinite) == Margin()
    certificate = hdbscan_fit(np.zeros((3, 2))).certificate
    assert (certificate.margin, certificate.margin_points, certificate.margin_clusters) == (None, 0, 0)


@pytest.mark.parametrize("name", ["blobs", "nested", "random"])
def test_the_certificate_of_exact_mode_keeps_it(name: str):
    """No other stability of the tree, moved by less than the margin, moves a label; it is no shortcoming."""
    fit = hdbscan_fit(DATA[name]())
    certificate = fit.certificate
    margin = narrowest(fit.condensed, compute_stability(fit.condensed))
    assert certificate.margin == (margin.relative if margin.clusters else None)
    assert (certificate.margin_points, certificate.margin_clusters) == (margin.points, margin.clusters)
    assert certificate.sound


def test_a_knife_edge_is_found_on_real_points():
    """Two blobs that draw apart: somewhere they change from one cluster to two, and there the margin is small."""
    left, right, far = blobs(100, 2, 1, 1), blobs(100, 2, 1, 1), blobs(100, 2, 1, 2) + np.float32(30)
    right = right + np.random.default_rng(0).normal(size=right.shape).astype(np.float32) * np.float32(0.05)

    def at(gap: float) -> Certificate:
        shifted = right + np.array([gap, 0], np.float32)
        return hdbscan_fit(np.concatenate([left, shifted, far]), min_cluster_size=30).certificate

    near, apart = 0.5, 12.0
    assert (at(near).clusters, at(apart).clusters) == (2, 3)
    for _ in range(20):
        middle = (near + apart) / 2
        near, apart = (middle, apart) if at(middle).clusters == 2 else (near, middle)
    for certificate in (at(near), at(apart)):
        assert certificate.margin is not None
        assert certificate.margin < 1e-3
        assert (certificate.margin_points, certificate.margin_clusters) == (200, 2)
