"""A cluster that is empty until there is work: Ray's autoscaler with machines that are raylets of this one.

    python benchmarks/autoscaling.py            # both jobs; a quarter of an hour on two free cores
    python benchmarks/autoscaling.py --jobs enrich

A head without CPUs, as in cluster.yaml, and a pool of at most three machines of two CPUs that begins empty.
jobs/enrich.py and jobs/synthesize.py run on it, one after the other, as a user gives them, with RAY_ADDRESS alone.
Looked at ten times a second: which machines are there, and on which a worker process does a shard (by its parent, the
raylet). Bars: a run brings machines; shards are done on them and none on the head; all are gone after it; the outputs
are those of a run without a cluster, byte for byte.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "jobs"))  # the tests' sources and environment
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "worlds"))  # the tests' cluster
from growing_cluster import HEAD_TYPE, Growing, growing_cluster, watch
from runs import ROOT, SMALL_SHARDS, TABLES, digests, environment, small_reports

POOL = {"cpu_spot": {"resources": {"CPU": 2, "object_store_memory": 200 * 1024**2}, "max_workers": 3}}
WORKERS = 4
SYNTHESIZE = (
    "--phantom.images 1100 --phantom.test_images 60 --phantom.test_positives 5 --phantom.classes 6 --images.size 32 "
    "--labels.min_positives 5 --classifier.epochs 2 --generator.small.size 32 --generator.small.unet_channels [32,64] "
    "--generator.small.vae_channels [16,16,32] --generator.autoencoder.steps 40 "
    "--generator.autoencoder.decoder_steps 20 --learning.steps 40 --plan.groups all --plan.count 160 "
    "--gate.least_positives 2 --sampling.steps 4 --sampling.batch 8 --sampling.shard_batches 2"
)
COMPARED = {"enrich": TABLES, "synthesize": ("images", "plan", "gate", "generator", "classifier/model")}


def words_of(job: str, folder: Path) -> list[str]:
    """What a user types behind the job's name, but for the output."""
    if job == "synthesize":
        return [*SYNTHESIZE.split(), "--workers", str(WORKERS)]
    source = small_reports(folder / "reports.csv", 800)
    return ["--reports.path", str(source), "--reports.format", "csv", *SMALL_SHARDS, "--workers", str(WORKERS)]


def start(job: str, words: list[str], output: Path, own: dict[str, str], *before: str) -> subprocess.Popen[str]:
    """The job, with what it says in a file beside its output."""
    with output.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [*before, sys.executable, f"jobs/{job}.py", *words, "--output", str(output)],
            cwd=ROOT, env=own, stdout=log, stderr=log, text=True,
        )  # fmt: skip


def measure(job: str, cluster: Growing, folder: Path, limit: float) -> tuple[dict[str, Any], list[str]]:
    """One job on the cluster and alone: figures, and what fell short."""
    words, missed = words_of(job, folder), []
    began = time.monotonic()
    running = start(job, words, folder / "grown" / job, cluster.environment)
    seen = watch(cluster, running, limit)
    seconds = time.monotonic() - began
    # One CPU, so that trainings have one thread, as on a cluster: sums of floats depend on it in their last digits.
    alone = start(job, words, folder / "alone" / job, environment(), "taskset", "-c", str(min(os.sched_getaffinity(0))))
    if alone.wait() or running.returncode:
        told = (folder / "grown" / f"{job}.log").read_text()[-3000:]
        return {"failed": told}, [f"{job}: exit codes {running.returncode} and {alone.returncode}"]
    came = {pid for _, moment in seen for pid in moment.machines}
    working = {pid for _, moment in seen for pid in moment.working}
    outputs = [
        {
            f"{name}/{file}": digest
            for name in COMPARED[job]
            for file, digest in digests(folder / side / job / name).items()
        }
        for side in ("grown", "alone")
    ]
    others = sorted(
        name for name in outputs[0].keys() | outputs[1].keys() if outputs[0].get(name) != outputs[1].get(name)
    )
    timeline = [(at, len(moment.machines)) for at, moment in seen]
    most = max(count for _, count in timeline)
    checks = {
        "brought no machine": most == 0,
        "work on the head, or none": not working or not working <= came,
        "machines were left": timeline[-1][1] > 0,
        "other outputs": not outputs[0] or bool(others),
    }
    missed = [f"{job}: {what}" for what, wrong in checks.items() if wrong]
    return {
        "seconds on the cluster, growth and shrinking with it": round(seconds, 1),
        "machines over time (seconds, number)": [
            each for n, each in enumerate(timeline) if n == 0 or each[1] != timeline[n - 1][1]
        ],
        "most machines at a time": most,
        "machines that came": len(came),
        "of these, with a shard in hands": len(working & came),
        "shards seen on": Counter("head" if pid not in came else "a machine that came" for pid in working),
        "seconds with each number of machines at work": at_work(seen),
        "files compared": len(outputs[0]),
        "of these, not equal to the byte": len(others),
        "for instance": others[:8],
    }, missed  # fmt: skip


def at_work(seen: list[tuple[float, Any]]) -> dict[int, float]:
    """Number of machines with a shard in hands -> for how long."""
    found: dict[int, float] = {}
    for (at, moment), (until, _) in itertools.pairwise(seen):
        found[len(moment.working)] = round(found.get(len(moment.working), 0.0) + until - at, 1)
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=["enrich", "synthesize"], choices=["enrich", "synthesize"])
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that a run on the cluster may take")
    given = parser.parse_args()
    figures: dict[str, Any] = {"pool": POOL, "head": {"type": HEAD_TYPE, "CPU": 0}, "workers": WORKERS}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in ("grown", "alone"):
            (folder / side).mkdir()
        with growing_cluster(POOL, idle_seconds=5, most=3) as cluster:
            for job in given.jobs:
                figures[job], short = measure(job, cluster, folder, given.limit)
                missed += short
    report("autoscaling", {**figures, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
