"""The judge of synthetic phantoms: a classifier of other phantoms than those that the generator and its gate saw.

Its patients have ids and a seed of their own, and each of the phantom's findings is common among them, so that it knows
the rare ones well. It says yes where a class is likelier than not at even odds: at the threshold that has the largest
sum of sensitivity and specificity on its own validation patients. How often it is right is measured on its test
patients.

C classes, B images, S pixels.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.classifier import Classifier, load
from raymedlt.images.phantom import FINDINGS, Finding, PhantomCohort, cohort, draw
from raymedlt.schema import TEST, TRAIN, VALIDATION
from raymedlt.seeds import keyed_seed
from raymedlt.synthesis.sampler import encode_png

ROOT = Path(__file__).resolve().parents[1]
SEED = 1_000_003
"""Of the judge's phantoms; the jobs' seeds are small numbers."""
SIZE, IMAGES, POSITIVES, EPOCHS, RATE = 64, 3_000, 700, 10, 4e-3
_SHARES = ((0.8, TRAIN), (0.9, VALIDATION), (1.0, TEST))


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier with thresholds, and how far it may be trusted."""

    classifier: Classifier
    thresholds_C: npt.NDArray[np.float64]
    sensitivity_C: npt.NDArray[np.float64]
    specificity_C: npt.NDArray[np.float64]
    images: dict[str, int]
    """Per split."""

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of its columns."""
        return self.classifier.classes

    def shows(self, images_BSS: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Whether each image shows each class, [B, C]."""
        found: npt.NDArray[np.bool_] = self.classifier.probabilities(images_BSS) >= self.thresholds_C
        return found

    def told(self) -> dict[str, Any]:
        """For the printed figures."""
        rows = zip(self.classes, self.sensitivity_C, self.specificity_C, strict=True)
        return {"images": self.images} | {name: [round(float(a), 3), round(float(b), 3)] for name, a, b in rows}


def judge_of(folder: str) -> Judge:
    """The judge of phantoms; trained in `folder` unless it is there already. Minutes."""
    table = Path(folder, "labels.csv")
    if not table.exists():
        _draw_all(folder, table)
    command = [
        sys.executable, str(ROOT / "jobs" / "classify.py"), "--images.path", f"{folder}/images",
        "--labels.path", str(table), "--images.size", str(SIZE), "--training.stage2_epochs", str(EPOCHS),
        "--training.rate", str(RATE), "--training.backbone_rate", str(RATE), "--evaluation.bootstrap", "0",
        "--evaluation.maps", "0", "--output", f"{folder}/run",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    classifier = load(f"{folder}/run", "cpu")
    thresholds_C, _, _ = _balanced(classifier, folder, VALIDATION)
    _, sensitivity_C, specificity_C = _balanced(classifier, folder, TEST, thresholds_C)
    with open(table, encoding="utf-8", newline="") as file:
        splits = [row["split"] for row in csv.DictReader(file)]
    counts = {split: splits.count(split) for _, split in _SHARES}
    return Judge(classifier, thresholds_C, sensitivity_C, specificity_C, counts)


def _draw_all(folder: str, table: Path) -> None:
    made = cohort(
        1, seed=SEED, classes=len(FINDINGS), pick="commonest", test_images=IMAGES, test_positives=POSITIVES, texts=False
    )
    ids = made.table["image_id"].to_pylist()
    jobs = [(f"{folder}/images/{name}.png", name, made.findings(row)) for row, name in enumerate(ids)]
    Path(folder, "images").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_draw_one, jobs, chunksize=64))
    _write_table(made, table)


def _draw_one(job: tuple[str, str, list[Finding]]) -> None:
    path, name, findings = job
    Path(path).write_bytes(encode_png(draw(findings, seed=SEED, image_id=name, size=SIZE)))


def _write_table(made: PhantomCohort, table: Path) -> None:
    rows = made.table.select(["image_id", "patient_id", "labels"]).to_pylist()
    with open(table.with_suffix(".tmp"), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient_id", "split", *made.classes])
        for row in rows:
            chance = keyed_seed(SEED, "judge", row["patient_id"]) / 2.0**63
            split = next(name for most, name in _SHARES if chance < most)
            shown = [int(name in row["labels"]) for name in made.classes]
            writer.writerow([f"{row['image_id']}.png", row["patient_id"], split, *shown])
    table.with_suffix(".tmp").replace(table)


def _balanced(
    classifier: Classifier, folder: str, split: str, thresholds_C: npt.NDArray[np.float64] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Thresholds (those of the largest Youden index unless given), sensitivity and specificity at them."""
    with open(Path(folder, "labels.csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    images = classifier.prepare([f"{folder}/images/{row['image']}" for row in rows])
    probabilities = classifier.probabilities(images).astype(np.float64)
    found = []
    for number, name in enumerate(classifier.classes):
        shown = np.array([row[name] == "1" for row in rows])
        own, others = np.sort(probabilities[shown, number]), np.sort(probabilities[~shown, number])
        candidates = np.unique(own) if thresholds_C is None else thresholds_C[number : number + 1]
        sensitivity = 1 - np.searchsorted(own, candidates) / len(own)
        specificity = np.searchsorted(others, candidates) / len(others)
        best = int(np.argmax(sensitivity + specificity))
        found.append((candidates[best], sensitivity[best], specificity[best]))
    columns = np.array(found).T
    return columns[0], columns[1], columns[2]
