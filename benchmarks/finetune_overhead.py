"""What Ray Train and the data path cost: the job's training against a bare PyTorch loop over tensors in memory.

    python benchmarks/finetune_overhead.py                 # three rounds; five minutes
    python benchmarks/finetune_overhead.py --rounds 1

Both train the same model of the same run (phantom, default sizes) for one epoch with one process and one thread, and
judge the validation studies after it. The bare loop is what one writes by hand: collated batches ready in a list, the
model's forward, cross-entropy, backward, clipping, AdamW. The other side is the job's own: a replica under Ray Train,
batches streamed by Ray Data from prepared images in the object store (images augmented, texts collated beside the
training), losses collected, checkpoints asked for. Taken in turns; the ratio is that of the times per step. Fails if
its median is above RATIO or if the losses differ by more than TOLERANCE.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import report

RATIO, TOLERANCE = 1.10, 1e-3
IGNORED = -100


def bare(folder: str, words: list[str]) -> dict[str, float]:
    """The loop by hand."""
    import torch
    from finetune_common import opened
    from torch.nn.functional import cross_entropy

    from raymedlt.seeds import keyed_seed

    torch.set_num_threads(1)
    making = opened(folder, words)
    own, storage = making.config.settled_training, making.storage
    model: Any = making.model()
    source = making.batches(storage)
    numbers = range(own.batch // own.micro_batch)
    steps = list(source.training(0, 0, numbers))
    validation = list(source.validating(range(source.validation)))
    sees = [each for name, each in model.named_parameters() if name.startswith("vision.")]
    rest = [each for name, each in model.named_parameters() if not name.startswith("vision.")]
    optimizer = torch.optim.AdamW(
        [{"params": sees, "lr": own.vision_rate}, {"params": rest, "lr": own.full_rate}],
        weight_decay=own.weight_decay, fused=True,
    )  # fmt: skip
    rates = [group["lr"] for group in optimizer.param_groups]

    def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: each for name, each in batch.items() if name != "labels"}
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def counted(batches: list[dict[str, torch.Tensor]]) -> int:
        return sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)

    from raymedlt.finetuning.training import rate_factor

    model.train()
    torch.manual_seed(keyed_seed(0))
    total, began = 0.0, time.monotonic()
    for number, batches in enumerate(steps):
        tokens = counted(batches)
        factor = rate_factor(number, len(steps), own.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        for batch in batches:
            loss = losses(batch)
            (loss / tokens).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), own.clip)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        judged = sum(losses(batch).item() for batch in validation) / counted(validation)
    seconds = time.monotonic() - began
    learnt = sum(counted(batches) for batches in steps)
    return {"loss": total / learnt, "validation_loss": judged, "seconds": seconds, "steps": len(steps)}


def on_ray(folder: str, words: list[str], name: str) -> dict[str, float]:
    """The job's training, in an attempt of its own."""
    from dataclasses import replace

    from finetune_common import opened

    from raymedlt.finetuning.distributed import train_on_ray
    from raymedlt.finetuning.making import Making
    from raymedlt.finetuning.task import Task, folder_of
    from raymedlt.images.distributed import put_pixels
    from raymedlt.ledger import LedgerHandle
    from raymedlt.machine import Settings
    from raymedlt.runtime import connect, private_by_default
    from raymedlt.seeds import keyed_seed

    private_by_default()
    kept = opened(folder, words)
    with connect(1):
        making = Making(kept.config, kept.data, kept.storage, put_pixels(kept.data, kept.storage))
        training = replace(kept.config.settled_training, checkpoint_seconds=1e6)
        task = Task(name, training, keyed_seed(kept.config.seed, "train"), making.model, making.batches)
        train_on_ray(task, Settings("cpu", "bfloat16", 1), LedgerHandle(kept.storage), storage=kept.storage)
    (line,) = json.loads(kept.storage.read_bytes(f"{folder_of(name)}/latest.json"))["position"]["history"]
    return {key: line[key] for key in ("loss", "validation_loss", "seconds", "steps", "waited_for_data")}


def fresh(kind: str, folder: str, words: list[str], name: str = "") -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", kind, "--folder", folder, "--name", name, "--", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("bare", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("job", nargs="*", help="arguments of jobs/finetune.py, after --")
    arguments = parser.parse_args()
    if arguments.side == "bare":
        print(json.dumps(bare(arguments.folder, arguments.job)))
        return
    if arguments.side == "ray":
        print(json.dumps(on_ray(arguments.folder, arguments.job, arguments.name)))
        return
    from finetune_common import LITTLE, finetuned

    words = [*LITTLE, *arguments.job]
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, "run"))
        finetuned(folder, words)
        rounds = []
        for number in range(arguments.rounds):
            rounds.append((fresh("bare", folder, words), fresh("ray", folder, words, f"round{number}")))
    ratios = [ray["seconds"] / own["seconds"] for own, ray in rounds]
    apart = max(abs(ray[key] / own[key] - 1) for own, ray in rounds for key in ("loss", "validation_loss"))
    ratio = statistics.median(ratios)
    missed = [
        *([f"ratio {ratio:.3f}, at most {RATIO}"] if ratio > RATIO else []),
        *([f"losses differ by {apart:.1e} of themselves, at most {TOLERANCE}"] if apart > TOLERANCE else []),
    ]
    steps = rounds[0][0]["steps"]
    report(
        "finetune_overhead",
        {
            "steps": steps,
            "milliseconds a step": {
                "bare": [round(1000 * own["seconds"] / steps) for own, _ in rounds],
                "ray": [round(1000 * ray["seconds"] / steps) for _, ray in rounds],
            },
            "waited for data": [round(ray["waited_for_data"] / ray["seconds"], 4) for _, ray in rounds],
            "ratio": round(ratio, 3),
            "ratios": [round(each, 3) for each in ratios],
            "losses differ by": apart,
            "missed": missed,
        },
    )  # fmt: skip
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
