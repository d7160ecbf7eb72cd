"""The long tail on the phantom: the full method against plain BCE with the same backbone, and what each part is worth.

    python benchmarks/classifier_phantom.py                      # full and plain, three seeds each; half an hour
    python benchmarks/classifier_phantom.py --seeds 1 --ablate   # and each part switched off; half an hour

20,000 training and validation images with 20 classes spread over PadChest's long tail, test images topped up to at
least 100 positives a class; the phantom's defaults and seed were frozen before the first comparison. Both methods have
the same backbone, images, epochs and augmentation, and the same tuning: a learning rate of RATES, chosen by
validation mAP of the first seed. Scored on the test images once, with a bootstrap over patients; the seeds' mean
probabilities and each seed alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import report

from raymedlt.checkpoint import Checkpoints
from raymedlt.classifier.ablation import FULL, PLAIN, variants
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.evaluation import Evaluation, ablation_rows, evaluate, mean_logits
from raymedlt.classifier.feed import thread_feed
from raymedlt.classifier.metrics import classes_of
from raymedlt.classifier.scoring import logits_of
from raymedlt.classifier.task import start_model
from raymedlt.classifier.training import train
from raymedlt.images.arranging import Data
from raymedlt.images.examples import Examples
from raymedlt.machine import Settings
from raymedlt.schema import TEST, VALIDATION
from raymedlt.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
IMAGES, TEST_IMAGES, EPOCHS = 20_000, 4_000, 8
RATES = (4e-3, 8e-3)
RESAMPLES = 1000
PREPARE = (
    f"--phantom.images={IMAGES}", f"--phantom.test_images={TEST_IMAGES}", "--training.stage2_epochs=1",
    "--evaluation.bootstrap=0", "--evaluation.maps=0",
)  # fmt: skip


def prepared(folder: str) -> dict[str, Any]:
    """Make a run of jobs/classify.py unless the folder holds one; how long its stages took."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "jobs" / "classify.py"), *PREPARE, "--output", folder]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    work = json.loads(Storage.of(folder).read_bytes("timings.json"))["work"]
    return {"seconds_of_this_call": round(seconds, 1), "prepare": round(work["prepare"], 1)}


def loaded(folder: str) -> tuple[Examples, Settings]:
    """The examples of that run, and what it settled about the machine."""
    storage = Storage.of(folder)
    classes = json.loads(storage.read_bytes("_ledger/arrange/examples.json"))["summary"]["classes"]
    settings = Settings(**json.loads(storage.read_bytes("_ledger/settle/machine.json"))["summary"])
    files = tuple(sorted(storage.list_files("_work/images")))
    return Data(tuple(classes), files, ClassifyConfig().images.size).load(storage), settings


def with_rate(config: ClassifyConfig, rate: float, seed: int) -> ClassifyConfig:
    """The configuration at a learning rate, for this benchmark's number of epochs."""
    training = replace(
        config.training, backbone_rate=rate, rate=rate, stage2_epochs=EPOCHS, patience=EPOCHS, checkpoint_seconds=1e9
    )
    return replace(config, training=training, seed=seed, evaluation=replace(config.evaluation, bootstrap=RESAMPLES))


Scored = tuple[float, float, list[npt.NDArray[np.float32]]]
"""Validation mAP, seconds, and the logits of the validation and test images."""


def logits(folder: str, config: ClassifyConfig, processes: int) -> Scored:
    """Train on the images of a run's folder, in a process of its own."""
    examples, settings = loaded(folder)
    settings = replace(settings, threads=max(1, settings.threads // processes))
    began = time.perf_counter()
    model = start_model(examples, config)
    with tempfile.TemporaryDirectory() as kept:
        feed = thread_feed(examples, config.augment)
        trained = train(model, examples, config, settings, Checkpoints(Storage.of(kept)), feed)
    model.load_state_dict(trained.weights)
    seconds = time.perf_counter() - began
    waited = sum(line["waited_for_data"] for line in trained.history) / sum(line["seconds"] for line in trained.history)
    print(f"# {seconds:.0f} s, waited {waited:.1%} for data, validation mAP {trained.best:.4f}", file=sys.stderr)
    batch = config.evaluation.batch_images
    parts = [
        logits_of(model, examples.pixels, examples.rows(split), batch, settings.device, settings.precision)
        for split in (VALIDATION, TEST)
    ]
    return trained.best, seconds, parts


class Trainings:
    """Trainings side by side, each in a process with its share of the threads; one that was asked for before is kept.

    On two cores, two processes with a thread each did more than one with two: see "images_per_second" in what is told.
    """

    def __init__(self, folder: str, processes: int) -> None:
        self.folder, self.processes = folder, processes
        # New processes: those that are forked would share the locks of torch's threads.
        self.pool = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
        )
        self.asked: dict[str, Future[Scored]] = {}

    def ask(self, config: ClassifyConfig) -> Future[Scored]:
        """Begin a training as soon as a process is free."""
        key = repr(config)
        if key not in self.asked:
            self.asked[key] = self.pool.submit(logits, self.folder, config, self.processes)
        return self.asked[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder for the prepared images, kept (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--ablate", action="store_true", help="also each part switched off, first seed")
    parser.add_argument("--processes", type=int, default=2, help="trainings side by side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments, arguments.run or f"{temporary}/run")


def measure(arguments: argparse.Namespace, folder: str) -> None:
    """Train, compare and print."""
    told = prepared(folder)
    examples, settings = loaded(folder)
    trainings = Trainings(folder, arguments.processes)
    configs = variants(ClassifyConfig())
    found: dict[str, Any] = {
        "images": told,
        "classes": len(examples.classes),
        "settings": vars(settings) | {"processes": arguments.processes},
    }
    both = (PLAIN, FULL)
    tuning = {name: {r: trainings.ask(with_rate(configs[name], r, 0)) for r in arguments.rates} for name in both}
    rate_of = {name: max(tried, key=lambda rate: tried[rate].result()[0]) for name, tried in tuning.items()}
    for name in both:
        found[f"tuning of {name}"] = {str(rate): round(run.result()[0], 4) for rate, run in tuning[name].items()}
    asked = {
        name: [trainings.ask(with_rate(configs[name], rate_of[name], seed)) for seed in range(arguments.seeds)]
        for name in both
    }
    others = {
        name: with_rate(config, rate_of[FULL], 0)
        for name, config in configs.items()
        if arguments.ablate and name not in both
    }
    ablated = {name: trainings.ask(config) for name, config in others.items()}
    runs = {name: [run.result() for run in own] for name, own in asked.items()}
    for name, own in runs.items():
        found[f"seconds of {name}"] = [round(seconds, 1) for _, seconds, _ in own]
    scored = {
        name: evaluate(
            examples, mean_logits([parts[0] for _, _, parts in own]), mean_logits([parts[1] for _, _, parts in own]),
            with_rate(configs[name], rate_of[name], 0),
        )
        for name, own in runs.items()
    }  # fmt: skip
    found["mean of the seeds"] = ablation_rows(scored[FULL], {PLAIN: scored[PLAIN]})
    found["tail average precision of each seed"] = {
        name: [tail(examples, parts, with_rate(configs[name], rate_of[name], 0)) for _, _, parts in own]
        for name, own in runs.items()
    }
    if ablated:
        alone = evaluate(examples, *runs[FULL][0][2], with_rate(configs[FULL], rate_of[FULL], 0))
        without = {name: evaluate(examples, *run.result()[2], others[name]) for name, run in ablated.items()}
        without[PLAIN] = evaluate(examples, *runs[PLAIN][0][2], with_rate(configs[PLAIN], rate_of[PLAIN], 0))
        found["ablation, first seed"] = ablation_rows(alone, without)
    report("classifier_phantom", found)


def tail(examples: Examples, run: list[npt.NDArray[np.float32]], config: ClassifyConfig) -> list[float | None]:
    """Tail average precision of one network, with its interval."""
    scored: Evaluation = evaluate(examples, run[0], run[1], config)
    interval = scored.test.interval("average_precision", classes_of(scored.groups)["tail"])
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]


if __name__ == "__main__":
    main()
