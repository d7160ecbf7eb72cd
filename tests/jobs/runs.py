"""Small sources and runs of jobs/enrich.py for the tests of jobs and faults. Every sentence here was made up."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.distributed import describe, run
from raymedlt.job import main

ROOT = Path(__file__).resolve().parents[2]
JOB = "jobs/enrich.py"
SENTINEL = "zebrafinch"  # in every report: wherever it turns up but in the outputs, report text has leaked
COLUMNS = ["report_id", "study_id", "patient_id", "split", "findings", "impression", "indication", "image_ids"]
TABLES = ("enriched", "additions", "refusals", "sentences", "clusters", "edges", "rejected")

SMALL_SHARDS = (
    "--embedding.batch_sentences", "16", "--embedding.shard_sentences", "16", "--writing.shard_reports", "50",
)  # fmt: skip

QUICK_FINETUNE = [
    "--phantom.images=240", "--phantom.test_images=24", "--phantom.test_positives=0", "--phantom.classes=6",
    "--images.size=32", "--model.small_width=48", "--model.small_layers=1", "--model.small_heads=2",
    "--training.seeing_epochs=1", "--training.epochs=2", "--training.batch=16", "--training.micro_batch=8",
    "--training.precision=float32", "--training.checkpoint_seconds=0", "--generation.max_tokens=24",
    "--generation.batch=8", "--scoring.bootstrap=50",
]  # fmt: skip
"""Arguments of jobs/finetune.py: a tiny model of tiny phantoms."""

NORMAL = {
    "heart": (
        "Heart size is normal.", "The heart is normal in size.", "Normal heart size.", "The heart size is normal.",
        "Cardiac size is normal.", "The cardiac silhouette is normal in size.", "Heart is normal in size.",
        "The heart size is within normal limits.", "Heart size is within normal limits.",
        "Cardiac silhouette size is normal.", "The size of the heart is normal.", "The heart is of normal size.",
    ),
    "mediastinum": (
        "The mediastinum is normal.", "Mediastinum is normal.", "Normal mediastinum.",
        "The mediastinal contours are normal.", "Mediastinal contours are normal.", "Normal mediastinal contours.",
        "The mediastinal contour is normal.", "Mediastinal contours are within normal limits.",
        "The mediastinal silhouette is normal.", "Mediastinal silhouette is normal.",
    ),
    "effusion": (
        "No pleural effusion.", "There is no pleural effusion.", "No pleural effusion is seen.",
        "There are no pleural effusions.", "No pleural effusions.", "No pleural effusion is identified.",
        "No evidence of pleural effusion.", "There is no evidence of pleural effusion.",
        "No pleural effusion is present.", "Pleural effusion is absent.",
    ),
    "pneumothorax": (
        "No pneumothorax.", "There is no pneumothorax.", "No pneumothorax is seen.", "No evidence of pneumothorax.",
        "There is no evidence of pneumothorax.", "No pneumothorax is identified.", "No pneumothorax is present.",
        "There are no pneumothoraces.", "No visible pneumothorax.", "No pneumothoraces.",
    ),
    "bones": (
        "The bones are normal.", "The osseous structures are normal.", "Osseous structures are intact.",
        "The bony structures are intact.", "Bony structures are normal.", "The bony structures are normal.",
        "The osseous structures are intact.", "The bones are intact.", "Bones are intact.",
        "Osseous structures are normal.",
    ),
    "lungs": (
        "The lungs are clear.", "Lungs are clear.", "Both lungs are clear.", "Clear lungs.",
        "The lungs are both clear.", "Lungs are clear bilaterally.", "The lungs are clear bilaterally.",
        "Lungs clear.", "The lung fields are clear.", "Lung fields are clear.",
    ),
}  # fmt: skip
ABNORMAL = {
    "heart": (
        "The heart is enlarged.", "Heart is enlarged.", "The cardiac silhouette is enlarged.", "Enlarged heart.",
        "Enlarged cardiac silhouette.", "The heart size is enlarged.", "Heart size is enlarged.",
    ),
    "effusion": (
        "There is a small left pleural effusion.", "Small left pleural effusion.", "A small left pleural effusion.",
        "There is a left pleural effusion.", "Left pleural effusion is seen.", "A left pleural effusion is present.",
        "Small left pleural effusion is present.",
    ),
    "lungs": (
        "There is a right basilar opacity.", "Right basilar opacity.", "A right basilar opacity is seen.",
        "There is an opacity in the right base.", "Opacity in the right lung base.", "A right basilar opacity.",
        "Right basilar opacity is present.",
    ),
}  # fmt: skip
IMPRESSIONS = (
    "No acute disease.", "No acute cardiopulmonary disease.", "No acute cardiopulmonary abnormality.",
    "No acute cardiopulmonary process.", "No acute abnormality.", "No active disease.", "No acute process.",
    "No acute cardiopulmonary findings.",
)  # fmt: skip


def report(number: int, seed: int = 0) -> dict[str, str]:
    """One made-up report: each topic is left out with probability .35; a fifth of heart, pleura, lungs is abnormal."""
    draw = random.Random(f"{seed}:{number}")
    findings, impression = [], []
    for topic, spellings in NORMAL.items():
        if draw.random() < 0.35:
            continue
        if topic in ABNORMAL and draw.random() < 0.2:
            findings.append(draw.choice(ABNORMAL[topic]))
            impression.append(draw.choice(ABNORMAL[topic]))
        else:
            findings.append(draw.choice(spellings))
    return {
        "report_id": f"r{number:05d}",
        "study_id": f"s{number:05d}",
        "patient_id": f"p{number // 2:05d}",
        "split": {18: "validation", 19: "test"}.get(number % 20, "train"),
        "findings": " ".join(findings) or draw.choice(NORMAL["heart"]),
        "impression": " ".join(impression) or draw.choice(IMPRESSIONS),
        "indication": f"Fever, keeps a {SENTINEL}.",
        "image_ids": f"{number}/frontal.png|{number}/lateral.png",
    }


def write_source(path: Path, rows: Iterable[Mapping[str, str]], columns: list[str] | None = None) -> Path:
    """A CSV file of reports; returns its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def small_reports(path: Path, count: int = 400) -> Path:
    """`count` made-up reports as a CSV file, enough for clusters and arcs; returns its path."""
    return write_source(path, map(report, range(count)))


def arguments_of(source: Path, output: Path, *more: str, format: str = "csv", shards: bool = True) -> list[str]:
    """The words behind `python jobs/enrich.py`."""
    small = SMALL_SHARDS if shards else ()
    return ["--reports.path", str(source), "--reports.format", format, "--output", str(output), *small, *more]


NICENESS = "RAY_worker_niceness"


def environment(**more: str) -> dict[str, str]:
    """The tests' environment without a Ray cluster and Ray's modes, as a user's shell has it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == NICENESS}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | more


def script(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run jobs/enrich.py as a user does."""
    return subprocess.run(
        [sys.executable, JOB, *arguments],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def start(*arguments: str, log: Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start jobs/enrich.py in a session of its own, with standard output and error in the file `log`."""
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, JOB, *arguments],
            cwd=cwd, env=env or environment(), stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


def inside(*arguments: str) -> int:
    """The same job in this process, where the libraries are loaded already; its exit code."""
    return main(EnrichConfig, "python jobs/enrich.py", describe, run, list(arguments))


def table(output: Path, name: str) -> pa.Table:
    """A table of a run, all shards in the order of their names."""
    return pa.concat_tables([pq.read_table(file) for file in sorted((output / name).glob("*.parquet"))])


SPELLINGS = tuple(
    text.lower().rstrip(".").encode()
    for texts in (*NORMAL.values(), *ABNORMAL.values(), IMPRESSIONS)
    for text in texts
    if len(text.split()) > 2  # "no effusion" may be the project's own words
)
"""What the made-up reports say, as no log may say it."""


def quoted(data: bytes) -> list[str]:
    """The report texts that turn up in a log, an answer of a server, a file: [] where there are none."""
    small = data.lower()
    return [text.decode() for text in (SENTINEL.encode(), *SPELLINGS) if text in small]


def quoted_below(folder: Path) -> dict[str, list[str]]:
    """Files below `folder` that hold report texts, and which ones."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = {str(path.relative_to(folder)): quoted(path.read_bytes()) for path in files}
    return {name: texts for name, texts in found.items() if texts}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tables_of(output: Path, names: Iterable[str] = TABLES) -> dict[str, str]:
    """sha256 of every file of the tables that a user reads."""
    return {f"{name}/{file}": digest for name in names for file, digest in digests(output / name).items()}


def marked(output: Path, stage: str) -> list[str]:
    """Finished shards of a stage, as the ledger lists them."""
    folder = output / "_ledger" / stage
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed: the standard that others are compared with."""

    folder: tempfile.TemporaryDirectory[str]  # lives as long as this object
    source: Path
    output: Path
    printed: subprocess.CompletedProcess[str]
    seconds: float


@functools.cache
def undisturbed() -> Undisturbed:
    """400 reports, small shards, two threads, started as a user does: once per test session."""
    folder = tempfile.TemporaryDirectory(prefix="raymedlt-")
    source, output = small_reports(Path(folder.name) / "small.csv"), Path(folder.name) / "run"
    began = time.monotonic()
    printed = script(*arguments_of(source, output, "--workers", "2"))
    seconds = time.monotonic() - began
    assert printed.returncode == 0, printed.stderr
    return Undisturbed(folder, source, output, printed, seconds)


@dataclass(frozen=True)
class Finished:
    """Files of the finished shards: when and as which file they were written."""

    files: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, output: Path) -> Finished:
        """All markers and the files that they name."""
        names = []
        for marker in (output / "_ledger").glob("*/*.json"):
            names += [marker, *(output / entry["name"] for entry in json.loads(marker.read_text())["files"])]
        return cls({str(path.relative_to(output)): _written(path) for path in names})

    def written_again(self, output: Path) -> list[str]:
        """Those that were written again since then; [] if nothing was done twice."""
        return [name for name, before in self.files.items() if _written(output / name) != before]


def _written(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None, seconds: float = 120) -> None:
    """Look every 2 ms until `condition` holds; fails when the process ends before, or the time is up."""
    ends = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"the process ended with {process.returncode}"
        assert time.monotonic() < ends, f"waited {seconds} s in vain"
        time.sleep(0.002)


def descendants(pid: int) -> dict[int, str]:
    """Processes started by `pid` and by these, with their command lines (Linux)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
    found: set[int] = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    lines = {}
    for child in found - {pid}:
        try:
            lines[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return lines
