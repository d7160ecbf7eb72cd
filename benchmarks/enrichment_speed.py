"""The whole job against the same steps run plainly one after the other, on OpenI, in one run.

    python benchmarks/enrichment_speed.py [--repeats 3]

Plain sequence: read, `SentenceTransformer.encode` over all sentences of both sections, `hdbscan.HDBSCAN` on each
section's distinct sentences, co-occurrence and expansion with Python sets (Bron-Kerbosch without pivoting). It gets its
signs for nothing and writes nothing. The job: `python jobs/enrich.py` as users run it, guard, tables, model and page
included. Both run as fresh processes in turn; start-up (imports, model) is listed apart.

Where the meaning is the same the results must be: with equal labels and signs, both give the same valid clusters and
the same maximal sets for every report.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import openi_reports, remembering, report

ROOT = Path(__file__).resolve().parents[1]
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


def plain() -> dict[str, float]:
    """The plain sequence in this process; seconds of each step."""
    times, started = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        times[name] = time.perf_counter() - started
        started = time.perf_counter()

    import hdbscan
    from sentence_transformers import SentenceTransformer

    from raymedlt.embedding.encoder import packaged_model
    from raymedlt.enrichment import guard
    from raymedlt.enrichment.corpus import sentences_of

    model = SentenceTransformer(str(packaged_model()))
    lap("start-up")
    reports = openi_reports()
    rows = sentences_of(reports).to_pylist()
    lap("read and split")
    vectors = model.encode([row["text"] for row in rows], show_progress_bar=False)
    lap("encode")
    labels: dict[tuple[str, str], int] = {}
    for section in ("findings", "impression"):
        first = {row["sentence_key"]: i for i, row in enumerate(rows) if row["section"] == section}
        keys = sorted(first)
        distinct = vectors[[first[key] for key in keys]].astype(np.float64)
        fitted = hdbscan.HDBSCAN(min_cluster_size=5, min_samples=5).fit(distinct)
        labels.update({(section, key): int(label) for key, label in zip(keys, fitted.labels_, strict=True)})
    lap("cluster")
    signs = {row["sentence_key"]: guard.judged(row["sentence_key"], "en")[0].sign for row in rows}
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


def job() -> dict[str, Any]:
    """`python jobs/enrich.py` as a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, str(ROOT / "jobs" / "enrich.py"), "--output", f"{folder}/run"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        subprocess.run([*command, "--describe"], check=True, capture_output=True, cwd=folder)
        before_the_first_stage = time.perf_counter() - started
        timings = json.loads((Path(folder) / "run" / "timings.json").read_text())
        start_up = sum(timings["start_up"].values()) + before_the_first_stage
        return {"seconds": seconds, "start-up": start_up, **timings["work"]}


def same_sets() -> int:
    """Reports for which V(F) and all maximal sets agree between the plain sets and raymedlt's bit sets (all must)."""
    from raymedlt.config import EnrichConfig
    from raymedlt.enrichment import policy
    from raymedlt.enrichment.cliques import bits, maximal_cliques
    from raymedlt.enrichment.guard import Claims
    from raymedlt.enrichment.memory import fit
    from raymedlt.enrichment.writing import offer
    from raymedlt.reports.sentences import sentence_key, split_sentences

    config = EnrichConfig()
    policy.POLICIES["safe"] = dataclasses.replace(
        policy.POLICIES["safe"], guard=False, all_veto=True, second_chance=False, min_typical=0.0
    )
    table = openi_reports()
    knowledge, _ = fit(table, config, remembering(config))
    members = {}
    for row in table.to_pylist():
        keys = [sentence_key(sentence) for sentence in split_sentences(row["findings"])]
        labels = {knowledge.label_of[key] for key in keys} - {-1}
        if labels:
            members[row["report_id"]] = (keys, labels)
    arcs = plain_graph([labels for _, labels in members.values()], set(bits(knowledge.addable)), 0.001, 3)
    for keys, labels in members.values():
        valid, sets = plain_sets(labels, arcs)
        offered = offer(knowledge, keys, Claims()).offered
        cliques, complete = maximal_cliques(knowledge.linked, offered, 10**9)
        assert complete
        assert set(bits(offered)) == valid
        assert {frozenset(bits(clique)) for clique in cliques} == sets
    return len(members)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="run the plain sequence once and print its times")
    arguments = parser.parse_args()
    if arguments.plain:
        print(json.dumps(plain()))
        return
    plain_runs, job_runs = [], []
    for _ in range(arguments.repeats):  # in turn, since the machine's speed drifts
        job_runs.append(job())
        output = subprocess.run(
            [sys.executable, __file__, "--plain"], check=True, capture_output=True, text=True
        ).stdout
        plain_runs.append(json.loads(output.splitlines()[-1]))
    ratios = [
        ((sum(p.values()) - p["start-up"]) / (j["seconds"] - j["start-up"]), sum(p.values()) / j["seconds"])
        for p, j in zip(plain_runs, job_runs, strict=True)
    ]

    def medians(runs: list[dict[str, float]]) -> dict[str, float]:
        return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}

    report(
        "enrichment_speed",
        {
            "repeats": arguments.repeats,
            "plain_seconds": {
                **medians(plain_runs),
                "all": round(statistics.median(sum(p.values()) for p in plain_runs), 2),
            },
            "job_seconds": medians(job_runs),
            "times_faster_without_start_up": round(statistics.median(a for a, _ in ratios), 2),
            "times_faster_with_start_up": round(statistics.median(b for _, b in ratios), 2),
            "each": [[round(a, 2), round(b, 2)] for a, b in ratios],
            "reports_with_equal_valid_and_maximal_sets": same_sets(),
        },
    )


if __name__ == "__main__":
    main()
