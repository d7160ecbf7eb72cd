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
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import report

from raymedlt.classifier.ablation import FULL, PLAIN, variants
from raymedlt.classifier.checkpoint import Checkpoints
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.evaluation import Evaluation, ablation_rows, evaluate, mean_logits
from raymedlt.classifier.feed import thread_feed
from raymedlt.classifier.metrics import classes_of
from raymedlt.classifier.scoring import logits_of
from raymedlt.classifier.task import Data, start_model
from raymedlt.classifier.training import Settings, train
from raymedlt.images.examples import Examples
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


def prepared(folder: str) -> tuple[Examples, Settings, dict[str, Any]]:
    """The examples of a run of jobs/classify.py, made now unless the folder holds one, and how long its stages took."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "jobs" / "classify.py"), *PREPARE, "--output", folder]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    storage = Storage.of(folder)
    classes = json.loads(storage.read_bytes("_ledger/arrange/examples.json"))["summary"]["classes"]
    settings = Settings(**json.loads(storage.read_bytes("_ledger/settle/machine.json"))["summary"])
    files = tuple(sorted(storage.list_files("_work/images")))
    examples = Data(tuple(classes), files, ClassifyConfig().images.size).load(storage)
    work = json.loads(storage.read_bytes("timings.json"))["work"]
    return examples, settings, {"seconds_of_this_call": round(seconds, 1), "prepare": round(work["prepare"], 1)}


def with_rate(config: ClassifyConfig, rate: float, seed: int) -> ClassifyConfig:
    """The configuration at a learning rate, for this benchmark's number of epochs."""
    training = replace(
        config.training, backbone_rate=rate, rate=rate, stage2_epochs=EPOCHS, patience=EPOCHS, checkpoint_seconds=1e9
    )
    return replace(config, training=training, seed=seed, evaluation=replace(config.evaluation, bootstrap=RESAMPLES))


def logits(examples: Examples, config: ClassifyConfig, settings: Settings) -> tuple[float, float, list[Any]]:
    """Train; validation mAP, seconds, and the logits of the validation and test images."""
    began = time.perf_counter()
    model = start_model(examples, config)
    with tempfile.TemporaryDirectory() as folder:
        feed = thread_feed(examples, config.augment)
        trained = train(model, examples, config, settings, Checkpoints(Storage.of(folder)), feed)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder for the prepared images, kept (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--ablate", action="store_true", help="also each part switched off, first seed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        examples, settings, told = prepared(arguments.run or f"{temporary}/run")
    base = ClassifyConfig()
    configs = variants(base)
    found: dict[str, Any] = {"images": told, "classes": len(examples.classes), "settings": vars(settings)}
    rate_of, first = {}, {}
    for name in (PLAIN, FULL):
        tried = {rate: logits(examples, with_rate(configs[name], rate, 0), settings) for rate in arguments.rates}
        rate_of[name] = max(tried, key=lambda rate: tried[rate][0])
        first[name] = tried[rate_of[name]]
        found[f"tuning of {name}"] = {str(rate): round(best, 4) for rate, (best, _, _) in tried.items()}
        found[f"seconds of {name}"] = round(first[name][1], 1)
    runs = {name: [first[name][2]] for name in first}
    for seed in range(1, arguments.seeds):
        for name, own in runs.items():
            own.append(logits(examples, with_rate(configs[name], rate_of[name], seed), settings)[2])
    scored = {
        name: evaluate(
            examples, mean_logits([run[0] for run in own]), mean_logits([run[1] for run in own]),
            with_rate(configs[name], rate_of[name], 0),
        )
        for name, own in runs.items()
    }  # fmt: skip
    found["mean of the seeds"] = ablation_rows(scored[FULL], {PLAIN: scored[PLAIN]})
    found["tail average precision of each seed"] = {
        name: [tail(examples, run, with_rate(configs[name], rate_of[name], 0)) for run in own]
        for name, own in runs.items()
    }
    if arguments.ablate:
        alone = evaluate(examples, *first[FULL][2], with_rate(base, rate_of[FULL], 0))
        others = {}
        for name, config in configs.items():
            if name not in (FULL, PLAIN):
                own = with_rate(config, rate_of[FULL], 0)
                others[name] = evaluate(examples, *logits(examples, own, settings)[2], own)
        others[PLAIN] = evaluate(examples, *first[PLAIN][2], with_rate(configs[PLAIN], rate_of[PLAIN], 0))
        found["ablation, first seed"] = ablation_rows(alone, others)
    report("classifier_phantom", found)


def tail(examples: Examples, run: list[npt.NDArray[np.float32]], config: ClassifyConfig) -> list[float | None]:
    """Tail average precision of one network, with its interval."""
    scored: Evaluation = evaluate(examples, run[0], run[1], config)
    interval = scored.test.interval("average_precision", classes_of(scored.groups)["tail"])
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]


if __name__ == "__main__":
    main()
