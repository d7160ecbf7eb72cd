"""All seven jobs as a cluster's users start them: `ray job submit`, with their output on an S3 server on loopback.

    python benchmarks/submitted_jobs.py                        # a quarter of an hour on two cores
    python benchmarks/submitted_jobs.py --jobs enrich evaluate

A Ray head with token authentication; jobs/enrich.py reads real OpenI reports, the others phantoms at smoke sizes, and
what one job leaves on S3 is another's input. Every job is submitted twice. Bars: the job server says SUCCEEDED; the
log's last line is the page's address, and the page is there; the second submission finds everything done and leaves no
result another; a job with a wrong argument ends with exit code 2; neither the store's secret nor the token is in what
the job server tells of the jobs, nor in their logs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import openi_reports, report
from job_words import WORDS, csv_of

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "worlds"), str(ROOT / "tests" / "jobs")]

JOBS = ("enrich", "evaluate", "classify", "synthesize", "finetune", "align", "pipeline")


def submitted(head: Any, name: str, root: str) -> tuple[dict[str, Any], list[str]]:
    """A job submitted twice: its figures, and the bars that it missed."""
    from raymedlt.storage import Storage

    words = [word.format(root=root) for word in WORDS[name]]
    output = next(word.partition("=")[2] for word in words if word.startswith("--output="))
    seconds, ends, logs, pages = [], [], [], []
    for time_of in ("first", "second"):
        began = time.monotonic()
        told = head.submit(f"{name}-{time_of}", words, script=f"jobs/{name}.py")
        seconds.append(round(time.monotonic() - began, 1))
        job = head.ask(f"/api/jobs/{name}-{time_of}")
        ends.append(job["status"])
        logs.append(head.ask(f"/api/jobs/{name}-{time_of}/logs")["logs"])
        if told.returncode or job["status"] != "SUCCEEDED":
            return {"ends": ends, "log": logs[-1][-2000:]}, [f"{name}: the {time_of} submission ended {job['status']}"]
        pages.append(Storage.of(output).read_bytes("manifest.json"))
    missed = []
    if f"{output}/report.html" not in logs[0].splitlines()[-3:]:
        missed.append(f"{name}: the log's last lines are {logs[0].splitlines()[-3:]}")
    if not Storage.of(output).read_bytes("report.html"):
        missed.append(f"{name}: no page")
    if "already done" not in logs[1]:
        missed.append(f"{name}: the second submission did something")
    if pages[0] != pages[1]:
        missed.append(f"{name}: the manifest after the second submission is another")
    return {"ends": ends, "seconds": seconds, "objects": len(Storage.of(output).list_files())}, missed


def main() -> None:
    from heads import started_head
    from s3_world import BUCKET, environment_of, s3_server

    from raymedlt.storage import Storage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--reports", type=int, default=1000, help="real OpenI reports that enrich is given")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder) / "server.log") as port:
        own = environment_of(port)
        os.environ |= own
        root = f"s3://{BUCKET}/submitted"
        Storage.of(root).write_bytes("reports.csv", csv_of(openi_reports().slice(0, given.reports)))
        with started_head(**own) as head:
            wrong = head.submit("wrong", ["--outptu", "x"])
            if not wrong.returncode or "exit code 2" not in wrong.stdout + wrong.stderr:
                missed.append("a wrong argument does not end with exit code 2")
            for name in given.jobs:
                figures[name], failed = submitted(head, name, root)
                missed += failed
                print(f"{name}: {json.dumps(figures[name])}", file=sys.stderr, flush=True)
            listed = head.ask("/api/jobs/")
            told = json.dumps(listed) + "".join(
                head.ask(f"/api/jobs/{job['submission_id']}/logs")["logs"] for job in listed if job["submission_id"]
            )
            secrets = {"the store's secret": own["AWS_SECRET_ACCESS_KEY"], "the token": head.token}
            missed += [f"{what} is in what the job server tells" for what, secret in secrets.items() if secret in told]
    report("submitted_jobs", {"jobs": figures, "characters searched for secrets": len(told), "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
