"""Machines come and go while a model is fine-tuned: 2 -> 1 -> 2 replicas at every stage of ZeRO, losses side by side.

    python benchmarks/finetune_elastic.py                  # plain data-parallel and ZeRO 1 to 3; a quarter of an hour
    python benchmarks/finetune_elastic.py --stages 3

Two nodes with one processor each (Ray's own test cluster: processes of this machine). For each stage the same training
of a real run's model (phantom, default sizes, float32) is done twice: undisturbed with two replicas, and with the
second node taken away after two epochs and given back after an epoch with one replica. Printed are the replicas of each
epoch, the seconds from the loss of a node to the next finished epoch, and the largest relative difference between the
losses of the two runs, epoch by epoch; beside it that of the undisturbed run to one process alone (which grows with the
epochs, as rounding does at a high learning rate). Fails if a run does not end with two replicas after having had one,
or if a loss differs by more than TOLERANCE.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import report

TOLERANCE = 1e-3
EPOCHS, PATIENCE, RESIZE_SECONDS, LONGEST = 14, 99, 5.0, 500.0


def task_of(folder: str, words: list[str], name: str, stage: int, replicas: int) -> Any:
    """The training `name` of the finished run in `folder`."""
    from finetune_common import opened

    from raymedlt.finetuning.task import Task
    from raymedlt.seeds import keyed_seed

    making = opened(folder, words)
    training = replace(
        making.config.settled_training, zero=stage, replicas=replicas, least_replicas=1, epochs=EPOCHS,
        patience=PATIENCE, checkpoint_seconds=3.0,
    )  # fmt: skip
    return Task(name, training, keyed_seed(making.config.seed, "train"), making.model, making.batches), making.storage


def settings() -> Any:
    """float32 on one thread: what differs is the order of sums."""
    from raymedlt.machine import Settings

    return Settings("cpu", "float32", 1)


def position(storage: Any, name: str) -> dict[str, Any]:
    """Where the training stands."""
    from raymedlt.finetuning.task import folder_of

    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(f"{folder_of(name)}/latest.json"))["position"]
    except (FileNotFoundError, ValueError):
        found = {"steps": 0, "history": []}
    return found


def alone(folder: str, words: list[str]) -> list[dict[str, Any]]:
    """One process, no Ray."""
    from raymedlt.finetuning.task import do
    from raymedlt.ledger import LedgerHandle

    task, storage = task_of(folder, words, "alone", 0, 1)
    return do(task, settings(), LedgerHandle(storage)).history


def with_two_nodes(folder: str, words: list[str], stage: int, disturbed: bool) -> dict[str, Any]:
    """The training with two replicas; disturbed: the second node goes and comes back."""
    from ray.cluster_utils import Cluster

    from raymedlt.finetuning.distributed import train_on_ray
    from raymedlt.ledger import LedgerHandle
    from raymedlt.runtime import connect, private_by_default

    private_by_default()
    name = f"{'disturbed' if disturbed else 'whole'}-{stage}"
    task, storage = task_of(folder, words, name, stage, 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with connect(2, address=cluster.address):
                train_on_ray(
                    task, settings(), LedgerHandle(storage), storage=storage, resize_seconds=RESIZE_SECONDS
                )  # fmt: skip
        except BaseException as error:
            failed.append(error)

    def until(reached: Any) -> None:
        deadline = time.monotonic() + LONGEST
        while not reached(position(storage, name)["history"]):
            if failed or time.monotonic() > deadline:
                sys.exit(f"stage {stage}: {failed[0] if failed else f'nothing happened for {LONGEST:.0f} s'}")
            time.sleep(0.2)

    thread = threading.Thread(target=work, daemon=True)
    began = time.monotonic()
    thread.start()
    told: dict[str, Any] = {}
    if disturbed:
        until(lambda history: len(history) >= 2)
        told["steps when the node was taken"] = position(storage, name)["steps"]
        lost = time.monotonic()
        cluster.remove_node(node, allow_graceful=False)
        until(lambda history: any(line["replicas"] == 1 for line in history))
        told["seconds from the loss to an epoch's end"] = round(time.monotonic() - lost)
        came = time.monotonic()
        cluster.add_node(num_cpus=1)
        until(lambda history: history[-1]["replicas"] == 2 or len(history) == EPOCHS)
        told["seconds from the new node to an epoch's end"] = round(time.monotonic() - came)
    thread.join(LONGEST)
    cluster.shutdown()
    if failed or thread.is_alive():
        sys.exit(f"stage {stage}: {failed[0] if failed else 'it did not end'}")
    return told | {"history": position(storage, name)["history"], "seconds": round(time.monotonic() - began)}


def apart(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> float:
    """Largest relative difference of the losses of two histories; infinite where their epochs differ."""
    if [line["epoch"] for line in first] != [line["epoch"] for line in second]:
        return float("inf")
    return max(
        abs(one[key] / two[key] - 1)
        for one, two in zip(first, second, strict=True)
        for key in ("loss", "validation_loss")
    )


def fresh(kind: str, folder: str, words: list[str], stage: int = 0) -> Any:
    """One training in a process of its own."""
    command = [sys.executable, __file__, "--part", kind, "--folder", folder, "--stages", str(stage), "--", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--part", choices=("alone", "whole", "disturbed"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("job", nargs="*", help="arguments of jobs/finetune.py, after --")
    arguments = parser.parse_args()
    if arguments.part == "alone":
        print(json.dumps(alone(arguments.folder, arguments.job)))
        return
    if arguments.part:
        found = with_two_nodes(arguments.folder, arguments.job, arguments.stages[0], arguments.part == "disturbed")
        print(json.dumps(found))
        return
    from finetune_common import LITTLE, finetuned

    words = [*LITTLE, "--phantom.images=600", *arguments.job]
    missed: list[str] = []
    stages: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, "run"))
        finetuned(folder, words)
        one = fresh("alone", folder, words)
        for stage in arguments.stages:
            whole = fresh("whole", folder, words, stage)
            disturbed = fresh("disturbed", folder, words, stage)
            replicas = [line["replicas"] for line in disturbed["history"]]
            difference = apart(disturbed["history"], whole["history"])
            stages["torch" if stage == 0 else f"ZeRO-{stage}"] = {
                "replicas by epoch": replicas,
                "losses": [round(line["loss"], 5) for line in disturbed["history"]],
                "undisturbed": [round(line["loss"], 5) for line in whole["history"]],
                "largest relative difference": difference,
                "of the undisturbed run to one process": {
                    "first epoch": apart(whole["history"][:1], one[:1]),
                    "last epoch": apart(whole["history"][-1:], one[-1:]),
                    "largest": apart(whole["history"], one),
                },
                **{key: value for key, value in disturbed.items() if key != "history"},
                "seconds undisturbed": whole["seconds"],
            }
            if not (1 in replicas and replicas[0] == replicas[-1] == 2):
                missed.append(f"stage {stage}: replicas {replicas}, not 2, 1, 2")
            if difference > TOLERANCE:
                missed.append(f"stage {stage}: losses differ by {difference:.1e}, at most {TOLERANCE}")
    report("finetune_elastic", {"stages": stages, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
