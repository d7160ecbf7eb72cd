"""The enrichment's steps written plainly, one after the other: what raymedlt's job is timed against.

Read, `SentenceTransformer.encode` over every sentence of both sections, `hdbscan.HDBSCAN` on each section's distinct
sentences, co-occurrence and expansion with Python sets (Bron-Kerbosch without pivoting). It gets its signs for nothing
and writes nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
from common import reports_of

Links = dict[int, set[int]]


def expand(
    links: Links, chosen: frozenset[int], candidates: set[int], excluded: set[int], found: set[frozenset[int]]
) -> None:
    """Maximal cliques by plain recursion over sets."""
    if not candidates and not excluded:
        if chosen:
            found.add(chosen)
        return
    for c in sorted(candidates):
        expand(links, chosen | {c}, candidates & links[c], excluded & links[c], found)
        candidates = candidates - {c}
        excluded = excluded | {c}


def plain_graph(studies: list[set[int]], addable: set[int], min_share: float, min_support: int) -> Links:
    """Arcs u -> c from the studies' cluster sets."""
    together: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for clusters in studies:
        for u in clusters:
            for c in clusters:
                if u != c:
                    together[u][c] += 1
    arcs: Links = defaultdict(set)
    for u, row in together.items():
        total = sum(row.values())
        arcs[u] = {c for c, n in row.items() if n > min_share * total and n > min_support and c in addable}
    return arcs


def plain_sets(clusters: set[int], arcs: Links) -> tuple[set[int], set[frozenset[int]]]:
    """V(F) and its maximal valid sets."""
    if not clusters:
        return set(), set()
    valid = set.intersection(*(arcs[u] for u in clusters)) - clusters
    links = {c: {d for d in valid if d in arcs[c] and c in arcs[d]} for c in valid}
    found: set[frozenset[int]] = set()
    expand(links, frozenset(), set(valid), set(), found)
    return valid, found


def plain(source: str, hdbscan_seconds: float | None = None) -> dict[str, float]:
    """The plain sequence in this process; seconds of each step.

    Args:
        source: "openi" or "padchest".
        hdbscan_seconds: take this for the clustering's time, measured apart (hours on PadChest), and our labels, which
            are equal.
    """
    times, started = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        times[name] = time.perf_counter() - started
        started = time.perf_counter()

    import hdbscan
    from sentence_transformers import SentenceTransformer

    from raymedlt.clustering import hdbscan_fit
    from raymedlt.embedding.encoder import packaged_model
    from raymedlt.enrichment import guard
    from raymedlt.enrichment.corpus import sentences_of

    model = SentenceTransformer(str(packaged_model()))
    lap("start-up")
    reports = reports_of(source)
    rows = sentences_of(reports).to_pylist()
    lap("read and split")
    language = reports["language"][0].as_py()
    vectors = model.encode([row["text"] for row in rows], show_progress_bar=False)
    lap("encode")
    labels: dict[tuple[str, str], int] = {}
    for section in ("findings", "impression"):
        first = {row["sentence_key"]: i for i, row in enumerate(rows) if row["section"] == section}
        if not first:
            continue
        keys = sorted(first)
        distinct = vectors[[first[key] for key in keys]]
        if hdbscan_seconds is None:
            fitted = hdbscan.HDBSCAN(min_cluster_size=5, min_samples=5).fit(distinct.astype(np.float64)).labels_
        else:
            fitted = hdbscan_fit(distinct).labels
        labels.update({(section, key): int(label) for key, label in zip(keys, fitted, strict=True)})
    lap("cluster")
    if hdbscan_seconds is not None:
        times["cluster"] = hdbscan_seconds
    signs = {row["sentence_key"]: guard.judged(row["sentence_key"], language)[0].sign for row in rows}
    started = time.perf_counter()  # signs are for nothing
    members: dict[str, set[int]] = defaultdict(set)
    votes: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        label = labels[row["section"], row["sentence_key"]]
        if row["section"] == "findings" and label >= 0:
            members[row["report_id"]].add(label)
            votes[label].append(signs[row["sentence_key"]] == "normal")
    addable = {label for label, normal in votes.items() if sum(normal) >= 0.95 * len(normal)}
    arcs = plain_graph(list(members.values()), addable, 0.001, 3)
    for clusters in members.values():
        plain_sets(clusters, arcs)
    lap("graph and expansion")
    return times
