"""Co-occurrence and its evidence on memberships that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from raymedlt.enrichment.graph import build_arcs, cooccurrence, membership
from raymedlt.intervals import wilson_lower


def member(*studies: set[int], clusters: int) -> sparse.csr_array:
    pairs = np.array([(s, c) for s, held in enumerate(studies) for c in sorted(held)], np.int64).reshape(-1, 2)
    return membership(pairs, len(studies), clusters)


HAND = [{0, 1}] * 6 + [{0}] * 4 + [{1, 2}] * 2 + [{2}] * 8  # n0 = 10, n1 = 8, n2 = 10, of 20 studies


def test_a_study_is_a_set():
    pairs = np.array([[0, 1], [0, 1], [0, 2], [1, 1]])
    assert membership(pairs, 2, 3).toarray().tolist() == [[0, 1, 1], [0, 1, 0]]


def test_no_pairs():
    matrix = membership(np.zeros((0, 2), np.int64), 3, 2)
    assert matrix.shape == (3, 2)
    assert cooccurrence(matrix).nnz == 0
    assert len(build_arcs(matrix, np.ones(2, bool), 0.001, 3).source) == 0


def test_cooccurrence_counts_studies():
    a = cooccurrence(member(*HAND, clusters=3)).toarray()
    assert a.tolist() == [[0, 6, 0], [6, 0, 2], [0, 2, 0]]


def test_evidence_by_hand():
    arcs = build_arcs(member(*HAND, clusters=3), np.ones(3, bool), 0.001, 1)
    assert list(zip(arcs.source, arcs.target, arcs.support, strict=True)) == [
        (0, 1, 6),
        (1, 0, 6),
        (1, 2, 2),
        (2, 1, 2),
    ]
    assert arcs.confidence == pytest.approx([6 / 10, 6 / 8, 2 / 8, 2 / 10])
    assert arcs.lift == pytest.approx([0.6 / 0.4, 0.75 / 0.5, 0.25 / 0.5, 0.2 / 0.4])
    # Wilson, 6 of 10 at 95 %: (0.6 + z^2/20 - z sqrt(0.024 + z^2/400)) / (1 + z^2/10)
    z = 1.959963984540054
    bound = (0.6 + z**2 / 20 - z * np.sqrt(0.6 * 0.4 / 10 + z**2 / 400)) / (1 + z**2 / 10)
    assert bound == pytest.approx(0.31267, abs=1e-5)  # the value printed in textbooks
    assert arcs.lift_lower[0] == pytest.approx(bound / 0.4)
    assert (arcs.lift_lower < arcs.lift).all()


@pytest.mark.parametrize(
    ("successes", "trials", "bound"), [(0, 10, 0.0), (10, 10, 0.72247), (1, 1, 0.20655), (50, 100, 0.40383)]
)
def test_wilson(successes: int, trials: int, bound: float):
    assert wilson_lower(np.array([float(successes)]), np.array([float(trials)]))[0] == pytest.approx(bound, abs=1e-5)


def test_support_must_be_exceeded():
    matrix = member(*[{0, 1}] * 3, *[{0, 2}] * 4, clusters=3)
    arcs = build_arcs(matrix, np.ones(3, bool), 0.0, 3)
    assert {(0, 2), (2, 0)} == set(zip(arcs.source.tolist(), arcs.target.tolist(), strict=True))


def test_only_addable_clusters_are_targets():
    arcs = build_arcs(member(*[{0, 1}] * 5, clusters=2), np.array([True, False]), 0.001, 3)
    assert list(zip(arcs.source.tolist(), arcs.target.tolist(), strict=True)) == [(1, 0)]


def _wide(rare: int, others: int) -> sparse.csr_array:
    """Cluster 0 stands beside cluster 1 in `rare` studies, and beside fifty others in `others` pairs in all."""
    studies = [{0, 1}] * rare
    studies += [{0, *range(2, 52)}] * (others // 50)
    studies += [{0, 2}] * (others % 50)
    return member(*studies, clusters=52)


def test_spec_vector_share():
    """A[u, c] = 5 in a row that sums to 20005: Ahat = 0.00025, no arc u -> c; the other way round there is one."""
    matrix = _wide(5, 20_000)
    a = cooccurrence(matrix)
    assert (a[0, 1], a[[0], :].sum()) == (5, 20_005)
    arcs = set(zip(*(x.tolist() for x in build_arcs(matrix, np.ones(52, bool), 0.001, 3)[:2]), strict=True))
    assert (0, 1) not in arcs
    assert (1, 0) in arcs


@pytest.mark.parametrize(("rest", "arc"), [(4994, True), (4995, False)])
def test_share_must_be_exceeded(rest: int, arc: bool):
    arcs = build_arcs(_wide(5, rest), np.ones(52, bool), 0.001, 3)
    assert ((0, 1) in set(zip(arcs.source.tolist(), arcs.target.tolist(), strict=True))) is arc


def test_opposites_are_studies_that_hold_the_source():
    matrix = member(*[{0, 1}] * 5, {0}, {0}, {1}, clusters=2)
    states_the_opposite_of_1 = np.array([[0, 0]] * 4 + [[0, 1], [0, 1], [0, 0], [0, 1]])
    arcs = build_arcs(matrix, np.ones(2, bool), 0.001, 3, matrix.T @ states_the_opposite_of_1)
    assert dict(zip(zip(arcs.source, arcs.target, strict=True), arcs.opposite, strict=True)) == {(0, 1): 2, (1, 0): 0}


def test_equals_a_plain_loop_on_random_memberships():
    rng = np.random.default_rng(0)
    dense = (rng.random((300, 12)) < rng.random(12)).astype(int)
    addable = rng.random(12) < 0.7
    a = dense.T @ dense
    np.fill_diagonal(a, 0)
    expected = [
        (u, c, int(a[u, c]))
        for u in range(12)
        for c in range(12)
        if addable[c] and a[u, c] > 3 and a[u, c] / a[u].sum() > 0.02
    ]
    arcs = build_arcs(sparse.csr_array(dense), addable, 0.02, 3)
    assert 10 < len(expected) < 132
    assert list(zip(arcs.source.tolist(), arcs.target.tolist(), arcs.support.tolist(), strict=True)) == expected
