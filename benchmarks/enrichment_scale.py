"""A million reports through `python jobs/enrich.py`: time, memory, and a kill in the middle.

    python benchmarks/enrichment_scale.py --folder scale                 # 100,000, 300,000 and a million; hours
    python benchmarks/enrichment_scale.py --folder scale --sizes 20000 60000

The reports are those of scale_reports.py. Each size is a fresh process with the job's defaults; the largest is ended
twice by kill -9 of all its processes, when half of its sentences are embedded and when half of its reports are
written, and the same command goes on. Time is that of the job's own stages and of everything, by the clock and in
processor seconds (of all processes, sampled), which other work on the machine disturbs less; the exponents are
between the first and the last size. Memory is the most that all processes together held (proportional set size,
sampled every SAMPLED seconds; the object store counts once), in all and while the job's log named a stage last. It
fails if memory passes GIGABYTES, if the exponent of processor time passes EXPONENT, if a report is missing or doubled,
or if a finished shard was done again. A finished size is read from its file in the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import report
from scale_reports import write

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "jobs"))  # the tests' environment
from runs import ROOT, descendants, environment, marked

SIZES = (100_000, 300_000, 1_000_000)
GIGABYTES, EXPONENT = 12.0, 1.15
SAMPLED = 2.0
STAGE = re.compile(r"([a-z][a-z ]*?)(?::| [\d,./]+ )")
TAIL = 20_000  # bytes of a log to look for the last line of the job's own progress
TICKS = os.sysconf("SC_CLK_TCK")


class Watched:
    """A running process and all that it started."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.log, self.before = log, log.stat().st_size
        self.began = time.monotonic()
        self.peaks: dict[str, int] = {}
        self.used: dict[int, float] = {}

    def sample(self) -> None:
        """Memory and processor time, now."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        held = 0
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):
                lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
                held += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
                fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
                self.used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        stage = self.stage()
        self.peaks[stage] = max(self.peaks.get(stage, 0), held)

    def stage(self) -> str:
        """What the job's log said last."""
        with self.log.open("rb") as file:
            file.seek(max(self.before, self.log.stat().st_size - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
        return next((found[1] for line in reversed(lines) if (found := STAGE.match(line))), "begin")

    def until(self, done: Any) -> None:
        """Sample until the process ends, or `done()`."""
        while self.process.poll() is None and not done():
            self.sample()
            time.sleep(SAMPLED)

    def kill(self) -> None:
        """kill -9 of all."""
        others = descendants(self.process.pid)
        for pid in (self.process.pid, *others):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def figures(self) -> dict[str, float]:
        """What was seen."""
        seconds = time.monotonic() - self.began
        return {
            "seconds": seconds,
            "processor seconds": sum(self.used.values()),
            "gigabytes": max(self.peaks.values(), default=0) / 1e9,
        }


def finished_files(output: Path) -> dict[str, int]:
    """The files of finished shards, with their time of writing."""
    found = {}
    for marker in output.glob("_ledger/*/*.json"):
        for entry in json.loads(marker.read_text())["files"]:
            found[entry["name"]] = (output / entry["name"]).stat().st_mtime_ns
    return found


def merge(peaks: dict[str, int], more: dict[str, int]) -> None:
    """The most of both."""
    peaks |= {name: max(held, peaks.get(name, 0)) for name, held in more.items()}


def rewritten(output: Path, before: dict[str, int]) -> list[str]:
    """Files that aren't what they were."""
    return [name for name, at in before.items() if (output / name).stat().st_mtime_ns != at]


def measured(folder: Path, size: int, killed: bool) -> dict[str, Any]:
    """One size: make the reports, enrich them, look at the result."""
    kept = folder / f"measured-{size}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    source, output = folder / f"reports-{size}", folder / f"run-{size}"
    shutil.rmtree(output, ignore_errors=True)
    law = write(source, size)
    command = [sys.executable, "jobs/enrich.py", "--reports.path", str(source), "--reports.format", "parquet"]
    command += ["--output", str(output)]
    parts: list[dict[str, float]] = []
    kills: dict[str, int] = {}
    peaks: dict[str, int] = {}
    again: list[str] = []
    before: dict[str, int] = {}
    halves = {"embed": law["distinct by the law"] // 4_096, "write": size // 4_000}  # of shards of 2,048 and 2,000
    for stage, half in halves.items() if killed else ():
        job = Watched(command, folder / f"log-{size}")
        job.until(lambda stage=stage, half=half: len(marked(output, stage)) >= half)
        job.kill()
        parts.append(job.figures())
        merge(peaks, job.peaks)
        again += rewritten(output, before)
        before = finished_files(output)
        kills[stage] = len(marked(output, stage))
    job = Watched(command, folder / f"log-{size}")
    job.until(lambda: False)
    if job.process.returncode:
        sys.exit(f"jobs/enrich.py ended with {job.process.returncode}, see {folder / f'log-{size}'}")
    parts.append(job.figures())
    merge(peaks, job.peaks)
    again += rewritten(output, before)
    enriched = pq.read_table(output / "enriched", columns=["report_id", "added"])
    rejected = pq.read_table(output / "rejected").num_rows if (output / "rejected").exists() else 0
    distinct = pc.count_distinct(enriched["report_id"]).as_py()
    timings = json.loads((output / "timings.json").read_text())
    found = {
        "reports": size, "law": law,
        "distinct sentences": pq.read_table(output / "sentences", columns=["sentence_key"]).num_rows,
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "processor seconds": round(sum(part["processor seconds"] for part in parts), 1),
        "gigabytes at most": round(max(peaks.values()) / 1e9, 2),
        "gigabytes by stage": {name: round(held / 1e9, 2) for name, held in peaks.items()},
        "stages of the last process": {name: round(value, 1) for name, value in timings["work"].items()},
        "added": pc.sum(enriched["added"]).as_py(),
        "killed": {"shards done at the kills": kills, "files written again": len(again)} if killed else None,
        "wrong": [
            *([f"{enriched.num_rows} rows of {distinct} reports and {rejected} rejected, not {size}"]
              if not enriched.num_rows == distinct == size - rejected else []),
            *([f"{len(again)} files of finished shards were written again"] if again else []),
        ],
    }  # fmt: skip
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="reports and runs, kept: 10 GB for a million")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    given = parser.parse_args()
    if len(set(given.sizes)) < 2:
        parser.error("--sizes: two or more, or there is no growth to see")
    given.folder.mkdir(parents=True, exist_ok=True)
    sizes = sorted(given.sizes)
    found = [measured(given.folder, size, killed=size == sizes[-1]) for size in sizes]
    first, last = found[0], found[-1]
    spread = math.log(last["reports"] / first["reports"])
    exponents = {
        name: round(math.log(last[key] / first[key]) / spread, 3)
        for name, key in (
            ("by the clock", "seconds"), ("processor time", "processor seconds"),
            ("distinct sentences", "distinct sentences"),
        )
    }  # fmt: skip
    missed = [wrong for each in found for wrong in each["wrong"]]
    if last["gigabytes at most"] > GIGABYTES:
        missed.append(f"{last['gigabytes at most']} GB, at most {GIGABYTES}")
    if exponents["processor time"] > EXPONENT:
        missed.append(f"exponent {exponents['processor time']}, at most {EXPONENT}")
    report("enrichment_scale", {"sizes": found, "exponents": exponents, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
