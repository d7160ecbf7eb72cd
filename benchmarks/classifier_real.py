"""Real chest X-rays: out-of-fold AUC of the classifier against two baselines in the same folds, with intervals.

    python benchmarks/classifier_real.py                            # all recipes below; an hour on two cores
    python benchmarks/classifier_real.py --recipes "phantom start"  # one of them, and the baselines
    python benchmarks/classifier_real.py --keep FOLDER              # goes on where it stopped

1,528 images of 64 px (../shared/data/nih1993_64), 5 folds by sha256(patient_id) modulo 5: a fold is tested on by what
the other four trained, a tenth of whose patients are held back for validation. Score: macro AUC over the classes with
at least 30 positives and without Pneumonia (it coincides with one of the two sources), over all images and within each
source, with a bootstrap over patients; differences are paired (recipes with the baselines, and with the random start:
what an ingredient is worth). Baselines: 60 principal components of the pixels, and
frozen EfficientNet-Lite0 features (ImageNet), each with logistic regression.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import report

from raymedlt.checkpoint import Checkpoints
from raymedlt.classifier.backbone import LITE0
from raymedlt.classifier.bootstrap import Bootstrap, bootstrap, paired_difference
from raymedlt.classifier.config import ClassifyConfig, EvaluationConfig, LossConfig, ModelConfig, TrainingConfig
from raymedlt.classifier.feed import thread_feed
from raymedlt.classifier.scoring import logits_of
from raymedlt.classifier.task import start_model
from raymedlt.classifier.training import train
from raymedlt.embedding.encoder import processor_has_bfloat16
from raymedlt.images.config import AugmentConfig, ImageLabelsConfig
from raymedlt.images.examples import Examples, PixelShards
from raymedlt.images.labels import positives, read_labels
from raymedlt.images.lite0 import LITE0_BACKBONE
from raymedlt.images.readers import read_square
from raymedlt.images.splits import folds, split_patients
from raymedlt.machine import Settings
from raymedlt.schema import TEST, TRAIN, VALIDATION
from raymedlt.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "nih1993_64"
STILL = AugmentConfig(rotate=0, shift=0, scale=0, contrast=0, noise=0, dropout=0, clahe=0)
FOLDS, RESAMPLES, LEAST, LEFT_OUT = 5, 2000, 30, "Pneumonia"
Floats = npt.NDArray[np.float64]


def examples_at(size: int) -> Examples:
    """All images, prepared at `size` pixels; splits are filled in per fold."""
    table = read_labels(ImageLabelsConfig(path=str(DATA / "labels.csv")))
    images = table.images.sort_by("image_id")
    labels, known = positives(images, table.classes, uncertain="ignore")
    storage = Storage.of(str(DATA / "images"))
    pixels = np.stack([read_square(storage, name, size, "pad", 10**7) for name in images["path"].to_pylist()])
    texts = {name: np.array(images[name].to_pylist(), object) for name in ("image_id", "patient_id", "source")}
    return Examples(
        image_ids=texts["image_id"], patient_ids=texts["patient_id"], splits=np.array([""] * len(pixels), object),
        sources=texts["source"], labels_NC=labels, known_NC=known, synthetic=np.zeros(len(pixels), bool),
        pixels=PixelShards.of([pixels]), classes=table.classes,
    )  # fmt: skip


def in_fold(examples: Examples, fold: int, seed: int) -> Examples:
    """Fold `fold` is test; a tenth of the other patients is validation."""
    test = folds(examples.patient_ids.tolist(), FOLDS) == fold
    splits = np.where(test, TEST, TRAIN).astype(object)
    rest = np.flatnonzero(~test)
    shares = {TRAIN: 0.9, VALIDATION: 0.1}
    splits[rest] = split_patients(
        examples.patient_ids[rest].tolist(), examples.labels_NC[rest], shares, seed=seed
    ).astype(object)
    return replace(examples, splits=splits)


def out_of_fold(examples: Examples, config: ClassifyConfig, members: int) -> Floats:
    """Mean probabilities of `members` networks for each image, from networks that saw none of its patient's images."""
    settings = Settings("cpu", "bfloat16" if processor_has_bfloat16() else "float32", torch.get_num_threads())
    probabilities = np.zeros(examples.labels_NC.shape)
    for fold in range(FOLDS):
        for member in range(members):
            own = replace(config, seed=1000 * fold + member)
            here = in_fold(examples, fold, own.seed)
            model = start_model(here, own)
            with tempfile.TemporaryDirectory() as folder:
                trained = train(
                    model, here, own, settings, Checkpoints(Storage.of(folder)), thread_feed(here, own.augment)
                )
            model.load_state_dict(trained.weights)
            rows = here.rows(TEST)
            logits = logits_of(
                model, here.pixels, rows, own.evaluation.batch_images, "cpu", settings.precision,
                tta=own.evaluation.tta,
            )  # fmt: skip
            probabilities[rows] += 1 / (1 + np.exp(-logits.astype(np.float64))) / members
    return probabilities


def linear(features: npt.NDArray[Any], examples: Examples, components: int | None) -> Floats:
    """Out-of-fold probabilities of logistic regression per class on (principal components of) features."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold_of = folds(examples.patient_ids.tolist(), FOLDS)
    found = np.zeros(examples.labels_NC.shape)
    for fold in range(FOLDS):
        train_rows, test_rows = fold_of != fold, fold_of == fold
        reduce = make_pipeline(*([PCA(components, random_state=0)] if components else []), StandardScaler()).fit(
            features[train_rows]
        )
        before, after = reduce.transform(features[train_rows]), reduce.transform(features[test_rows])
        for number in range(found.shape[1]):
            y = examples.labels_NC[train_rows, number]
            if y.sum():
                model = LogisticRegression(C=0.01 if components is None else 1.0, max_iter=2000).fit(before, y)
                found[test_rows, number] = model.predict_proba(after)[:, 1]
    return found


def lite0_features(examples: Examples) -> npt.NDArray[np.float32]:
    """Mean feature map of the frozen ImageNet network at 128 pixels."""
    own = ClassifyConfig(model=ModelConfig(backbone=LITE0_BACKBONE, weights=LITE0))
    network = start_model(replace(examples, splits=np.array([TRAIN] * len(examples), object)), own).backbone.eval()
    images = torch.from_numpy(examples.pixels.take(np.arange(len(examples)))).unsqueeze(1)
    with torch.inference_mode():
        parts = [network(part).mean((2, 3)).numpy() for part in images.split(64)]
    return np.concatenate(parts)


def pretrained_on_phantoms(folder: str) -> str:
    """A run of jobs/classify.py on 20,000 phantoms with all 39 findings; its folder."""
    command = [
        sys.executable, str(ROOT / "jobs" / "classify.py"), "--phantom.images=20000", "--phantom.classes=39",
        "--phantom.test_positives=0", "--evaluation.bootstrap=0", "--evaluation.maps=0", "--output", folder,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return folder


def recipes(phantom_run: str) -> dict[str, tuple[int, int, ClassifyConfig]]:
    """Name -> image size, members, configuration. They differ in where the backbone starts."""
    small = TrainingConfig(
        stage2_epochs=20, backbone_rate=2e-3, rate=2e-3, batch_images=32, ema=0.99, patience=100,
        checkpoint_seconds=1e9,
    )  # fmt: skip
    base = ClassifyConfig(
        training=small, loss=LossConfig(name="bce", sampling="uniform"), evaluation=EvaluationConfig(tta=True)
    )
    gentle = replace(small, stage1_epochs=3, stage2_epochs=12, backbone_rate=5e-4)
    lite0 = ModelConfig(backbone=LITE0_BACKBONE, weights=LITE0, drop_path=0.1)
    return {
        "random start": (64, 3, base),
        "phantom start": (
            64, 3, replace(base, model=replace(base.model, weights=phantom_run), training=gentle),
        ),
        "phantom start, db loss and repeated": (
            64, 3,
            replace(base, model=replace(base.model, weights=phantom_run), training=gentle, loss=LossConfig()),
        ),
        "random start, not augmented": (64, 3, replace(base, augment=STILL)),
        "ImageNet start (EfficientNet-Lite0)": (
            96, 1,
            replace(base, model=lite0, training=replace(gentle, stage2_epochs=6, precision="float32")),
        ),
    }  # fmt: skip


def figures(scored: Bootstrap, others: dict[str, Bootstrap], wanted: list[int]) -> dict[str, Any]:
    """Macro AUC with its interval, and differences to the baselines."""

    def told(interval: Any) -> list[float]:
        return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]

    return {
        "macro_auc": told(scored.interval("roc_auc", wanted)),
        "macro_ap": told(scored.interval("average_precision", wanted)),
        **{
            f"above {name}": told(paired_difference(scored, other, "roc_auc", wanted)) for name, other in others.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", help="which (default: all)")
    parser.add_argument("--keep", help="folder for the run on phantoms and each recipe's probabilities, used again")
    arguments = parser.parse_args()
    assert DATA.is_dir(), f"no {DATA.name}: this benchmark needs the real images"
    examples = examples_at(64)
    counts = examples.labels_NC.sum(0)
    wanted = [n for n, name in enumerate(examples.classes) if counts[n] >= LEAST and name != LEFT_OUT]
    sources = {"all": np.arange(len(examples))} | {
        str(name): np.flatnonzero(examples.sources == name) for name in np.unique(examples.sources.astype(str))
    }

    def scored(probabilities: Floats) -> dict[str, Bootstrap]:
        return {
            name: bootstrap(
                probabilities[rows], examples.labels_NC[rows], examples.known_NC[rows],
                examples.patient_ids[rows].tolist(), resamples=RESAMPLES, seed=0,
            )
            for name, rows in sources.items()
        }  # fmt: skip

    pixels = examples.pixels.take(np.arange(len(examples))).reshape(len(examples), -1) / np.float32(255)
    at_128 = examples_at(128)
    baselines = {
        "60 principal components": scored(linear(pixels, examples, 60)),
        "frozen EfficientNet-Lite0": scored(linear(lite0_features(at_128), examples, None)),
    }
    seconds: dict[str, float] = {}
    result: dict[str, Any] = {
        "classes": [examples.classes[n] for n in wanted],
        "baselines": {
            name: {source: figures(each, {}, wanted) for source, each in by_source.items()}
            for name, by_source in baselines.items()
        },
        "recipes": {},
    }
    sizes = {64: examples, 128: at_128}
    found: dict[str, Floats] = {}
    with tempfile.TemporaryDirectory() as temporary:
        keep = Path(arguments.keep or temporary)
        keep.mkdir(parents=True, exist_ok=True)
        for name, (size, members, config) in recipes(str(keep / "phantoms")).items():
            if arguments.recipes and name not in arguments.recipes:
                continue
            kept = keep / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.npz"
            if not kept.exists():
                if "phantom" in name:
                    pretrained_on_phantoms(str(keep / "phantoms"))
                began = time.perf_counter()
                if size not in sizes:
                    sizes[size] = examples_at(size)
                probabilities = out_of_fold(sizes[size], config, members)
                np.savez(kept, probabilities=probabilities, seconds=round(time.perf_counter() - began, 1))
            with np.load(kept) as file:
                found[name], seconds[name] = file["probabilities"], float(file["seconds"])
            print(f"# {name}: {seconds[name]} s", file=sys.stderr)
    if len(found) > 1:
        found["mean of all"] = np.mean(list(found.values()), axis=0)
    start = scored(found["random start"]) if "random start" in found else None
    for name, probabilities in found.items():
        ours = scored(probabilities)
        result["recipes"][name] = {
            "seconds": seconds.get(name),
            **{
                source: figures(
                    each,
                    {key: baselines[key][source] for key in baselines}
                    | ({"random start": start[source]} if start is not None and name != "random start" else {}),
                    wanted,
                )
                for source, each in ours.items()
            },
        }
    report("classifier_real", result)


if __name__ == "__main__":
    main()
