"""What the benchmarks of fine-tuning share: the job in a folder, and what a finished run's parts are made with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.finetuning.making import Making
from raymedlt.images.arranging import Data
from raymedlt.ledger import LedgerHandle
from raymedlt.parsing import parse
from raymedlt.storage import Storage

ROOT = Path(__file__).resolve().parents[1]

LITTLE = (
    "--phantom.images=1500", "--phantom.test_images=64", "--text.use=complete", "--training.seeing_epochs=1",
    "--training.epochs=1", "--generation.limit=32", "--generation.max_tokens=16", "--scoring.bootstrap=20",
)  # fmt: skip
"""A run whose data and model are real and whose training is short: for benchmarks that train on its data themselves."""


def finetuned(folder: str | Path, words: Sequence[str], cores: Sequence[int] = ()) -> dict[str, Any]:
    """Run the job; what it measured, with its `seconds`. A finished run is used as it is.

    Args:
        cores: the processors that it may use; none: all.
    """
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
    done = subprocess.run([*pinned, *command_of(folder, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"jobs/finetune.py ended with {done.returncode}\n{done.stderr[-3000:]}")
    return measured(folder)


def command_of(folder: str | Path, words: Sequence[str]) -> list[str]:
    """The job as a user starts it."""
    return [sys.executable, str(ROOT / "jobs" / "finetune.py"), "--output", str(folder), *words]


def measured(folder: str | Path) -> dict[str, Any]:
    """metrics.json of a finished run, and `seconds` of its stages."""
    found: dict[str, Any] = json.loads(Path(folder, "metrics.json").read_text())
    return found | {"seconds": json.loads(Path(folder, "timings.json").read_text())["work"]}


def opened(folder: str | Path, words: Sequence[str]) -> Making:
    """What makes model and batches of the finished run in `folder`, which had the arguments `words`."""
    config = parse(FinetuneConfig, [*words, "--output", str(folder)])
    storage = Storage.of(config.output)
    arranged = LedgerHandle(storage).done("arrange", "examples") or {}
    files = sorted(name for name in storage.list_files("_work/images"))
    return Making(config, Data(tuple(arranged["classes"]), tuple(files), config.images.size), storage)


def texts_of(folder: str | Path, seed: int, generations: str | Path | None = None) -> dict[str, list[str]]:
    """What a finished run wrote for its test studies, beside both truths, in the order of the reports.

    Args:
        seed: put before the patients' names, so that those of several runs can stand together.
        generations: the output of another job that wrote for the same studies. Default: `folder`.
    """
    written = {row["report_id"]: row for row in pq.read_table(Path(generations or folder, "generations")).to_pylist()}
    studies = pq.read_table(Path(folder, "_work", "studies", "all.parquet")).to_pylist()
    rows = sorted((row for row in studies if row["report_id"] in written), key=lambda row: row["report_id"])
    if len(rows) != len(written):
        raise SystemExit(f"{folder}: {len(written)} reports for {len(rows)} studies")
    return {
        "completions": [written[row["report_id"]]["completion"] for row in rows],
        "references": [row["reference_findings"] for row in rows],
        "patient_ids": [f"{seed}/{row['patient_id']}" for row in rows],
        "complete": [row["complete_findings"] for row in rows],
    }


def pooled(parts: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The texts of several runs together."""
    return {key: [text for part in parts for text in part[key]] for key in parts[0]}
