"""The whole job against the same steps run plainly one after the other, in one run.

    python benchmarks/enrichment_speed.py [--repeats 3]
    python benchmarks/enrichment_speed.py --source padchest --hdbscan_seconds 2174

Plain sequence: plain_sequence.py. The job: `python jobs/enrich.py` as users run it, guard, tables, model and page
included. Both run as fresh processes in turn; start-up (imports, model) is listed apart.

Where the meaning is the same the results must be: with equal labels and signs, both give the same valid clusters and
the same maximal sets for every OpenI report.

PadChest (226,000 sentences) runs once: the job in its default precision and in float32, the plain sequence with the
clustering's time taken from `clustering.py padchest --hdbscan` or from elsewhere, since it takes the better part of an
hour; 15 minutes.
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
from pathlib import Path
from typing import Any

from common import openi_reports, remembering, report
from plain_sequence import plain, plain_graph, plain_sets

ROOT = Path(__file__).resolve().parents[1]


def job(*arguments: str) -> dict[str, Any]:
    """`python jobs/enrich.py` as a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, str(ROOT / "jobs" / "enrich.py"), "--output", f"{folder}/run", *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        subprocess.run([*command, "--describe"], check=True, capture_output=True, cwd=folder)
        before_the_first_stage = time.perf_counter() - started
        timings = json.loads((Path(folder) / "run" / "timings.json").read_text())
        start_up = sum(timings["start_up"].values()) + before_the_first_stage
        return {"seconds": seconds, "start-up": start_up, **timings["work"]}


def plainly(*arguments: str) -> dict[str, float]:
    """The plain sequence as a fresh process."""
    command = [sys.executable, __file__, "--plain", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    times: dict[str, float] = json.loads(output.splitlines()[-1])
    return times


def padchest(hdbscan_seconds: float) -> dict[str, Any]:
    """PadChest, once: the job in both precisions and the plain sequence."""
    source = ("--reports.format", "padchest")
    jobs = {"default": job(*source), "float32": job(*source, "--embedding.precision", "float32")}
    times = plainly("--source", "padchest", "--hdbscan_seconds", str(hdbscan_seconds))
    whole = sum(times.values())
    return {
        "plain_seconds": {name: round(seconds, 1) for name, seconds in times.items()} | {"all": round(whole, 1)},
        "job_seconds": {name: {step: round(t, 1) for step, t in run.items()} for name, run in jobs.items()},
        "times_faster": {name: round(whole / run["seconds"], 1) for name, run in jobs.items()},
        "times_faster_without_start_up": {
            name: round((whole - times["start-up"]) / (run["seconds"] - run["start-up"]), 1)
            for name, run in jobs.items()
        },
    }


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
    parser.add_argument("--source", choices=("openi", "padchest"), default="openi")
    parser.add_argument("--hdbscan_seconds", type=float, help="PadChest: what hdbscan took on the same vectors")
    arguments = parser.parse_args()
    if arguments.plain:
        print(json.dumps(plain(arguments.source, arguments.hdbscan_seconds)))
        return
    if arguments.source == "padchest":
        if arguments.hdbscan_seconds is None:
            parser.error("--source padchest needs --hdbscan_seconds, from `clustering.py padchest --hdbscan`")
        report("enrichment_speed_padchest", padchest(arguments.hdbscan_seconds))
        return
    plain_runs, job_runs = [], []
    for _ in range(arguments.repeats):  # in turn, since the machine's speed drifts
        job_runs.append(job())
        plain_runs.append(plainly())
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
