"""Maximal cliques against networkx, and the limit."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from raymedlt.enrichment.cliques import as_bits, bits, maximal_cliques

MANY = 10**9


def neighbours_of(graph: networkx.Graph) -> list[int]:
    return [as_bits(graph[vertex]) for vertex in sorted(graph)]


def cliques_of(graph: networkx.Graph) -> list[int]:
    return sorted(as_bits(clique) for clique in networkx.find_cliques(graph))


def test_bits_and_back():
    assert list(bits(0)) == []
    assert list(bits(as_bits([5, 0, 200, 5]))) == [0, 5, 200]


def test_equal_to_networkx_on_a_thousand_random_graphs():
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(1000):
        n, p = int(rng.integers(1, 16)), float(rng.random())
        graph = networkx.gnp_random_graph(n, p, seed=int(rng.integers(2**31)))
        expected = cliques_of(graph)
        assert maximal_cliques(neighbours_of(graph), (1 << n) - 1, MANY) == (expected, True)
        seen += len(expected)
    assert seen > 5000


def test_equal_to_networkx_on_induced_subgraphs():
    rng = np.random.default_rng(1)
    graph = networkx.gnp_random_graph(40, 0.5, seed=2)
    for _ in range(30):
        chosen = rng.choice(40, 15, replace=False).tolist()
        found = maximal_cliques(neighbours_of(graph), as_bits(chosen), MANY)
        assert found == (cliques_of(graph.subgraph(chosen)), True)


def test_no_vertices_no_cliques():
    assert maximal_cliques([0, 0], 0, MANY) == ([], True)


def test_lonely_vertices_are_cliques():
    assert maximal_cliques([0, 0, 0], 0b101, MANY) == ([0b001, 0b100], True)


@pytest.mark.parametrize("seed", range(20))
def test_limit_is_complete_exactly_when_all_are_listed(seed: int):
    graph = networkx.gnp_random_graph(12, 0.5, seed=seed)
    every = cliques_of(graph)
    for limit in (1, len(every) - 1, len(every), len(every) + 1):
        found, complete = maximal_cliques(neighbours_of(graph), (1 << 12) - 1, limit)
        assert complete == (limit >= len(every))
        assert len(found) == min(limit, len(every))
        assert set(found) <= set(every)
        assert found == sorted(found)


def test_limit_holds_on_a_graph_with_a_million_cliques():
    """Moon and Moser's graph: 3^13 maximal cliques on 39 vertices."""
    graph = networkx.complete_multipartite_graph(*[3] * 13)
    found, complete = maximal_cliques(neighbours_of(graph), (1 << 39) - 1, 100)
    assert (len(found), complete) == (100, False)
