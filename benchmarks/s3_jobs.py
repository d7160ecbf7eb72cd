"""Every job on an S3 server on loopback, beside the same job on a local folder.

    python benchmarks/s3_jobs.py                        # all jobs at smoke sizes; a quarter of an hour on two cores
    python benchmarks/s3_jobs.py --jobs enrich evaluate

Each job runs with a local --output, with an s3:// one, and the latter again. Bars: exit code 0; the second run finds
everything done; every result has the same sha256, but for files that name folders and times. What one job leaves is
another's input (--run, --finetuned) from the same place.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import openi_reports, report
from job_words import WORDS, csv_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "worlds"))

OF_THE_WAY = {"_ledger", "_work"}
"""Folders, in any folder, of markers with times, of what was read (named by the input's time of change) and of
checkpoints; what a user reads is beside them."""
WITH_TIMES = ("manifest.json", "report.html", "timings.json")
"""Files, in any folder, that say how long things took, or list such files with their sha256."""
TIMES = ("seconds", "workers", "scored", "shared", "hits", "misses", "deaths")
"""Ends of the keys of figures that say how the machine did."""


def results(root: str, name: str) -> dict[str, str]:
    """File -> sha256 of its content without the run's place and configuration's hash and, in JSON, without times."""
    from raymedlt.storage import Storage, below, sha256_of

    folder, found = Storage.of(below(root, name)), {}
    place = root.partition("?")[0].rstrip("/")  # what follows are settings of the connection
    names = folder.list_files()
    manifests = [json.loads(folder.read_bytes(each)) for each in names if each.endswith("manifest.json")]
    hashes = [each["configuration"] for each in manifests if each.get("configuration")]  # of paths too
    for each in names:
        if OF_THE_WAY.isdisjoint(each.split("/")) and each.rsplit("/", 1)[-1] not in WITH_TIMES:
            data = folder.read_bytes(each).replace(place.encode(), b"ROOT")
            for known in hashes:
                data = data.replace(known.encode(), b"CONFIGURATION")
            found[each] = sha256_of(_sorted(data) if each.endswith(".json") else data)
    return found


def _sorted(data: bytes) -> bytes:
    return json.dumps(timeless(json.loads(data)), sort_keys=True).encode()


def _of_the_machine(key: str) -> bool:
    return key.endswith((*TIMES, "configuration")) or key.startswith("seconds_")


def timeless(value: Any) -> Any:
    """JSON without figures of time."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if not _of_the_machine(key)}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def run(name: str, root: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The job as a user starts it, and its seconds."""
    began = time.monotonic()
    job = name.partition("-")[0]
    told = subprocess.run(
        [sys.executable, f"jobs/{job}.py", *(word.format(root=root) for word in WORDS[name])],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return told, round(time.monotonic() - began, 1)


def compared(name: str, local: str, remote: str, requests: Any) -> tuple[dict[str, Any], list[str]]:
    """What the job did in both places, and the bars that it missed."""
    from raymedlt.storage import Storage, below

    plain, plain_seconds = run(name, local)
    before = requests()
    there, seconds = run(name, remote)
    asked = requests() - before
    if plain.returncode or there.returncode:
        ends = {"local": plain.stderr[-1500:], "s3": there.stderr[-1500:]}
        return {"exit codes": [plain.returncode, there.returncode], "ends": ends}, [f"{name}: failed"]
    before = requests()
    again, again_seconds = run(name, remote)
    figures: dict[str, Any] = {
        "exit codes": [plain.returncode, there.returncode, again.returncode],
        "seconds": {"local": plain_seconds, "s3": seconds, "s3 again": again_seconds},
        "requests": {"s3": asked, "s3 again": requests() - before},
    }
    folder = Storage.of(below(remote, name))
    figures["objects"] = len(folder.list_files())
    listed = [results(root, name) for root in (local, remote)]
    differ = sorted(each for each in {**listed[0], **listed[1]} if listed[0].get(each) != listed[1].get(each))
    figures["files compared"], figures["files that differ"] = len(listed[1]), differ
    missed = []
    if again.returncode or "already done" not in again.stderr:
        missed.append(f"{name}: the second run did something: {again.stderr[-300:]}")
    if differ:
        missed.append(f"{name}: {len(differ)} files differ, first '{differ[0]}'")
    if there.stdout.splitlines()[-1] != f"{folder.uri}/report.html":
        missed.append(f"{name}: the last line is '{there.stdout.splitlines()[-1]}'")
    return figures, missed


def main() -> None:
    from s3_world import BUCKET, environment_of, s3_server

    from raymedlt.storage import Storage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=list(WORDS), default=list(WORDS))
    parser.add_argument("--reports", type=int, default=1000, help="real OpenI reports that enrich is given")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as local:
        log = Path(local) / "server.log"
        with s3_server(log) as port:
            os.environ |= environment_of(port)
            remote = f"s3://{BUCKET}/runs"
            data = csv_of(openi_reports().slice(0, given.reports))
            for root in (local, remote):
                Storage.of(root).write_bytes("reports.csv", data)
            for name in given.jobs:
                figures[name], failed = compared(name, local, remote, lambda: log.read_text().count('HTTP/1.1"'))
                missed += failed
                print(f"{name}: {json.dumps(figures[name])}", file=sys.stderr, flush=True)
    report("s3_jobs", {"jobs": figures, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
