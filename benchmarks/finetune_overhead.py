"""What Ray Train and the data path cost: the job's training against a bare PyTorch loop over tensors in memory.

    python benchmarks/finetune_overhead.py                 # three rounds; five minutes
    python benchmarks/finetune_overhead.py --rounds 1

Both train the same model of the same run (phantom, default sizes) for one epoch with one process and one thread, and
judge the validation studies after it. The bare loop is what one writes by hand: collated batches ready in a list, the
model's forward, cross-entropy, backward, clipping, AdamW. `ray` is the job's own: a replica under Ray Train that holds
the images, augments and collates them beside the training, collects losses and asks for checkpoints. `stream` is the
same with batches streamed by Ray Data from images in the object store, as the job does above 4 GiB of them; the start
of the stream counts. The rate is small, so that rounding doesn't grow and the losses compare. Taken in turns; the ratio
is that of the times per step. Fails if the median of `ray` is above RATIO or if losses differ by more than TOLERANCE.
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
SIDES, LOSSES = ("bare", "ray", "stream"), ("loss", "validation_loss")
IGNORED = -100


def bare(folder: str, words: list[str]) -> dict[str, float]:
    """The loop by hand."""
    import torch
    from finetune_common import opened
    from torch.nn.functional import cross_entropy

    from raymedlt.finetuning.engines import parameter_groups
    from raymedlt.finetuning.training import rate_factor

    torch.set_num_threads(1)
    making = opened(folder, words)
    own, storage = making.config.settled_training, making.storage
    model: Any = making.model()
    source = making.batches(storage)
    numbers = range(own.batch // own.micro_batch)
    steps = list(source.training(0, 0, numbers))
    validation = list(source.validating(range(source.validation)))
    named = dict(model.named_parameters())
    groups = parameter_groups(model, own)
    optimizer = torch.optim.AdamW(
        [{"params": [named[n] for n in each.names], "lr": each.rate, "weight_decay": each.decay} for each in groups],
        fused=True,
    )
    rates = [group["lr"] for group in optimizer.param_groups]

    def losses(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: each for name, each in batch.items() if name != "labels"}
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def counted(batches: list[dict[str, torch.Tensor]]) -> int:
        return sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)

    model.train()
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


def on_ray(folder: str, words: list[str], name: str, streams: bool) -> dict[str, float]:
    """The job's training under Ray Train, under a name of its own."""
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
        refs = put_pixels(kept.data, kept.storage) if streams else None
        making = Making(kept.config, kept.data, kept.storage, refs)
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
    parser.add_argument("--side", choices=("bare", "ray", "stream"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("job", nargs="*", help="arguments of jobs/finetune.py, after --")
    arguments = parser.parse_args()
    if arguments.side == "bare":
        print(json.dumps(bare(arguments.folder, arguments.job)))
        return
    if arguments.side:
        print(json.dumps(on_ray(arguments.folder, arguments.job, arguments.name, arguments.side == "stream")))
        return
    from finetune_common import LITTLE, finetuned

    words = [*LITTLE, "--phantom.images=6000", "--training.rate=1e-4", "--training.vision_rate=1e-5", *arguments.job]
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, "run"))
        finetuned(folder, words)
        rounds = [
            {side: fresh(side, folder, words, f"{side}-{number}") for side in SIDES}
            for number in range(arguments.rounds)
        ]  # fmt: skip
    steps, missed, sides = rounds[0]["bare"]["steps"], [], {}
    for side in SIDES[1:]:
        ratios = [each[side]["seconds"] / each["bare"]["seconds"] for each in rounds]
        apart = max(abs(each[side][key] / each["bare"][key] - 1) for each in rounds for key in LOSSES)
        ratio = statistics.median(ratios)
        sides[side] = {
            "milliseconds a step": [round(1000 * each[side]["seconds"] / steps) for each in rounds],
            "waited for data": [round(each[side]["waited_for_data"] / each[side]["seconds"], 4) for each in rounds],
            "ratio": round(ratio, 3),
            "ratios": [round(each, 3) for each in ratios],
            "losses differ by": apart,
        }
        if ratio > RATIO and side == "ray":
            missed.append(f"ratio {ratio:.3f}, at most {RATIO}")
        if apart > TOLERANCE:
            missed.append(f"{side}: losses differ by {apart:.1e} of themselves, at most {TOLERANCE}")
    bare_steps = [round(1000 * each["bare"]["seconds"] / steps) for each in rounds]
    report("finetune_overhead", {"steps": steps, "bare: milliseconds a step": bare_steps, **sides, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
