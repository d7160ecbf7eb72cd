"""Maximal valid sets: maximal cliques of a small graph, as bit sets in Python integers.

Bron-Kerbosch with the pivot of Tomita, Tanaka and Takahashi (2006): the vertex with most neighbours among the
candidates. Listing stops at a limit, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

STEPS_PER_CLIQUE = 1000  # bounds the time where few cliques are found among many branches


def bits(members: int) -> Iterator[int]:
    """Numbers of the set bits, ascending."""
    while members:
        low = members & -members
        yield low.bit_length() - 1
        members ^= low


def as_bits(members: Iterable[int]) -> int:
    """The bit set of some numbers."""
    return sum(1 << member for member in set(members))


def maximal_cliques(neighbours: Sequence[int], vertices: int, limit: int) -> tuple[list[int], bool]:
    """Maximal cliques of the graph induced on `vertices`.

    Args:
        neighbours: per vertex the bit set of its neighbours (symmetric, no vertex its own neighbour).
        vertices: bit set of the vertices that take part.
        limit: list at most this many cliques, in at most `STEPS_PER_CLIQUE` times as many steps.

    Returns:
        The cliques as bit sets in ascending order (independent of how they were found), and whether the list is
        complete. The empty graph has no clique.
    """
    if not vertices:
        return [], True
    found: list[int] = []
    stack = [(0, vertices, 0)]
    for _ in range(limit * STEPS_PER_CLIQUE):
        if not stack:
            return sorted(found), True
        clique, candidates, excluded = stack.pop()
        if not candidates:
            if not excluded:
                if len(found) == limit:
                    return sorted(found), False
                found.append(clique)
            continue
        pivot = max(bits(candidates | excluded), key=lambda v: (neighbours[v] & candidates).bit_count())
        for vertex in bits(candidates & ~neighbours[pivot]):
            one = 1 << vertex
            stack.append((clique | one, candidates & neighbours[vertex], excluded & neighbours[vertex]))
            candidates &= ~one
            excluded |= one
    return sorted(found), not stack
