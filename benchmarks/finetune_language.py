"""A real language model: SmolLM2-135M with LoRA behind a vision encoder; it learns, is killed, goes on and is exported.

    python benchmarks/finetune_language.py                 # twice, one of them killed; a quarter of an hour
    python benchmarks/finetune_language.py --output runs/language -- --training.epochs 3

`python jobs/finetune.py --model.language smollm2` on a small phantom, once undisturbed, and once with a kill -9 of its
process group in the middle of an epoch after the first, and the same command again. Fails unless the validation loss
falls with every epoch, the two runs leave the same adapter and model to the byte, and the exported folder writes, read
by transformers alone and by raymedlt.finetuning.load, what the run's table holds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import report
from finetune_common import command_of, finetuned, opened

WORDS = (
    "--model.language=smollm2", "--phantom.images=600", "--phantom.test_images=60", "--training.epochs=3",
    "--training.checkpoint_seconds=15", "--generation.limit=24", "--generation.max_tokens=96",
    "--generation.batch=8",
)  # fmt: skip
KEPT = ("adapter/adapter.safetensors", "model/model.safetensors", "model/config.json", "model/raymedlt.json")
COMPARED = 8
"""Reports that the exported model writes again."""


def killed(folder: Path, words: list[str]) -> dict[str, Any]:
    """Start the job and kill it when an epoch after the first has got some way."""
    latest = folder / "_work" / "train" / "model" / "latest.json"
    with subprocess.Popen(
        command_of(folder, words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as job:
        found: dict[str, Any] = {"epoch": 0, "step": 0, "steps": 0}
        while job.poll() is None and not (found["epoch"] >= 1 and found["step"] >= 1):
            time.sleep(0.1)
            try:
                found = json.loads(latest.read_text())["position"]
            except (OSError, ValueError):
                continue
        time.sleep(3)  # work after the checkpoint, which is lost
        os.killpg(job.pid, signal.SIGKILL)
    return {key: found[key] for key in ("epoch", "step", "steps")}


def written_again(folder: Path, words: list[str]) -> dict[str, bool]:
    """Whether the exported folder writes the reports of the run's table."""
    import torch
    from transformers import AutoModelForImageTextToText

    import raymedlt.finetuning.model  # noqa: F401  (registers the composed model)
    from raymedlt import finetuning
    from raymedlt.finetuning.arranging import read_studies

    making = opened(folder, words)
    studies = read_studies(making.storage)
    place = {name: row for row, name in enumerate(studies.report_ids.tolist())}
    # in the order of the images, as the job wrote them: batches are the same
    rows = sorted(
        pq.read_table(folder / "generations").to_pylist(), key=lambda row: studies.image_rows[place[row["report_id"]]]
    )[:COMPARED]
    images = making.pixels().take(studies.image_rows[[place[row["report_id"]] for row in rows]])
    texts = [row["completion"] for row in rows]
    loaded = finetuning.load(str(folder))
    plain = AutoModelForImageTextToText.from_pretrained(folder / "model", local_files_only=True).eval()
    processing: Any = loaded.writer.processing
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        tokens = plain.generate(**processing.batch(images), max_new_tokens=96)
    told = processing.decode(tokens[:, processing.prompt_length :])
    return {"raymedlt.finetuning.load": loaded.generate(images) == texts, "transformers alone": told == texts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder of the two runs, kept (default: a temporary one)")
    parser.add_argument("job", nargs="*", help="arguments of jobs/finetune.py, after --")
    arguments = parser.parse_args()
    words = [*WORDS, *arguments.job]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.output or temporary)
        whole = finetuned(folder / "whole", words)
        at = killed(folder / "killed", words) if not (folder / "killed" / "report.html").exists() else {}
        again = finetuned(folder / "killed", words)
        same = {
            name: (folder / "whole" / name).read_bytes() == (folder / "killed" / name).read_bytes() for name in KEPT
        }
        exported = written_again(folder / "whole", words)
    losses = [line["validation_loss"] for line in whole["history"]]
    missed = [
        *(["the validation loss does not fall"] if losses != sorted(losses, reverse=True) else []),
        *(
            [f"differ after the kill: {', '.join(n for n, each in same.items() if not each)}"]
            if not all(same.values())
            else []
        ),
        *([f"{name} writes other reports" for name, each in exported.items() if not each]),
    ]
    scored = whole["scored"]["test"]["scores"]
    report(
        "finetune_language",
        {
            "parameters": whole["parameters"],
            "learning": whole["learning"],
            "loss": [round(line["loss"], 4) for line in whole["history"]],
            "validation_loss": [round(each, 4) for each in losses],
            "steps": whole["history"][-1]["steps"],
            "seconds of training": round(whole["seconds"]["train"]),
            "seconds of writing": round(whole["seconds"]["write"]),
            "complete_micro_f1": scored["complete_micro_f1"],
            "killed at": at,
            "history after the kill": [round(line["validation_loss"], 4) for line in again["history"]],
            "same bytes after the kill": same,
            "exported": exported,
            "missed": missed,
        },
    )  # fmt: skip
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
